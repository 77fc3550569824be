"""Method plus against the same arithmetic written down in NumPy."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from models.detector import NO_WINDOWS, Detector
from models.matching.candidates import UNRESTRICTED, Masked, Matching
from models.methods import plus
from models.methods.plus import BILATERAL, COMMON_MODE, SELF_DISSIMILARITY, TOP_K, Plus, bilateral, nearness
from tests.support.tokens import bank_of, noise
from utils.config import MethodConfig, WindowConfig
from utils.views import Views

SIDE, PATCH, GRID = 64, 8, 8
EXACT = {"rel": 2e-4, "abs": 1e-6}


@pytest.fixture(scope="module")
def photos():
    return noise(5, 3, SIDE, SIDE, seed=1)


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
    """The whitening that images (P,N,C) give to each other."""
    left = []
    for number, own in enumerate(photographs):
        others = [other for place, other in enumerate(photographs) if place != number]
        left.append(residuals_of(own, np.concatenate(others)))
    left = np.concatenate(left)
    values, directions = np.linalg.eigh(left.T @ left / len(left))
    return directions @ np.diag(np.sqrt(1.3 / (values / values.mean() + 0.3)))


def distances_of(query, normal, weights, common_mode=True):
    left = residuals_of(query, normal)
    if common_mode:
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
    for layer in range(len(query)):
        weights = weights_of(normal[:, layer]) if len(references) > 1 else None
        bank = np.concatenate(normal[:, layer])
        shown.append(filtered(query[layer], distances_of(query[layer], bank, weights)))
        plain = distances_of(query[layer], bank, weights, common_mode=False)
        scored.append(np.sqrt(plain * (unlikeness_of(query[layer]) + 0.2)))
    layers = scored[:-1] if len(scored) > 2 else scored
    highest = np.sort(np.mean(layers, 0))[::-1]
    return np.mean(shown, 0), highest[: int(np.ceil(0.005 * len(highest)))].mean()


@pytest.mark.parametrize("references", [1, 3])
def test_map_and_score_are_those_of_the_formulas(tiny_backbone, photos, references):
    detector = detector_of(tiny_backbone)
    detector.fit(photos[:references])
    found = detector(photos[3:5])
    for number in range(2):
        shown, score = expected(tiny_backbone, photos[:references], photos[3 + number])
        assert found.base[number].flatten().numpy() == pytest.approx(shown, **EXACT)
        assert float(found.base_score[number]) == pytest.approx(score, **EXACT)


def test_the_bilateral_filter_is_that_of_the_formula_beyond_its_reach():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(32, generator=generator) + 0.3 * torch.randn(16 * 16, 32, generator=generator)
    tokens = torch.nn.functional.normalize(tokens, dim=-1)
    distances = torch.rand(16 * 16, generator=generator)
    found = bilateral(tokens @ tokens.T, distances, nearness(16, torch.device("cpu")))
    expected = filtered(tokens.double().numpy(), distances.double().numpy())
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_score_is_the_mean_of_the_highest_patches_without_the_deepest_of_many_layers(layers):
    method = Plus(32, layers)
    maps = torch.rand(2 * layers, 3, 30, 30, generator=torch.Generator().manual_seed(2))
    _, score = method.summarise(maps)
    counted = maps[layers:][: layers - 1 if layers > 2 else layers]
    highest = counted.mean(0).flatten(1).sort(descending=True).values[:, :5]
    assert torch.allclose(score, highest.mean(1))
    method.options = MethodConfig(leave_out=(TOP_K,))
    _, score = method.summarise(maps)
    assert torch.allclose(score, counted.amax((2, 3)).mean(0))


def test_the_score_never_falls_where_the_distance_to_the_references_rises(tiny_backbone, photos):
    """All patches of an image further from every reference, in the direction that they differ already."""
    detector = detector_of(tiny_backbone, [SELF_DISSIMILARITY])
    detector.fit(photos[:2])
    memory, method = detector.memories.whole, detector.method
    query = detector.encode(Views(photos[3:4]))
    index = UNRESTRICTED.index(memory.bank, query, "mulmax")
    nearest = query.tokens - memory.bank.discrepancy(
        query.tokens.flatten(1, 2), index.flatten(1), "signed"
    ).view_as(query.tokens)
    scores = []
    for share in (0.0, 0.5, 1.0, 1.5, 2.0):
        moved = query._replace(tokens=nearest + share * (query.tokens - nearest))
        raw = method.raw_maps(moved, memory, Fixed(index)).unflatten(-1, (GRID, GRID))
        scores.append(float(method.summarise(raw)[1]))
    assert scores == sorted(scores) and scores[0] < scores[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_residuals_are_whitened_in_the_precision_of_the_tokens(dtype):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.nn.functional.normalize(torch.randn(2, 400, 24, generator=generator), dim=-1)
    memory = plus.PlusMemory.of_bank(bank_of(tokens.to(dtype), 4))
    assert memory.whitening.dtype == dtype
    residuals = tokens[:, None, :50] / 4
    whitened = plus._whitened(residuals, memory.whitening)
    assert whitened.dtype == dtype
    exact = residuals @ memory.whitening.float()[:, None]
    torch.testing.assert_close(plus._distance(whitened), plus._distance(exact), rtol=0.01, atol=0)


def test_a_uniform_image_keeps_its_distance(tiny_backbone, photos):
    """Its self-dissimilarity is zero, its score is not."""
    detector, plain = detector_of(tiny_backbone), detector_of(tiny_backbone, [SELF_DISSIMILARITY])
    for one in (detector, plain):
        one.fit(photos[:2])
    black = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    distance = float(plain(black).base_score)
    assert float(detector(black).base_score) >= 0.9 * (0.2 * distance) ** 0.5 > 0


@dataclass(frozen=True)
class Fixed(Matching):
    """The places that were found before."""

    places: torch.Tensor = None

    def index(self, bank, query, align):
        return self.places


def test_without_all_of_its_parts_it_is_nearest(tiny_backbone, photos):
    from models.methods.nearest import Nearest

    plain = Detector(tiny_backbone, Nearest(tiny_backbone.width, 2), SIDE, NO_WINDOWS)
    detector = detector_of(tiny_backbone, Plus.components)
    for one in (plain, detector):
        one.fit(photos[:2])
    assert torch.allclose(detector(photos[3:]).base, plain(photos[3:]).base, atol=1e-6)
    assert torch.allclose(detector(photos[3:]).base_score, plain(photos[3:]).base_score, atol=1e-6)


@pytest.mark.parametrize("part", Plus.components)
def test_each_part_can_be_left_out_and_does_something(tiny_backbone, photos, part):
    whole, other = detector_of(tiny_backbone), detector_of(tiny_backbone, [part])
    for one in (whole, other):
        one.fit(photos[:2])
    with_it, without_it = whole(photos[3:]), other(photos[3:])
    assert torch.equal(with_it.base, without_it.base) == (part in (SELF_DISSIMILARITY, TOP_K))
    assert torch.equal(with_it.base_score, without_it.base_score) == (part in (COMMON_MODE, BILATERAL))


@pytest.mark.parametrize("encoded", [1, 2, 5])
def test_photographs_are_counted_by_resized_windows_too(tiny_backbone, photos, encoded):
    detector = detector_of(tiny_backbone, windows=WindowConfig("mul", 4, 4, win_zip=encoded))
    detector.at_once.patches = 2 * encoded**2
    detector.fit(photos[:3])
    assert detector.memory_of("windows").bank.photographs == 3


def test_windows_have_a_memory_of_their_own(tiny_backbone, photos):
    detector = detector_of(tiny_backbone, windows=WindowConfig("mul", 4, 4))
    detector.at_once.patches = 2 * 16  # two windows at once: a photograph comes in parts
    detector.fit(photos[:2])
    assert detector.memory_of("windows").bank.photographs == 2
    cuts = [detector.windows.grid.cut(photo, PATCH) for photo in photos[:3]]
    tokens = [np.stack([tokens_of(tiny_backbone, window) for window in cut], axis=1) for cut in cuts]
    found = detector(photos[2:3]).window[0]
    for number, (row, column) in enumerate(detector.windows.grid.origins):
        maps = []
        for block in range(2):
            normal = [photo[block].reshape(-1, tokens[0].shape[-1]) for photo in tokens[:2]]
            query = tokens[2][block, number]
            maps.append(filtered(query, distances_of(query, np.concatenate(normal), weights_of(normal))))
        part = found[row : row + 4, column : column + 4].flatten().numpy()
        assert part == pytest.approx(np.mean(maps, 0), **EXACT)


def test_leaving_out_a_reference_is_fitting_the_others(tiny_backbone, photos):
    known = torch.cat([photos[:3], photos[:3].flip(-1)])[[0, 3, 1, 4, 2, 5]]  # each with a rotated copy
    detector, other = detector_of(tiny_backbone), detector_of(tiny_backbone)
    detector.fit(known)
    other.fit(known[[0, 1, 4, 5]])
    left = detector.without(1, 3)
    assert len(left.memories.whole.bank.rows()) == 4
    assert torch.allclose(left(photos[3:]).base, other(photos[3:]).base, atol=1e-6)


def test_few_tokens_are_enough_for_the_whitening(tiny_backbone, photos, monkeypatch):
    monkeypatch.setattr(plus, "SAMPLES", 1)
    detector = detector_of(tiny_backbone)
    detector.fit(photos[:2])
    every_second = detector.memories.whole.whitening
    monkeypatch.setattr(plus, "SAMPLES", 8)
    detector.fit(photos[:2])
    assert every_second.shape == detector.memories.whole.whitening.shape
    assert not torch.allclose(every_second, detector.memories.whole.whitening)


def test_a_single_reference_is_matched_elsewhere(tiny_backbone, photos):
    detector = detector_of(tiny_backbone)
    detector.fit(photos[:1])
    places = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij"), -1)
    match = Masked(places.reshape(1, -1, 2).float())
    assert float(detector(photos[:1]).base.max()) < 1e-5
    assert float(detector(photos[:1], match).base.min()) > 1e-5
