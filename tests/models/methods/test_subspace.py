"""Method subspace against the same arithmetic written down in NumPy."""

import numpy as np
import pytest
import torch

from models.detector import NO_WINDOWS, Detector
from models.features import RAW_TOKENS
from models.matching.candidates import Masked
from models.methods.subspace import EXPLAINED, Subspace
from tests.support.tokens import noise
from utils.config import WindowConfig
from utils.errors import ModelError

SIDE, PATCH, GRID = 64, 8, 8


@pytest.fixture(scope="module")
def photos():
    return noise(5, 3, SIDE, SIDE, seed=1)


def detector_of(backbone, windows=NO_WINDOWS):
    return Detector(backbone, Subspace(backbone.width, len(backbone.layers)), SIDE, windows)


def tokens_of(backbone, image):
    """One image's tokens (N,C) float64: the mean of its blocks' as they come."""
    raw = backbone.encode(image[None], frozenset({RAW_TOKENS})).raw_tokens[:, 0]
    return raw.double().numpy().mean(0)


def fitted(normal):
    """Mean and the fewest principal directions that explain 99 % of the variance of tokens (M,C)."""
    variances, directions = np.linalg.eigh(np.cov(normal.T))
    order = np.argsort(variances)[::-1]
    share = np.cumsum(variances[order]) / variances.sum()
    fewest = int(np.argmax(share >= EXPLAINED)) + 1
    return normal.mean(0), directions[:, order[:fewest]]


def residual(query, subspace):
    """Squared length of what is left of each token (M,) outside the subspace."""
    mean, directions = subspace
    left = (query - mean) - (query - mean) @ directions @ directions.T
    return (left**2).sum(1)


def test_the_map_is_the_residual_outside_the_principal_directions(tiny_backbone, photos):
    detector = detector_of(tiny_backbone)
    detector.fit(photos[:3])
    normal = np.concatenate([tokens_of(tiny_backbone, photo) for photo in photos[:3]])
    expected = residual(tokens_of(tiny_backbone, photos[3]), fitted(normal))
    assert 0 < detector.memories.whole.directions.shape[1] == fitted(normal)[1].shape[1] < 32
    raw = detector.raw_maps(photos[3:4])
    assert raw.shape == (1, 1, GRID, GRID)
    assert raw.flatten().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    detector.method.set_scales((0.3,))
    found = detector(photos[3:4])
    assert found.base.flatten().numpy() == pytest.approx(expected / (expected + 0.3), rel=1e-4, abs=1e-6)
    assert float(found.base_score) == pytest.approx(float(found.base.max()))


def test_windows_have_a_subspace_of_their_own(tiny_backbone, photos):
    detector = detector_of(tiny_backbone, WindowConfig("mul", 4, 4))
    detector.fit(photos[:2])
    cuts = [detector.windows.grid.cut(photo, PATCH) for photo in photos[:3]]
    normal = np.concatenate([tokens_of(tiny_backbone, window) for cut in cuts[:2] for window in cut])
    expected = np.stack([residual(tokens_of(tiny_backbone, window), fitted(normal)) for window in cuts[2]])
    found = detector(photos[2:3]).window[0]
    for number, (row, column) in enumerate(detector.windows.grid.origins):
        part = found[row : row + 4, column : column + 4].flatten().numpy()
        assert part == pytest.approx(expected[number], rel=1e-4, abs=1e-6)


def test_leaving_out_a_reference_is_fitting_to_the_others(tiny_backbone, photos):
    detector, others = detector_of(tiny_backbone), detector_of(tiny_backbone)
    detector.fit(photos[:3])
    before = detector(photos[1:2]).base
    others.fit(photos[[0, 2]])
    assert torch.allclose(detector.without(1, 3)(photos[1:2]).base, others(photos[1:2]).base, atol=1e-5)
    assert torch.equal(detector(photos[1:2]).base, before)


def test_a_single_reference_is_measured_quarter_by_quarter(tiny_backbone, photos):
    detector = detector_of(tiny_backbone)
    detector.fit(photos[:1])
    places = torch.stack([torch.arange(GRID**2) // GRID, torch.arange(GRID**2) % GRID], dim=1).float()
    found = detector.raw_maps(photos[:1], Masked(places[None])).flatten().numpy()
    own = tokens_of(tiny_backbone, photos[0])
    quarter = 2 * (places[:, 0] > 3.5).numpy() + (places[:, 1] > 3.5).numpy()
    for number in range(4):
        expected = residual(own[quarter == number], fitted(own[quarter != number]))
        assert found[quarter == number] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found.mean() > detector.raw_maps(photos[:1]).mean()


def test_what_it_cannot_do_is_said(tiny_backbone, photos):
    detector = detector_of(tiny_backbone)
    with pytest.raises(ModelError, match="no references yet"):
        detector(photos[:1])
    detector.fit(photos[:2])
    loaded = detector.method.restored(detector.memories.whole.state(), torch.float32)
    assert torch.equal(loaded.residual(torch.ones(32)), detector.memories.whole.residual(torch.ones(32)))
    with pytest.raises(ModelError, match="fit it to the references again"):
        loaded.without(0, 2)
