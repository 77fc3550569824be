"""The graph of a detector gives what the detector gives, whatever its method, matching and windows."""

import numpy as np
import pytest
import torch

from fdsl.scoring import image_scores
from models.detector import Detector
from models.ensemble.mutual_scoring import WithMutualScoring
from models.matching.memory_bank import nearest_index
from models.methods.registry import METHODS
from models.onnx_graph import DetectorGraph, StitchInOne, nearest_in_parts
from models.views.sliding_windows import WindowGrid
from tests.support.tokens import noise
from utils.config import MethodConfig, WindowConfig
from utils.errors import ModelError
from utils.views import Views

SIDE = 64


def made(backbone, name, windows, references=2, lay=(), **options):
    """A detector of random heads fitted to random photographs."""
    torch.manual_seed(0)
    chosen = MethodConfig(**options)
    heads = METHODS["fdsl"].load()(32, 2, chosen).state_dict()
    detector = Detector(backbone, METHODS[name].load().of_heads(32, 2, chosen, heads), SIDE, windows)
    detector.lay_tiles(lay)
    tiles = torch.stack([pictures(references, 6 + n) for n in range(4)], 1) if lay else None
    detector.fit(Views(pictures(references, 5 if lay else 1), tiles))
    if detector.method.scales:
        detector.method.set_scales([0.1] * len(detector.method.scales))
    return detector


def pictures(count, seed=2):
    return noise(count, 3, SIDE, SIDE, seed=seed)


@pytest.fixture
def pixels():
    return pictures(3)


WINDOWS = [
    WindowConfig("nan"),
    WindowConfig("mul", 4, 3, 0.3),
    WindowConfig("onlywin", 4, 2, index_memory="1"),
    WindowConfig("mul", 4, 2, index_memory="window"),
    WindowConfig("mul", 4, 3, window_memory="image"),
]


@pytest.mark.parametrize(
    "windows", WINDOWS, ids=lambda one: f"{one.winmode}-{one.index_memory}-{one.window_memory}"
)
@pytest.mark.parametrize("align", ("mulmax", "diff2"))
@pytest.mark.parametrize("method", ("nearest", "fdsl", "both", "subspace", "plus"))
@torch.no_grad()
def test_the_graph_gives_what_the_detector_gives(tiny_backbone, pixels, method, align, windows, monkeypatch):
    monkeypatch.setattr("models.onnx_graph.SIMILARITY_VALUES", 3000)  # banks are compared in several parts
    monkeypatch.setattr("models.matching.candidates.PICKS", 3)
    detector = made(tiny_backbone, method, windows, align=align)
    found = detector(pixels)
    maps, scores = found.fused(windows)
    wanted = [maps, scores, found.base_score, found.window_score]
    graph = DetectorGraph(detector, "max")
    given = graph(pixels)
    assert len(given) == len(graph.outputs) == (3 if windows.winmode == "nan" else 4)
    for ours, theirs in zip(wanted, given):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert maps.std() > 1e-3  # there is something to compare


@pytest.mark.parametrize("method", ("nearest", "both", "plus"))
@torch.no_grad()
def test_tiles_are_part_of_the_graph(tiny_backbone, pixels, method):
    windows = WindowConfig("nan", tiles=2)
    detector = made(tiny_backbone, method, windows, lay=[(120, 90)])
    assert len(detector.layout) == 4
    views = torch.stack([pictures(5, seed) for seed in (3, 4)])
    wanted = detector(Views(views[:, 0], views[:, 1:]))
    for ours, theirs in zip((wanted.base, wanted.base_score), DetectorGraph(detector, "max")(views)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_resized_windows_are_refused(tiny_backbone):
    detector = made(tiny_backbone, "nearest", WindowConfig("mul", 4, 3, win_zip=3))
    with pytest.raises(ModelError, match="resizes its windows cannot be exported: leave --win-zip out"):
        DetectorGraph(detector, "max")


@torch.no_grad()
def test_top1_is_the_mean_of_the_highest_patches(tiny_backbone, pixels):
    detector = made(tiny_backbone, "nearest", WINDOWS[0])
    maps, score, *_ = DetectorGraph(detector, "top1")(pixels)
    wanted = image_scores(maps.numpy(), np.zeros(3, np.float32), "top1")
    np.testing.assert_allclose(score.numpy(), wanted, rtol=1e-6)


@torch.no_grad()
def test_heads_without_references_are_a_graph_too(tiny_backbone, pixels):
    detector = made(tiny_backbone, "fdsl", WINDOWS[1], fd="none")
    torch.testing.assert_close(
        DetectorGraph(detector, "max")(pixels)[0], detector(pixels).fused(WINDOWS[1])[0], rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("align", ("mulmax", "diff2"))
def test_of_equal_tokens_the_first_is_nearest(align):
    """In whole numbers, whose products are exact whatever their order."""
    bank = torch.randint(-9, 10, (40, 4)).float().repeat(2, 1)
    query = torch.randint(-9, 10, (2, 30, 4)).float()
    wanted = nearest_index(query.flatten(0, 1), bank, align).view(2, 30)
    for step in (1, 7, 40, 100):
        assert torch.equal(nearest_in_parts(query, bank, align, step), wanted)


@pytest.mark.parametrize("grid, size, stride", ((8, 4, 3), (9, 4, 1), (7, 7, 2), (10, 3, 3)))
def test_windows_are_stitched_as_one_after_the_other(grid, size, stride):
    windows = WindowGrid(grid, size, stride)
    maps = torch.rand(2, 3, len(windows), size * size)
    wanted = windows.stitch(maps.unflatten(-1, (size, size)))
    torch.testing.assert_close(StitchInOne(windows)(maps), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "method, options, windows, words",
    (
        ("nearest", {}, WindowConfig("mul", 4, 2, window_budget=3), "leave --window-budget out"),
        ("batch", {}, WindowConfig("nan"), "leave --with-batch or --method batch out"),
        ("nearest", {"with_batch": True}, WindowConfig("nan"), "leave --with-batch"),
        ("text", {}, WindowConfig("nan"), "with text cannot be exported"),
    ),
)
def test_what_cannot_be_a_graph_is_refused(tiny_backbone, method, options, windows, words):
    made = METHODS[method].load().of_heads(32, 2, MethodConfig(**options), None)
    made = WithMutualScoring(made) if options else made
    with pytest.raises(ModelError, match=words) as raised:
        DetectorGraph(Detector(tiny_backbone, made, SIDE, windows), "max")
    assert str(raised.value).count(". ") == 0 and str(raised.value).endswith(".")


def test_a_detector_in_bfloat16_is_refused(tiny_configs):
    from tests.support.backbones import backbone_of

    backbone = backbone_of("ViT-tiny-test", "none", [1, 3], torch.bfloat16, tiny_configs)
    detector = Detector(backbone, METHODS["nearest"].load()(32, 2), SIDE)
    with pytest.raises(ModelError, match="made in bfloat16 .* --precision fp32"):
        DetectorGraph(detector, "max")
