"""The detector against the plain path, and the properties its users rely on."""

import dataclasses

import pytest
import torch

from models.backbone import normalise
from models.detector import Detector
from models.features import EMBEDDING, Features, ScoreMaps, fuse
from models.matching import memory_bank as memory
from models.matching.candidates import UNRESTRICTED, PerWindowTopK, discrepancy_of
from models.matching.memory_bank import MemoryBank, nearest_index, nearest_of
from models.methods.both import Both
from models.methods.fdsl import Fdsl
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from models.methods.subspace import Subspace
from models.views.sliding_windows import WindowGrid, window_origins
from tests.support import plain
from tests.support.backbones import backbone_of
from tests.support.detectors import raw_window_maps
from tests.support.tokens import bank_of, noise, unit_tokens
from utils.config import ALIGNMENTS, FD_MODES, INDEX_MEMORIES, QUARTER, MethodConfig, WindowConfig
from utils.errors import ModelError

SIDE, PATCH = 64, 8


def trained_like(seed=3, **options):
    """Heads whose BatchNorm statistics and weights are away from their initial values."""
    torch.manual_seed(seed)
    method = Fdsl(32, 2, MethodConfig(**options), with_nam=True)
    for _ in range(3):
        plain.maps_of_all_heads(method.train(), torch.rand(2, 2, 64, 32))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return method.eval()


@pytest.fixture(scope="module")
def photos():
    return noise(5, 3, SIDE, SIDE, seed=1)


def normalised(backbone, photos):
    """As the plain path takes them."""
    return normalise(photos, backbone.mean, backbone.std)


def encoders(backbone):
    return (
        lambda image: backbone.encode_normalised(image[None]).tokens[:, 0],
        lambda image: backbone.encode_normalised(image[None], frozenset({EMBEDDING})).embedding[0],
    )


@pytest.mark.parametrize("method", [Nearest, Plus, Subspace, lambda width, layers: trained_like()])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_that_cannot_tell_patches_apart_is_refused(tiny_backbone, photos, monkeypatch, method, layer):
    """As that of a backbone whose position table and first weights are all zero."""
    detector = Detector(tiny_backbone, method(32, 2), SIDE)
    detector.fit(photos[:2])
    encode = tiny_backbone.encode

    def of_zeros(*args):
        found = encode(*args)
        found.tokens[layer] = found.tokens[layer, :, :1] + 1e-6 * torch.rand(found.tokens.shape[1:])
        return found

    monkeypatch.setattr(tiny_backbone, "encode", of_zeros)
    with pytest.raises(ModelError, match="all patches of the references the same features"):
        Detector(tiny_backbone, method(32, 2), SIDE).fit(photos[:2])


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("fd", FD_MODES)
def test_full_image_equals_the_plain_path(tiny_backbone, photos, align, fd):
    method = trained_like(fd=fd, align=align)
    detector = Detector(tiny_backbone, method, SIDE)
    detector.fit(photos[:2])
    maps = method.maps_of(detector.raw_maps(photos[2:3]))
    images = normalised(tiny_backbone, photos)
    raw, refined = plain.full_maps(
        encoders(tiny_backbone)[0], method, images[2], [] if fd == "none" else images[:2], align, fd
    )
    assert torch.allclose(maps.raw[:, 0], raw, atol=1e-5) and torch.allclose(
        maps.refined[:, 0], refined, atol=1e-5
    )
    found = detector(photos[2:3])
    assert torch.allclose(found.base[0], refined.mean(0), atol=1e-5)
    assert torch.allclose(found.base_score[0], refined.flatten(1).amax(1).mean(), atol=1e-5)


@pytest.mark.parametrize(
    "size, stride, index", [(4, 2, "0"), (4, 2, "1"), (3, 2, "0"), (5, 4, "1"), (8, 1, "0")]
)
def test_windows_equal_the_plain_path(tiny_backbone, photos, size, stride, index):
    method = trained_like()
    detector = Detector(
        tiny_backbone, method, SIDE, windows=WindowConfig("mul", size, stride, 0.3, index_memory=index)
    )
    detector.fit(photos[:2])
    maps = method.maps_of(raw_window_maps(detector, photos[2:3]))
    images = normalised(tiny_backbone, photos)
    raw, refined = plain.window_maps(
        *encoders(tiny_backbone), method, images[2], images[:2], size, stride, PATCH, index=index == "1"
    )
    assert torch.allclose(maps.raw[:, 0], raw, atol=1e-5) and torch.allclose(
        maps.refined[:, 0], refined, atol=1e-5
    )


@pytest.mark.parametrize("size, stride, encoded, index", [(4, 2, 3, "0"), (4, 3, 6, "1"), (3, 2, 1, "0")])
def test_resized_windows_equal_the_plain_path(tiny_backbone, photos, size, stride, encoded, index):
    method = trained_like()
    settings = WindowConfig("mul", size, stride, 0.3, index_memory=index, win_zip=encoded)
    detector = Detector(tiny_backbone, method, SIDE, windows=settings)
    detector.fit(photos[:2])
    maps = method.maps_of(raw_window_maps(detector, photos[2:3]))
    images = normalised(tiny_backbone, photos)
    raw, refined = plain.window_maps(
        *encoders(tiny_backbone),
        *(method, images[2], images[:2], size, stride, PATCH),
        index=index == "1",
        encoded=encoded,
    )
    assert torch.allclose(maps.raw[:, 0], raw, atol=1e-5)
    assert torch.allclose(maps.refined[:, 0], refined, atol=1e-5)
    as_they_are = Detector(
        tiny_backbone, method, SIDE, windows=WindowConfig("mul", size, stride, 0.3, index_memory=index)
    )
    as_they_are.fit(photos[:2])
    assert not torch.allclose(as_they_are(photos[2:3]).window, detector(photos[2:3]).window, atol=1e-4)


def test_each_patch_of_a_resized_window_knows_where_it_lies():
    """The patch of the image under its middle; of windows as they are, every patch in order."""
    grid = WindowGrid(10, 4, 3, 2)
    assert grid.seen[0].tolist() == [11, 13, 31, 33] and grid.seen[1].tolist() == [14, 16, 34, 36]
    larger = WindowGrid(10, 2, 2, 4)
    assert larger.seen[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 10, 10, 11, 11, 10, 10, 11, 11]
    usual = WindowGrid(10, 4, 3)
    assert torch.equal(usual.seen, usual.patches)


@pytest.mark.parametrize("size, stride", [(4, 2), (3, 3)])
def test_windows_can_be_matched_with_whole_images(tiny_backbone, photos, size, stride):
    """The references are encoded once, and the memory is made once."""
    method = trained_like()
    settings = WindowConfig("mul", size, stride, 0.3, window_memory="image")
    detector = Detector(tiny_backbone, method, SIDE, windows=settings)
    detector.fit(photos[:2])
    assert detector.memory_of("windows") is detector.memories.whole
    maps = method.maps_of(raw_window_maps(detector, photos[2:3]))
    images = normalised(tiny_backbone, photos)
    raw, refined = plain.window_maps(
        *encoders(tiny_backbone), method, images[2], images[:2], size, stride, PATCH, whole=True
    )
    assert torch.allclose(maps.raw[:, 0], raw, atol=1e-5)
    assert torch.allclose(maps.refined[:, 0], refined, atol=1e-5)
    other = Detector(tiny_backbone, method, SIDE, windows=settings)
    other.fit(photos[1:2])
    left = detector.without(0, 2)(photos[2:3]).window
    assert torch.allclose(left, other(photos[2:3]).window, atol=1e-5)


@pytest.mark.parametrize("index", INDEX_MEMORIES)
def test_a_batch_scores_like_single_images(tiny_backbone, photos, index):
    detector = Detector(
        tiny_backbone, trained_like(), SIDE, windows=WindowConfig("mul", 4, 3, 0.5, index_memory=index)
    )
    detector.fit(photos[:2])
    together = detector(photos[2:])
    alone = [detector(photo[None]) for photo in photos[2:]]
    for part, singles in zip(together.arrays, zip(*(found.arrays for found in alone))):
        assert torch.allclose(part, torch.cat(singles), atol=1e-6)


def test_fitting_another_category_forgets_the_first(tiny_backbone, photos):
    detector = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowConfig("mul", 4, 4))
    detector.fit(photos[:2])
    first = detector(photos[4:])
    detector.fit(photos[2:4])
    assert not torch.allclose(detector(photos[4:]).base, first.base)
    detector.fit(photos[:2])
    assert torch.equal(detector(photos[4:]).window, first.window)


def test_a_reference_shown_again_has_no_discrepancy(tiny_backbone, photos):
    detector = Detector(tiny_backbone, trained_like(), SIDE)
    detector.fit(photos[:1])
    found = discrepancy_of(
        tiny_backbone.encode(photos[:1]), detector.memories.whole, UNRESTRICTED, MethodConfig()
    )
    assert found.max() < 1e-6


def test_without_nam_the_raw_maps_decide(tiny_backbone, photos):
    with_nam, without = (Detector(tiny_backbone, trained_like(use_nam=used), SIDE) for used in (True, False))
    for detector in (with_nam, without):
        detector.fit(photos[:1])
    assert torch.equal(without(photos[1:2]).base, without.raw_maps(photos[1:2]).mean(0))
    assert not torch.allclose(with_nam(photos[1:2]).base, without(photos[1:2]).base)


def test_what_cannot_work_is_refused(tiny_backbone, photos):
    with pytest.raises(ModelError, match="use the backbone they were trained on"):
        Detector(tiny_backbone, Fdsl(48, 2), SIDE)
    with pytest.raises(ModelError, match="--win-size 9 does not fit a grid of 8"):
        Detector(tiny_backbone, Fdsl(32, 2), SIDE, windows=WindowConfig("mul", 9, 2))
    detector = Detector(tiny_backbone, Fdsl(32, 2), SIDE)
    with pytest.raises(ModelError, match="fit"):
        detector(photos)
    with pytest.raises(ModelError, match="no reference"):
        detector.fit(photos[:0])


def test_fusion():
    base, window = torch.tensor([0.2, 0.8]), torch.tensor([0.4, 0.4])
    assert torch.equal(fuse(base, None, WindowConfig("nan")), base)
    assert torch.equal(fuse(base, window, WindowConfig("onlywin")), window)
    assert torch.allclose(fuse(base, window, WindowConfig("mul", win_weight=0.25)), torch.tensor([0.25, 0.7]))
    maps, scores = ScoreMaps(base, base, window, window).fused(WindowConfig("mul"))
    assert torch.allclose(maps, torch.tensor([0.3, 0.6])) and torch.equal(maps, scores)


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_matching_in_chunks_equals_one_by_one(monkeypatch, align):
    generator = torch.Generator().manual_seed(0)
    query, bank = (torch.randn(rows, 24, generator=generator) for rows in (50, 70))
    expected = plain.nearest(query, bank, align)
    for size in (1, 70 * 7, 2**30):
        monkeypatch.setattr(memory, "SIMILARITY_VALUES", size)
        assert torch.equal(nearest_index(query, bank, align), expected)


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("fd", ["abs", "signed", "context"])
def test_the_bank_keeps_differences_though_it_is_centred(align, fd):
    query, normal = unit_tokens(30) + 0.5, unit_tokens(40) + 0.5
    bank = bank_of(normal[None])
    matched = normal[plain.nearest(query, normal, align)]
    found = bank.discrepancy(query[None], bank.index(query[None], align), fd)[0]
    assert torch.allclose(found, plain.discrepancy(query, matched, fd), atol=1e-6)
    again = bank.discrepancy(normal[None], bank.index(normal[None], "diff2"), fd)[0]
    assert torch.allclose(again, plain.discrepancy(normal, normal, fd), atol=1e-6)


def test_in_bf16_the_match_is_as_near_as_rounding_allows():
    """Tokens with a large common part, as ViT tokens have: a plain bf16 product cannot tell them apart, ours
    can."""
    common = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(2)), dim=0)
    query, normal = (
        torch.nn.functional.normalize(6 * common + unit_tokens(500, seed), dim=-1).bfloat16()
        for seed in (3, 4)
    )
    similarity = query.double() @ normal.double().t()

    def loss(index):
        return (similarity.max(-1).values - similarity.gather(1, index[:, None])[:, 0]).mean()

    centred, uncentred = (bank_of(normal[None]).index(query[None])[0], nearest_index(query, normal))
    assert loss(centred) < 2e-5 and loss(centred) < 0.2 * loss(uncentred)


def test_alignments_agree_on_normalised_tokens():
    query, bank = unit_tokens(200, 1), unit_tokens(300, 2)
    assert torch.equal(nearest_index(query, bank, "mulmax"), nearest_index(query, bank, "diff2"))


@pytest.mark.parametrize("index_memory", INDEX_MEMORIES)
def test_in_bf16_the_maps_are_near_those_of_float32(tiny_configs, photos, index_memory):
    exact, narrow = (
        Detector(
            backbone_of("ViT-tiny-test", "none", [1, 3], dtype=dtype, model_config=tiny_configs),
            trained_like(),
            SIDE,
            windows=WindowConfig("mul", 4, 2, 0.5, index_memory=index_memory),
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    for detector in (exact, narrow):
        detector.fit(photos[:2])
    assert (
        discrepancy_of(
            narrow.backbone.encode(photos[2:3]), narrow.memories.whole, UNRESTRICTED, MethodConfig()
        ).dtype
        == torch.bfloat16
    )
    for right, found in zip(exact(photos[2:4]).arrays, narrow(photos[2:4]).arrays):
        assert 0 < (right - found).abs().mean() < 0.02


@pytest.mark.parametrize("picks", [1, 3, 99])
@pytest.mark.parametrize("align", ALIGNMENTS)
def test_each_window_can_be_matched_within_its_own_picks(tiny_backbone, photos, align, picks):
    method = trained_like(align=align)
    detector = Detector(
        tiny_backbone, method, SIDE, windows=WindowConfig("mul", 4, 4, 0.5, index_memory="window")
    )
    detector.fit(photos[:2])

    def encode(window):
        return tiny_backbone.encode(window[None]).tokens[:, 0]

    gallery = [window for photo in photos[:2] for window in detector.windows.grid.cut(photo, PATCH)]
    own = gallery[: len(detector.windows)]  # of the first reference
    middle = torch.cat([encode(window) for window in own], dim=1).mean(1)

    def alike(one: torch.Tensor, other: torch.Tensor) -> float:
        return sum(
            float(torch.nn.functional.cosine_similarity(left.mean(0) - mean, right.mean(0) - mean, dim=0))
            for left, right, mean in zip(encode(one), encode(other), middle)
        )

    expected = []
    for window in detector.windows.grid.cut(photos[2], PATCH):
        order = torch.tensor([alike(window, other) for other in gallery]).argsort(descending=True)[:picks]
        own = torch.cat([encode(gallery[number]) for number in order], dim=1)
        pairs = zip(method.heads, encode(window), own)
        expected.append(
            torch.stack(
                [
                    plain.raw_map(head, (query - normal[plain.nearest(query, normal, align)]).abs())
                    for head, query, normal in pairs
                ]
            )
        )
    detector.windows = dataclasses.replace(detector.windows, match=PerWindowTopK(picks))
    found = raw_window_maps(detector, photos[2:3])[:, 0]
    expected = detector.windows.grid.stitch(torch.stack(expected, dim=1).unflatten(-1, (4, 4)))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_window_budget_encodes_no_more_windows_and_keeps_the_base_map_elsewhere(
    tiny_backbone, photos, monkeypatch
):
    detector = Detector(
        tiny_backbone,
        trained_like(),
        SIDE,
        windows=WindowConfig("mul", 3, 1, 0.5, index_memory="0", window_budget=5),
    )
    detector.fit(photos[:1])
    full, base = detector.raw_maps(photos[1:2]), detector(photos[1:2]).base
    chosen = detector.windows.grid.choose(base[0], 5)
    seen = torch.zeros(64, dtype=torch.bool)
    seen[detector.windows.grid.patches[chosen].flatten()] = True
    encoded = []
    encode = tiny_backbone.encode
    monkeypatch.setattr(
        tiny_backbone,
        "encode",
        lambda images, want, side=None: encoded.append(len(images)) or encode(images, want, side),
    )
    raw = raw_window_maps(detector, photos[1:2])
    assert sum(encoded) == 1 + len(chosen) == 6  # the whole image, and the windows
    assert torch.equal(raw.flatten(2)[..., ~seen], full.flatten(2)[..., ~seen])
    assert not torch.isclose(raw.flatten(2)[..., seen], full.flatten(2)[..., seen]).all()


def test_with_both_methods_a_patch_that_no_window_covers_comes_to_the_common_scale_once(
    tiny_backbone, photos
):
    """The base map stands in for it, and was brought to that scale already on its own way to the result."""
    method = Both(trained_like(use_nam=False))
    method.set_scales((0.2, 0.01))
    detector = Detector(
        tiny_backbone,
        method,
        SIDE,
        windows=WindowConfig("onlywin", 3, 3, 1.0, index_memory="0", window_budget=1),
    )
    detector.fit(photos[:1])
    found = detector(photos[1:2])
    seen = torch.zeros(64, dtype=torch.bool)
    seen[detector.windows.grid.patches[detector.windows.grid.choose(found.base[0], 1)].flatten()] = True
    base, window = found.base.flatten(), found.window.flatten()
    assert (
        torch.allclose(window[~seen], base[~seen], atol=1e-6)
        and not torch.isclose(window[seen], base[seen]).all()
    )


def test_a_budget_of_all_windows_is_exact(tiny_backbone, photos):
    exact = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowConfig("mul", 4, 2))
    budget = Detector(tiny_backbone, trained_like(), SIDE, windows=WindowConfig("mul", 4, 2, window_budget=9))
    for detector in (exact, budget):
        detector.fit(photos[:1])
    assert torch.equal(exact(photos[1:2]).window, budget(photos[1:2]).window)


def test_a_budget_without_a_number_is_less_than_a_quarter(tiny_backbone, photos):
    quarter, three = (
        Detector(tiny_backbone, trained_like(), SIDE, windows=WindowConfig("mul", 4, 2, window_budget=budget))
        for budget in (QUARTER, 3)
    )
    assert len(quarter.windows) == 9 and QUARTER == QUARTER
    for detector in (quarter, three):
        detector.fit(photos[:1])
    assert torch.equal(quarter(photos[1:2]).window, three(photos[1:2]).window)
    assert (
        Detector(
            tiny_backbone, trained_like(), SIDE, windows=WindowConfig("mul", 2, 1, window_budget=QUARTER)
        ).windows.budget
        == 12
    )  # of 49


def test_the_budget_goes_where_the_map_is_high():
    windows = WindowGrid(9, 3, 1)
    weight = torch.full((9, 9), 0.01)
    weight[6, 7] = 1
    assert all(6 * 9 + 7 in windows.patches[window] for window in windows.choose(weight, 3))
    assert len(set(windows.choose(torch.zeros(9, 9), 4))) == 4
    spread = windows.choose(torch.ones(9, 9), 9)
    assert len(set(windows.patches[spread].flatten().tolist())) > 70
    everywhere = windows.choose(weight, 18)
    assert set(windows.covering) < set(everywhere) and len(everywhere) == 18
    assert set(everywhere) >= {
        window for window in range(len(windows)) if 6 * 9 + 7 in windows.patches[window]
    }


def test_windows_cover_every_patch_whatever_the_size_and_stride():
    for grid in range(1, 15):
        for size in range(1, grid + 1):
            for stride in range(1, size + 1):
                origins = window_origins(grid, size, stride)
                assert origins == sorted(set(origins)) and origins[0] == 0 and origins[-1] == grid - size
                assert {patch for start in origins for patch in range(start, start + size)} == set(
                    range(grid)
                )
                assert all(b - a <= stride for a, b in zip(origins, origins[1:]))
    assert len(WindowGrid(37, 13, 2)) == 169


@pytest.mark.parametrize(
    "grid, size, stride, fewest",
    [(37, 13, 2, 9), (28, 13, 2, 9), (37, 13, 5, 16), (9, 3, 1, 9), (8, 8, 3, 1), (5, 2, 1, 9)],
)
def test_the_covering_windows_see_every_patch(grid, size, stride, fewest):
    windows = WindowGrid(grid, size, stride)
    assert len(windows.covering) == fewest
    assert set(windows.patches[windows.covering].flatten().tolist()) == set(range(grid * grid))


@pytest.mark.parametrize("size, stride", [(0, 1), (6, 1), (3, 0), (3, 4)])
def test_windows_that_do_not_fit_are_refused(size, stride):
    with pytest.raises(ValueError, match="--win-s"):
        window_origins(5, size, stride)


def test_stitching_averages_overlaps():
    windows = WindowGrid(7, 4, 2)
    values = torch.rand(2, len(windows), 4, 4)
    total, count = torch.zeros(2, 7, 7), torch.zeros(7, 7)
    for number, (row, column) in enumerate(windows.origins):
        total[:, row : row + 4, column : column + 4] += values[:, number]
        count[row : row + 4, column : column + 4] += 1
    assert torch.allclose(windows.stitch(values), total / count, atol=1e-6)
    assert torch.allclose(
        windows.stitch(torch.full((1, len(windows), 4, 4), 0.3)), torch.full((1, 7, 7), 0.3)
    )


def test_cutting_takes_the_right_pixels():
    image = torch.arange(3 * 56 * 56.0).view(3, 56, 56)
    windows = WindowGrid(7, 4, 2)
    cut = windows.cut(image, PATCH)
    row, column = windows.origins[5]
    assert torch.equal(cut[5], image[:, row * 8 : row * 8 + 32, column * 8 : column * 8 + 32])


def test_a_bank_collected_from_parts_is_the_bank_of_their_whole(monkeypatch):
    monkeypatch.setattr("models.matching.memory_bank.CENTRED_AT_ONCE", 7)
    tokens = torch.nn.functional.normalize(
        torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    parts = [Features(part[:, None]) for part in tokens.split(10, dim=1)]
    all_at_once, collected = bank_of(tokens, 4), MemoryBank.collected(parts, [[10]] * 4)
    assert torch.equal(all_at_once.centred, collected.centred)
    assert torch.equal(all_at_once.mean, collected.mean)
    assert torch.allclose(collected.centred + collected.mean, tokens, atol=1e-6)
    assert torch.allclose(collected.mean[:, 0], tokens[:, :10].mean(1))
    for last in (9, 11):
        with pytest.raises((ValueError, RuntimeError)):
            MemoryBank.collected(parts, [[10], [10], [10], [last]])


def test_a_bank_leaves_out_patches_that_show_no_photograph():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.nn.functional.normalize(torch.randn(2, 40, 12, generator=generator), dim=-1)
    inside = torch.rand(4, 10, generator=generator) > 0.4
    parts = [
        Features(part[:, None], inside=kept[None]) for part, kept in zip(tokens.split(10, dim=1), inside)
    ]
    bank = MemoryBank.collected(parts, inside.sum(1).view(2, 2).tolist())
    assert bank.sizes == tuple(inside.sum(1).tolist())
    kept = tokens[:, inside.flatten()]
    assert torch.allclose(bank.centred + bank.mean, kept, atol=1e-6)
    query = torch.nn.functional.normalize(torch.randn(2, 7, 12, generator=generator), dim=-1)
    assert torch.equal(bank.index(query), (query @ kept.transpose(1, 2)).argmax(-1))
    first = bank.beginning(2)
    assert torch.equal(bank.without(1, 2).index(query), first.index(query))
    assert first.sizes == bank.sizes[:2] and len(first) == sum(bank.sizes[:2])
    again = MemoryBank.restored(bank.state(), torch.float32)
    assert (again.sizes, again.copies) == (bank.sizes, 2) and torch.equal(again.centred, bank.centred)


@pytest.mark.parametrize("index_memory", INDEX_MEMORIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bank_of_fewer_references_begins_that_of_more(tiny_configs, photos, dtype, index_memory):
    backbone = backbone_of("ViT-tiny-test", "none", [1, 3], dtype=dtype, model_config=tiny_configs)
    few, more, cut = (
        Detector(backbone, trained_like(), SIDE, WindowConfig("mul", 4, 2, 0.5, index_memory=index_memory))
        for _ in range(3)
    )
    few.fit(photos[:2])
    more.fit(photos[:4])
    more.memories = more.memories.matching_once()
    cut.memories = more.memories.beginning(2, 4)
    for name in ("whole", "windows"):
        one, other = few.memory_of(name), cut.memory_of(name)
        assert torch.equal(one.mean, other.mean) and torch.equal(one.centred, other.centred)
        assert (one.keys is None and other.keys is None) or torch.equal(one.keys, other.keys)
        assert one.photographs == other.photographs == 2
    more(photos[3:])  # what it has matched serves the others
    for one, other in zip(few(photos[3:]).arrays, cut(photos[3:]).arrays):
        assert torch.equal(one, other)


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_of_equally_near_tokens_the_first_reference_has_the_match(align):
    tokens = unit_tokens(30)
    bank = bank_of(tokens.repeat(3, 1)[None], 3)
    assert torch.equal(bank.index(tokens[None], align)[0], torch.arange(30))
    mirrored = bank_of(torch.cat([-tokens, tokens, tokens])[None], 3)
    assert torch.equal(mirrored.index(tokens[None], align)[0], 30 + torch.arange(30))


@pytest.mark.parametrize("broken", [0, 1])
def test_a_reference_that_overflowed_is_not_passed_over(broken):
    tokens = unit_tokens(60)
    tokens[30 * broken + 7] = torch.nan
    bank = bank_of(tokens[None], 2)
    query = unit_tokens(20, 1)[None]
    assert not bank.discrepancy(query, bank.index(query)).isfinite().any()


def test_a_reference_and_its_copies_are_matched_in_one_product(monkeypatch):
    tokens, query, products = unit_tokens(120)[None], unit_tokens(20, 1)[None], []
    monkeypatch.setattr(
        *(memory, "nearest_of"),
        lambda query, bank, align: products.append(len(bank)) or nearest_of(query, bank, align),
    )
    parts = [Features(part[:, None]) for part in tokens.split(30, dim=1)]
    bank = MemoryBank.collected(parts, [[30, 30], [30, 30]])
    assert torch.equal(bank.index(query), (query @ tokens.transpose(1, 2)).argmax(-1))
    assert products == [60, 60]


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("left_out", range(6))
def test_all_but_one_copy_of_a_reference_are_searched(left_out, align):
    """Three references in two copies each: what is nearest lies in the copies that stay, in the last one
    too. No token is copied."""
    tokens, query = unit_tokens(180)[None], unit_tokens(40, 1)[None]
    parts = [Features(part[:, None]) for part in tokens.split(30, dim=1)]
    bank = MemoryBank.collected(parts, [[30, 30]] * 3)
    rest = bank.without(left_out, 6)
    likeness = query[0] @ tokens[0].T
    likeness[:, 30 * left_out : 30 * (left_out + 1)] = -torch.inf
    assert torch.equal(rest.index(query, align)[0], likeness.argmax(-1))
    assert rest.centred.data_ptr() == bank.centred.data_ptr() and len(rest.rows()) == 5


@pytest.mark.parametrize("index_memory", INDEX_MEMORIES)
def test_windows_of_a_reference_that_is_left_out_are_not_picked(tiny_backbone, photos, index_memory):
    settings = WindowConfig("onlywin", 4, 2, index_memory=index_memory)
    detector, others = (Detector(tiny_backbone, trained_like(), SIDE, settings) for _ in range(2))
    detector.fit(photos[:3])
    others.fit(photos[[0, 2]])
    left = detector.without(1, 3)(photos[1:2])
    assert torch.allclose(left.window, others(photos[1:2]).window, atol=1e-5)
    assert not torch.allclose(left.window, detector(photos[1:2]).window, atol=1e-3)


def test_each_reference_is_matched_once_for_all_banks_that_it_begins(monkeypatch):
    tokens, query, rows = unit_tokens(120)[None], unit_tokens(20, 1)[None], []
    monkeypatch.setattr(
        *(memory, "nearest_of"),
        lambda query, bank, align: rows.append(len(bank)) or nearest_of(query, bank, align),
    )
    bank = dataclasses.replace(bank_of(tokens, 4), matched={})
    banks = [bank.beginning(1), bank, bank.beginning(2)]
    for align in ALIGNMENTS:
        found = [one.index(query, align) for one in banks]
        alone = [bank_of(tokens[:, : len(one)], one.photographs) for one in banks]
        singly = [one.index(query, align) for one in alone]
        assert all(torch.equal(one, other) for one, other in zip(found, singly))
    assert rows == 2 * [30] * (4 + 7)
