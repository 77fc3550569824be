"""Method plus against the same arithmetic written down in NumPy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from models.detector import NO_WINDOWS, Detector
from models.matching import Elsewhere
from models.methods import plus
from models.methods.plus import BILATERAL, CALM, EARLY_SCORE, SELF, SMOOTH, SPREAD, TOP, Plus
from utils.config import MethodConfig, WindowConfig
from utils.errors import ModelError

SIDE, PATCH, GRID = 64, 8, 8
EXACT = {"rel": 2e-4, "abs": 1e-6}


@pytest.fixture(scope="module")
def photos():
    return torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def detector_of(backbone, leave_out=(), windows=NO_WINDOWS):
    options = MethodConfig(leave_out=tuple(leave_out))
    return Detector(backbone, Plus(backbone.width, len(backbone.layers), options), SIDE, windows)


def tokens_of(backbone, image):
    """One image's tokens of each block (L,N,C) float64."""
    return backbone.encode(image[None]).tokens[:, 0].double().numpy()


def residuals_of(query, normal):
    """What is left of each token of (N,C) when its nearest of (M,C) is taken away."""
    return np.stack([token - normal[np.argmax(normal @ token)] for token in query])


def weights_of(photographs):
    """The matrix of directions that photographs (P,N,C) give to each other."""
    left = []
    for number, own in enumerate(photographs):
        others = [other for place, other in enumerate(photographs) if place != number]
        left.append(residuals_of(own, np.concatenate(others)))
    left = np.concatenate(left)
    values, directions = np.linalg.eigh(left.T @ left / len(left))
    return directions @ np.diag(np.sqrt(1.3 / (values / values.mean() + 0.3)))


def distances_of(query, normal, weights, calm=True):
    left = residuals_of(query, normal)
    if calm:
        order = np.argsort((left**2).sum(1))
        left = left - left[order[: len(left) // 2]].mean(0)
    return ((left if weights is None else left @ weights) ** 2).sum(1) / 4


def unlikeness_of(query):
    """Half the mean cosine distance of each token to the 5 nearest of its photograph, neighbours barred."""
    side, found = int(len(query) ** 0.5), []
    for place, token in enumerate(query):
        rows, columns = np.divmod(np.arange(len(query)), side)
        far = (abs(rows - place // side) > 1) | (abs(columns - place % side) > 1)
        likeness = np.sort((query @ token)[far])[::-1][:5]
        found.append((1 - likeness.mean()) / 2)
    return np.array(found)


def filtered(query, distances):
    """Eight times: each distance, or the mean of those around with like tokens (N,C) where that is larger."""
    side = int(len(query) ** 0.5)
    rows, columns = np.divmod(np.arange(len(query)), side)
    for _ in range(8):
        before = distances.copy()
        for place, token in enumerate(query):
            apart = (rows - place // side) ** 2 + (columns - place % side) ** 2
            weights = np.exp(-apart / (2 * 3.0**2)) * np.exp((query @ token - 1) / 0.1)
            weights[apart > 9**2] = 0
            distances[place] = max(before[place], (weights * before).sum() / weights.sum())
    return distances


def expected(backbone, references, image):
    """The map (N,) and the score of an image, all parts of the method at work."""
    shown, scored = [], []
    query = tokens_of(backbone, image)
    normal = np.stack([tokens_of(backbone, reference) for reference in references])
    for block in range(len(query)):
        weights = weights_of(normal[:, block]) if len(references) > 1 else None
        distances = distances_of(query[block], np.concatenate(normal[:, block]), weights)
        shown.append(filtered(query[block], distances.copy()))
        scored.append(np.sqrt(distances * unlikeness_of(query[block])))
    highest = np.sort(np.average(scored, 0, np.arange(len(scored), 0, -1)))[::-1]
    shown = gaussian_filter(np.mean(shown, 0).reshape(GRID, GRID), 0.5, mode="nearest").flatten()
    return shown, highest[: int(np.ceil(0.005 * len(highest)))].mean()


@pytest.mark.parametrize("references", [1, 3])
def test_map_and_score_are_those_of_the_formulas(tiny_backbone, photos, references):
    detector = detector_of(tiny_backbone)
    detector.remember(photos[:references])
    found = detector(photos[3:5])
    for number in range(2):
        shown, score = expected(tiny_backbone, photos[:references], photos[3 + number])
        assert found.base[number].flatten().numpy() == pytest.approx(shown, **EXACT)
        assert float(found.base_score[number]) == pytest.approx(score, **EXACT)


def test_the_bilateral_filter_is_that_of_the_formula_beyond_its_reach():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(32, generator=generator) + 0.3 * torch.randn(2, 1, 16 * 16, 32, generator=generator)
    tokens = torch.nn.functional.normalize(tokens, dim=-1)
    distances = torch.rand(2, 1, 16 * 16, generator=generator)
    found = plus.bilateral(tokens, distances)
    for block in range(2):
        expected = filtered(tokens[block, 0].double().numpy(), distances[block, 0].double().numpy())
        assert found[block, 0].numpy() == pytest.approx(expected, rel=1e-5)


def test_the_score_is_the_mean_of_the_highest_patches(tiny_backbone):
    method = Plus(tiny_backbone.width, 2)
    maps = torch.rand(4, 3, 30, 30, generator=torch.Generator().manual_seed(2))
    _, score = method.summarise(maps)
    weighed = (2 * maps[2] + maps[3]) / 3
    highest = weighed.flatten(1).sort(descending=True).values[:, :5]
    assert torch.allclose(score, highest.mean(1))
    method.options = MethodConfig(leave_out=(TOP,))
    _, score = method.summarise(maps)
    assert torch.allclose(score, (2 * maps[2].amax((1, 2)) + maps[3].amax((1, 2))) / 3)


def test_without_all_of_its_parts_it_is_nearest(tiny_backbone, photos):
    from models.methods.nearest import Nearest

    plain = Detector(tiny_backbone, Nearest(tiny_backbone.width, 2), SIDE, NO_WINDOWS)
    detector = detector_of(tiny_backbone, Plus.parts)
    for one in (plain, detector):
        one.remember(photos[:2])
    assert torch.allclose(detector(photos[3:]).base, plain(photos[3:]).base, atol=1e-6)
    assert torch.allclose(detector(photos[3:]).base_score, plain(photos[3:]).base_score, atol=1e-6)


@pytest.mark.parametrize("part", [CALM, SPREAD, SELF, SMOOTH, TOP, BILATERAL, EARLY_SCORE])
def test_each_part_can_be_left_out_and_does_something(tiny_backbone, photos, part):
    whole, other = detector_of(tiny_backbone), detector_of(tiny_backbone, [part])
    for one in (whole, other):
        one.remember(photos[:2])
    with_it, without_it = whole(photos[3:]), other(photos[3:])
    assert torch.equal(with_it.base, without_it.base) == (part in (SELF, TOP, EARLY_SCORE))
    assert torch.allclose(with_it.base_score, without_it.base_score) == (part in (SMOOTH, BILATERAL))


@pytest.mark.parametrize("encoded", [1, 2, 5])
def test_photographs_are_counted_by_resized_windows_too(tiny_backbone, photos, encoded):
    detector = detector_of(tiny_backbone, windows=WindowConfig("mul", 4, 4, win_zip=encoded))
    detector.at_once.patches = 2 * encoded**2
    detector.remember(photos[:3])
    assert detector.window_memory.bank.photographs == 3


def test_windows_have_a_memory_of_their_own(tiny_backbone, photos):
    detector = detector_of(tiny_backbone, [SMOOTH], WindowConfig("mul", 4, 4))
    detector.at_once.patches = 2 * 16  # two windows at once: a photograph comes in parts
    detector.remember(photos[:2])
    assert detector.window_memory.bank.photographs == 2
    cuts = [detector.windows.cut(photo, PATCH) for photo in photos[:3]]
    tokens = [np.stack([tokens_of(tiny_backbone, window) for window in cut], axis=1) for cut in cuts]
    found = detector(photos[2:3]).window[0]
    for number, (row, column) in enumerate(detector.windows.origins):
        maps = []
        for block in range(2):
            normal = [photo[block].reshape(-1, tokens[0].shape[-1]) for photo in tokens[:2]]
            query = tokens[2][block, number]
            maps.append(filtered(query, distances_of(query, np.concatenate(normal), weights_of(normal))))
        part = found[row : row + 4, column : column + 4].flatten().numpy()
        assert part == pytest.approx(np.mean(maps, 0), **EXACT)


def test_leaving_out_a_reference_is_remembering_the_others(tiny_backbone, photos):
    known = torch.cat([photos[:3], photos[:3].flip(-1)])[[0, 3, 1, 4, 2, 5]]  # each with a turned copy
    detector, other = detector_of(tiny_backbone), detector_of(tiny_backbone)
    detector.remember(known)
    other.remember(known[[0, 1, 4, 5]])
    left = detector.without(1, 3)
    assert left.memory.bank.photographs == 4
    assert torch.allclose(left(photos[3:]).base, other(photos[3:]).base, atol=1e-6)


def test_few_tokens_are_enough_for_the_directions(tiny_backbone, photos, monkeypatch):
    monkeypatch.setattr(plus, "SPREAD_TOKENS", 64)
    detector = detector_of(tiny_backbone)
    detector.remember(photos[:2])
    every_second = detector.memory.weights
    monkeypatch.setattr(plus, "SPREAD_TOKENS", 128)
    detector.remember(photos[:2])
    assert every_second.shape == detector.memory.weights.shape
    assert not torch.allclose(every_second, detector.memory.weights)


def test_a_single_reference_is_matched_elsewhere(tiny_backbone, photos):
    detector = detector_of(tiny_backbone)
    detector.remember(photos[:1])
    places = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij"), -1)
    match = Elsewhere(places.reshape(1, -1, 2).float())
    assert float(detector(photos[:1]).base.max()) < 1e-5
    assert float(detector(photos[:1], match).base.min()) > 1e-5


def test_what_is_no_part_is_refused():
    with pytest.raises(ModelError, match="heads does not go with --method plus.*calm"):
        Plus.refuse_other_parts(MethodConfig(leave_out=("heads",)))
