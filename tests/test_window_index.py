"""Fast matching of windows: against the plain path where nothing is left out, and what it may leave out otherwise."""

import pytest
import torch

import plain
from models import window_index
from models.detector import Detector, WindowSettings
from models.held_out import left_out
from models.memory import ALIGNMENTS, MemoryBank
from models.window_index import WindowIndex
from test_detector import PATCH, SIDE, encoders, photos, trained_like  # noqa: F401 (photos is a fixture)


@pytest.fixture
def all_dimensions(monkeypatch):
    """Every direction is kept: then only the picks decide, and the result is exact within them."""
    monkeypatch.setattr(window_index, "FEWER", 1)


@pytest.mark.parametrize("picks", [1, 3, 99])
@pytest.mark.parametrize("align", ALIGNMENTS)
def test_each_window_is_matched_within_its_own_picks(tiny_backbone, photos, monkeypatch, all_dimensions, align, picks):  # noqa: F811
    monkeypatch.setattr(window_index, "PICKS", picks)
    detector = Detector(tiny_backbone, trained_like(), SIDE, align=align, windows=WindowSettings("mul", 4, 4, 0.5, "window"))
    detector.remember(photos[:2])
    encode = encoders(tiny_backbone)[0]
    gallery = [window for photo in photos[:2] for window in detector.windows.cut(photo, PATCH)]
    middle = torch.cat([encode(window) for window in gallery], dim=1).mean(1)

    def alike(one: torch.Tensor, other: torch.Tensor) -> float:
        return sum(float(torch.nn.functional.cosine_similarity(left.mean(0) - mean, right.mean(0) - mean, dim=0))
                   for left, right, mean in zip(encode(one), encode(other), middle))

    expected = []
    for window in detector.windows.cut(photos[2], PATCH):
        order = torch.tensor([alike(window, other) for other in gallery]).argsort(descending=True)[:picks]
        own = torch.cat([encode(gallery[number]) for number in order], dim=1)
        pairs = zip(detector.heads.heads, encode(window), own)
        expected.append(torch.stack([plain.raw_map(head, (query - normal[plain.nearest(query, normal, align)]).abs())
                                     for head, query, normal in pairs]))
    found = detector._score_windows(photos[2], None).flatten(2)
    assert torch.allclose(found, torch.stack(expected, dim=1), atol=1e-5)


def structured(windows, patches=9, width=64, seed=0, decay=0.8):
    """Tokens (2,windows*patches,width) of length 1 that lie, as real ones do, mostly in a few directions."""
    generator = torch.Generator().manual_seed(seed)
    scale = decay ** torch.arange(width)
    tokens = torch.randn(2, windows * patches, width, generator=generator) * scale
    return torch.nn.functional.normalize(tokens, dim=-1)


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_dimensions_find_nearly_the_nearest(align, dtype):
    bank = MemoryBank(structured(60).to(dtype))
    query = structured(8, seed=1).to(dtype)
    found = WindowIndex(bank, 9, align).match(query.unflatten(1, (8, 9))).flatten(1)
    exact = bank.index(query, align)
    near, nearest, any_one = (bank.discrepancy(query, align, "abs", index).norm(dim=-1) for index in (found, exact, exact.flip(1)))
    assert (found == exact).float().mean() > 0.9
    assert (near - nearest).mean() < 0.01 * (any_one - nearest).mean()


def test_contenders_are_compared_in_all_dimensions(monkeypatch):
    """With as many contenders as windows the few dimensions only choose within a window."""
    bank, query = MemoryBank(structured(20, decay=0.95)), structured(4, seed=1, decay=0.95)
    exact, losses = bank.index(query), []
    for contenders in (1, 20):
        monkeypatch.setattr(window_index, "CONTENDERS", contenders)
        index = WindowIndex(bank, 9, "mulmax").match(query.unflatten(1, (4, 9))).flatten(1)
        losses.append((index != exact).float().mean())
    assert losses[1] < losses[0] / 2


def test_an_index_without_one_reference_knows_nothing_of_its_windows(tiny_backbone, photos, all_dimensions):  # noqa: F811
    detector = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowSettings("mul", 4, 4, 0.5, "window"))
    detector.remember(photos[:2])
    with left_out(detector, 0, 2):
        alone = detector(photos[:1])
        assert len(detector.window_index.keys) == 4 and len(detector.window_index.low[0]) == 4 * 16
    other = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowSettings("mul", 4, 4, 0.5, "window"))
    other.remember(photos[1:2])
    assert torch.allclose(alone.window, other(photos[:1]).window, atol=1e-5)
    assert detector(photos[:1]).window_score < alone.window_score            # it knows itself again
