"""The detector against the plain path, and the properties its users rely on."""

import pytest
import torch

import plain
from models import memory
from models.backbone import ModelError
from models.detector import Detector, WindowSettings, fuse
from models.fdsl import FDSL, FD_MODES
from models.memory import ALIGNMENTS, nearest_index, nearest_tokens
from models.windows import WindowGrid, window_origins

SIDE, PATCH = 64, 8


def trained_like(seed=3):
    """Heads whose BatchNorm statistics and weights are away from their initial values."""
    torch.manual_seed(seed)
    heads = FDSL(32, 2)
    for _ in range(3):
        heads.train()(torch.rand(2, 2, 64, 32))
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return heads.eval()


@pytest.fixture(scope="module")
def photos():
    return torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def encoders(backbone):
    return (lambda image: backbone.encode(image[None]).tokens[:, 0],
            lambda image: backbone.encode(image[None], embedding=True).embedding[0])


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("fd", FD_MODES)
def test_full_image_equals_the_plain_path(tiny_backbone, photos, align, fd):
    heads = trained_like()
    detector = Detector(tiny_backbone, heads, SIDE, fd, align)
    detector.remember(photos[:2])
    maps = detector.full_maps(photos[2:3])
    raw, refined = plain.full_maps(encoders(tiny_backbone)[0], heads, photos[2], [] if fd == "none" else photos[:2], align, fd)
    assert torch.allclose(maps.raw[:, 0], raw, atol=1e-5) and torch.allclose(maps.refined[:, 0], refined, atol=1e-5)
    found = detector(photos[2:3])
    assert torch.allclose(found.base[0], refined.mean(0), atol=1e-5)
    assert torch.allclose(found.base_score[0], refined.flatten(1).amax(1).mean(), atol=1e-5)


@pytest.mark.parametrize("size, stride, index", [(4, 2, False), (4, 2, True), (3, 2, False), (5, 4, True), (8, 1, False)])
def test_windows_equal_the_plain_path(tiny_backbone, photos, size, stride, index):
    heads = trained_like()
    detector = Detector(tiny_backbone, heads, SIDE, windows=WindowSettings("mul", size, stride, 0.3, index))
    detector.remember(photos[:2])
    maps = detector.window_maps(photos[2:3])
    raw, refined = plain.window_maps(*encoders(tiny_backbone), heads, photos[2], photos[:2], size, stride, PATCH, index=index)
    assert torch.allclose(maps.raw[:, 0], raw, atol=1e-5) and torch.allclose(maps.refined[:, 0], refined, atol=1e-5)


def test_a_batch_scores_like_single_images(tiny_backbone, photos):
    detector = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowSettings("mul", 4, 3, 0.5, True))
    detector.remember(photos[:2])
    together = detector(photos[2:])
    alone = [detector(photo[None]) for photo in photos[2:]]
    for part, singles in zip(together, zip(*alone)):
        assert torch.allclose(part, torch.cat(singles), atol=1e-6)


def test_remembering_another_category_forgets_the_first(tiny_backbone, photos):
    detector = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowSettings("mul", 4, 4))
    detector.remember(photos[:2])
    first = detector(photos[4:])
    detector.remember(photos[2:4])
    assert not torch.allclose(detector(photos[4:]).base, first.base)
    detector.remember(photos[:2])
    assert torch.equal(detector(photos[4:]).window, first.window)


def test_a_reference_shown_again_has_no_discrepancy(tiny_backbone, photos):
    detector = Detector(tiny_backbone, trained_like(), SIDE)
    detector.remember(photos[:1])
    tokens = tiny_backbone.encode(photos[:1]).tokens
    assert detector._discrepancy(tokens, detector.bank.tokens).max() < 1e-6


def test_without_nam_the_raw_maps_decide(tiny_backbone, photos):
    heads = trained_like()
    with_nam, without = Detector(tiny_backbone, heads, SIDE), Detector(tiny_backbone, heads, SIDE, use_nam=False)
    for detector in (with_nam, without):
        detector.remember(photos[:1])
    assert torch.equal(without(photos[1:2]).base, without.full_maps(photos[1:2]).raw.mean(0))
    assert not torch.allclose(with_nam(photos[1:2]).base, without(photos[1:2]).base)


def test_what_cannot_work_is_refused(tiny_backbone, photos):
    with pytest.raises(ModelError, match="use the backbone they were trained on"):
        Detector(tiny_backbone, FDSL(48, 2), SIDE)
    with pytest.raises(ModelError, match="--win-size 9 does not fit a grid of 8"):
        Detector(tiny_backbone, FDSL(32, 2), SIDE, windows=WindowSettings("mul", 9, 2))
    detector = Detector(tiny_backbone, FDSL(32, 2), SIDE)
    with pytest.raises(ModelError, match="remember"):
        detector(photos)
    with pytest.raises(ModelError, match="no reference"):
        detector.remember(photos[:0])


def test_fusion():
    base, window = torch.tensor([0.2, 0.8]), torch.tensor([0.4, 0.4])
    assert torch.equal(fuse(base, None, 0.5, "nan"), base) and torch.equal(fuse(base, window, 0.5, "onlywin"), window)
    assert torch.allclose(fuse(base, window, 0.25, "mul"), torch.tensor([0.25, 0.7]))


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matching_in_chunks_equals_one_by_one(monkeypatch, align, dtype):
    generator = torch.Generator().manual_seed(0)
    query, bank = (torch.randn(rows, 24, generator=generator).to(dtype) for rows in (50, 70))
    expected = plain.nearest(query.float(), bank.float(), align)
    for size in (1, 70 * 4 * 7, 2**30):
        monkeypatch.setattr(memory, "SIMILARITY_BYTES", size)
        assert torch.equal(nearest_index(query, bank, align), expected)
    assert torch.equal(nearest_tokens(query[None], bank[None], align)[0], bank[expected])


def test_alignments_agree_on_normalised_tokens():
    query, bank = (torch.nn.functional.normalize(torch.randn(rows, 16), dim=-1) for rows in (200, 300))
    assert torch.equal(nearest_index(query, bank, "mulmax"), nearest_index(query, bank, "diff2"))


def test_windows_cover_every_patch_whatever_the_size_and_stride():
    for grid in range(1, 15):
        for size in range(1, grid + 1):
            for stride in range(1, size + 1):
                origins = window_origins(grid, size, stride)
                assert origins == sorted(set(origins)) and origins[0] == 0 and origins[-1] == grid - size
                assert {patch for start in origins for patch in range(start, start + size)} == set(range(grid))
                assert all(b - a <= stride for a, b in zip(origins, origins[1:]))
    assert len(WindowGrid(37, 13, 2)) == 169


@pytest.mark.parametrize("size, stride", [(0, 1), (6, 1), (3, 0), (3, 4)])
def test_windows_that_do_not_fit_are_refused(size, stride):
    with pytest.raises(ValueError, match="--win-s"):
        window_origins(5, size, stride)


def test_stitching_averages_overlaps():
    windows = WindowGrid(7, 4, 2)
    values = torch.rand(2, len(windows), 4, 4)
    total, count = torch.zeros(2, 7, 7), torch.zeros(7, 7)
    for number, (row, column) in enumerate(windows.origins):
        total[:, row:row + 4, column:column + 4] += values[:, number]
        count[row:row + 4, column:column + 4] += 1
    assert torch.allclose(windows.stitch(values), total / count, atol=1e-6)
    assert torch.allclose(windows.stitch(torch.full((1, len(windows), 4, 4), 0.3)), torch.full((1, 7, 7), 0.3))


def test_cutting_takes_the_right_pixels():
    image = torch.arange(3 * 56 * 56.).view(3, 56, 56)
    windows = WindowGrid(7, 4, 2)
    cut = windows.cut(image, PATCH)
    row, column = windows.origins[5]
    assert torch.equal(cut[5], image[:, row * 8:row * 8 + 32, column * 8:column * 8 + 32])
