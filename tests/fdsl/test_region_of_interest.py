"""--roi and --ignore: what lies outside counts neither in the memory bank nor in maps and scores."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from data.images import open_image
from data.photographs import pixel_digest
from data.region_of_interest import MaskFolders, Shape, drawn_roi, own_roi, read_roi
from fdsl.api import AnomalyDetector
from fdsl.detector_state import ROI
from fdsl.references.rotation import inside_of
from models.methods.nearest import nearest_distance
from tests.support.detectors import small_detector
from tests.support.photographs import texture
from utils.config import MethodConfig, WindowConfig
from utils.errors import ConfigError, DataError, ModelError

LEFT = np.s_[:, :40]  # of photographs of 80 x 60 pixels


def mask(file, *white, size=(80, 60)):
    """A black image that is white in these slices."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    for part in white:
        pixels[part] = 255
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def left(tmp_path):
    return mask(tmp_path / "left.png", LEFT)


@pytest.fixture
def references():
    return [Image.fromarray(texture(seed)) for seed in (1, 2, 3)]


def options(**given):
    return MethodConfig(**{name: str(file) for name, file in given.items()})


@pytest.mark.parametrize("size", [(80, 60), (7, 7), (400, 100)])
def test_a_mask_of_any_size_is_resized_by_area(tmp_path, size):
    half = mask(tmp_path / "half.png", np.s_[:, : size[0] // 2 + size[0] % 2], size=size)
    roi = read_roi(options(roi=half), 64)
    share = (size[0] // 2 + size[0] % 2) / size[0]
    assert roi.shape == (64, 64) and roi.dtype == np.uint8
    assert roi.mean() / 255 == pytest.approx(share, abs=0.01) and (roi[:, :25] == 255).all()
    other = read_roi(options(ignore=half), 64)
    np.testing.assert_allclose(other.astype(int) + roi, 255)
    assert (
        read_roi(options(roi=half, ignore=mask(tmp_path / "a.png", np.s_[:2], size=size)), 64).sum()
        < roi.sum()
    )
    assert read_roi(MethodConfig(), 64) is None


def test_what_is_no_mask_is_refused_in_one_sentence(tmp_path, left):
    Image.fromarray(texture(1)).save(tmp_path / "photo.png")
    black, white = mask(tmp_path / "black.png"), mask(tmp_path / "white.png", np.s_[:])
    (tmp_path / "text.png").write_text("no image")
    wrong = [
        (options(roi=black), "--roi .*black.png: leaves nothing to evaluate"),
        (options(ignore=white), "--ignore .*white.png: leaves nothing to evaluate"),
        (options(roi=left, ignore=left), "--roi .*left.png: leaves nothing to evaluate"),
        (options(roi=tmp_path / "photo.png"), "neither black nor white"),
        (options(roi=tmp_path / "text.png"), "--roi .*text.png"),
        (options(ignore=tmp_path / "not there.png"), "--ignore .*not there.png"),
    ]
    for given, words in wrong:
        with pytest.raises(DataError, match=words) as caught:
            read_roi(given, 64)
        assert "\n" not in str(caught.value)


def test_a_region_that_covers_no_patch_by_half_is_refused(tmp_path, tiny_configs):
    speck = mask(tmp_path / "speck.png", np.s_[10:12, 10:12])
    with pytest.raises(ModelError, match="covers no patch by half"):
        small_detector(tiny_configs, method="nearest", roi=speck)


@pytest.mark.parametrize("method", ["nearest", "plus", "subspace"])
@pytest.mark.parametrize("tiles", [1, 2])
def test_outside_is_zero_and_a_defect_there_is_none(tiny_configs, left, references, method, tiles):
    windows = WindowConfig(winmode="nan", tiles=tiles)
    detector = small_detector(tiny_configs, method=method, roi=left, **vars(windows), image_size=64)
    detector.fit(references, rotations=1)
    defective = detector.predict(texture(30, defect=True))  # it lies in columns 50 to 65
    side = defective.patch_map.shape[1]
    assert (defective.patch_map[:, side // 2 :] == 0).all() and (
        defective.patch_map[:, : side // 2] > 0
    ).any()
    assert all(region.x + region.width <= 40 + 80 / side + 1 for region in defective.regions)
    whole = small_detector(tiny_configs, method=method, **vars(windows), image_size=64)
    whole.fit(references, rotations=1)
    gap = whole.predict(texture(30, defect=True)).score - whole.predict(texture(30)).score
    assert abs(defective.score - detector.predict(texture(30)).score) < gap / 2


def test_maps_are_distances_to_the_patches_that_count(tiny_configs, left, references):
    detector = small_detector(tiny_configs, method="nearest", roi=left, image_size=64)
    detector.fit(references, rotations=1)
    inner = detector.scorer.detector
    counts = inner.counted.of_grid(8, 8).flatten()
    assert counts.sum() == 32 and inner.memories.whole.centred.shape[1] == 3 * 32
    photo = Image.fromarray(texture(9))
    tokens = inner.encode(detector.to_batch([photo])).tokens[:, 0]
    bank = torch.cat(
        [inner.encode(detector.to_batch([one])).tokens[:, 0][:, counts] for one in references], 1
    )
    nearest = [(own @ normal.T).argmax(-1) for own, normal in zip(tokens, bank)]
    found = [
        nearest_distance((own - normal[index])[None])[0] for own, normal, index in zip(tokens, bank, nearest)
    ]
    wanted = (torch.stack(found).mean(0) * counts).view(8, 8)
    np.testing.assert_allclose(detector.predict(photo).patch_map, wanted, atol=1e-5)


def test_of_rotated_copies_the_patches_that_show_what_counts_are_kept(tiny_configs, tmp_path):
    top = mask(tmp_path / "top.png", np.s_[:32], size=(64, 64))
    square = [Image.fromarray(texture(1, height=64, width=64))]
    inner = small_detector(tiny_configs, method="nearest", roi=top, image_size=64).scorer.detector
    copies = inside_of(inner, square, 4).whole.view(4, 8, 8)
    for copy, kept in zip(copies, (np.s_[:4], np.s_[:, :4], np.s_[4:], np.s_[:, 4:])):
        wanted = torch.zeros(8, 8, dtype=torch.bool)
        wanted[kept] = True
        assert (copy == wanted).all()


def test_half_covered_patches_count_by_area(tiny_configs, tmp_path):
    for width, columns in ((27, 3), (29, 4)):  # the fourth patch is covered by 3/8 or 5/8
        part = mask(tmp_path / f"{width}.png", np.s_[:, :width], size=(64, 64))
        inner = small_detector(tiny_configs, method="nearest", roi=part, image_size=64).scorer.detector
        assert inner.counted.of_grid(8, 8).sum(1).tolist() == [columns] * 8


def test_it_is_saved_with_the_detector_and_needs_no_file(tiny_configs, left, references, tmp_path):
    detector = small_detector(tiny_configs, roi=left, image_size=64)
    detector.fit(references)
    photo = Image.fromarray(texture(30, defect=True))
    detector.save(tmp_path / "part.safetensors")
    left.unlink()
    loaded = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    before, after = detector.predict(photo), loaded.predict(photo)
    assert before.score == after.score and (before.patch_map == after.patch_map).all()
    loaded.add_references(Image.fromarray(texture(4)))
    assert (loaded.predict(photo).patch_map[:, 4:] == 0).all()


def rectangle(left, top, right, bottom, ignored=False):
    return Shape(((left, top), (right, top), (right, bottom), (left, bottom)), ignored)


def test_drawn_shapes_are_a_mask_by_area(tmp_path):
    left = drawn_roi([rectangle(0, 0, 0.5, 1)], 64)
    assert left.dtype == np.uint8 and (left[:, :32] == 255).all() and (left[:, 33:] == 0).all()
    both = drawn_roi([rectangle(0, 0, 0.5, 0.5, ignored=True), rectangle(0, 0, 0.5, 1)], 64)
    assert (both[:32, :32] == 0).all() and (both[34:, :32] == 255).all(), "what is ignored goes last"
    assert drawn_roi([rectangle(0, 0, 0.5, 1, ignored=True)], 64).mean() == pytest.approx(127.5, abs=3)
    triangle = drawn_roi([Shape(((0, 0), (1, 0), (0, 1)), False)], 64)
    assert triangle.mean() == pytest.approx(127.5, abs=4) and set(np.unique(triangle)) - {0, 255}
    with pytest.raises(DataError, match="leaves nothing to evaluate"):
        drawn_roi([rectangle(0, 0, 1, 1, ignored=True)], 64)


def test_a_drawn_region_is_that_of_its_mask(tiny_configs, references, tmp_path):
    mask_of_it = drawn_roi([rectangle(0, 0, 0.5, 1)], 64)
    Image.fromarray(mask_of_it).save(tmp_path / "mask.png")
    given = small_detector(tiny_configs, roi=tmp_path / "mask.png", image_size=64)
    drawn = small_detector(tiny_configs, image_size=64)
    drawn.restrict(mask_of_it, "the mask drawn on the page")
    photo = Image.fromarray(texture(30, defect=True))
    for detector in (given, drawn):
        detector.fit(references)
    assert (drawn.predict(photo).patch_map == given.predict(photo).patch_map).all()
    drawn.save(tmp_path / "part.safetensors")
    loaded = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    assert loaded.predict(photo).score == given.predict(photo).score
    assert loaded.config.detector.options.roi == "the mask drawn on the page"


def test_a_region_that_cannot_be_is_refused_and_changes_nothing(tiny_configs, references):
    windows = WindowConfig(win_size=2, win_stride=2, index_memory="window")
    windowed = small_detector(tiny_configs, **vars(windows), image_size=64)
    with pytest.raises(ConfigError, match="do not go with --index-memory window"):
        windowed.restrict(np.full((64, 64), 255, np.uint8))
    assert windowed.scorer.detector.counted.roi is None and windowed.config.detector.options.roi is None
    whole, corner = small_detector(tiny_configs, image_size=64), np.zeros((64, 64), np.uint8)
    whole.restrict(np.full((64, 64), 255, np.uint8), "all of it")
    config, roi = whole.config, whole.scorer.detector.counted.roi
    corner[0, 0] = 255
    with pytest.raises(ModelError, match="covers no patch by half"):
        whole.restrict(corner)
    assert whole.config == config and whole.method.options.roi == "all of it"
    counted = whole.scorer.detector.counted
    assert counted.roi is roi and counted.of_grid(8, 8).all()
    for wrong in (np.ones((64, 64), bool), np.ones((60, 80), np.uint8)):
        with pytest.raises(ConfigError, match="mask is"):
            small_detector(tiny_configs, image_size=64).restrict(wrong)


def masks_for(folder, names, *white):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mask(folder / name, *white)
    return folder


def photographs(folder, count, first=1, defect=False):
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.png" for number in range(first, first + count)]
    for number, file in enumerate(files, start=first):
        Image.fromarray(texture(number, defect=defect)).save(file)
    return files


@pytest.mark.parametrize(
    "masks, photograph, found",
    [
        (["a/1.png", "b/1.png"], "photos/a/1.jpg", "a/1.png"),
        (["1.png", "a/1.png"], "photos/a/1.jpg", "a/1.png"),
        (["1.png", "a/1.png"], "photos/b/1.jpg", "1.png"),
        (["part.1.png"], "part.1.jpg", "part.1.png"),
        (["A/Größe.PNG"], "x/a/größe.jpg", "A/Größe.PNG"),
    ],
)
def test_the_mask_of_a_photograph_is_the_one_that_its_path_ends_with(tmp_path, masks, photograph, found):
    folder = masks_for(tmp_path / "masks", masks, LEFT)
    files = MaskFolders.of(options(roi=folder), 64, 8).files(tmp_path / photograph)
    assert files == {"--roi": folder / found}


@pytest.mark.parametrize(
    "masks, photograph, words",
    [
        (["1.png"], "photos/2.jpg", "--roi .*masks: holds no mask of 2.jpg; put 2.png there"),
        (["1.png", "1.bmp"], "1.jpg", "1.bmp and 1.png are two masks of 1.jpg; remove one"),
        (["a/1.png"], "b/1.jpg", "holds no mask of 1.jpg"),
    ],
)
def test_a_photograph_without_a_mask_of_its_own_is_one_sentence(tmp_path, masks, photograph, words):
    folder = masks_for(tmp_path / "masks", masks, LEFT)
    with pytest.raises(DataError, match=words) as caught:
        MaskFolders.of(options(roi=folder), 64, 8).files(tmp_path / photograph)
    assert "\n" not in str(caught.value)


def test_masks_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="--ignore .*empty: holds no mask"):
        MaskFolders.of(options(ignore=tmp_path / "empty"), 64, 8)
    (photo,) = photographs(tmp_path, 1)
    for white, words in (((), "leaves nothing to evaluate"), ((np.s_[:3, :3],), "covers no patch by half")):
        folders = MaskFolders.of(options(roi=masks_for(tmp_path / "masks", ["1.png"], *white)), 64, 8)
        with pytest.raises(DataError, match=f"1.png: {words}"):
            folders.on(Image.open(photo).convert("RGB"), photo)
    assert MaskFolders.of(options(roi=photo), 64, 8) is None and MaskFolders.of(MethodConfig(), 64, 8) is None


@pytest.mark.parametrize(
    "orientation, size, words",
    [
        (6, (30, 40), "mask of 30x40 px for an image of 80x60 px; rotate it upright"),
        (6, (40, 30), ""),
        (3, (40, 30), "EXIF data of its image 1.jpg mean"),
        (3, (80, 60), "EXIF data of its image 1.jpg mean"),
        (1, (40, 30), ""),
        (1, (64, 64), ""),
    ],
)
def test_a_mask_that_may_not_have_been_rotated_as_its_photograph_is_named_once(
    tmp_path, logged, orientation, size, words
):
    photo = Image.fromarray(texture(1))
    exif = photo.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = photo.rotate(90, expand=True) if orientation == 6 else photo
    stored.save(tmp_path / "1.jpg", exif=exif)
    Image.new("L", size, 255).save(masks_for(tmp_path / "masks", ["1.png"]) / "1.png")
    folders = MaskFolders.of(options(roi=tmp_path / "masks"), 64, 8)
    folders.on(open_image(tmp_path / "1.jpg"), tmp_path / "1.jpg")
    named = logged()
    assert words in named and bool(words) == ("1.png" in named)
    folders.on(open_image(tmp_path / "1.jpg"), tmp_path / "1.jpg")
    assert logged() == named


def test_a_folder_and_one_mask_for_all_go_together(tmp_path):
    folder, top = masks_for(tmp_path / "masks", ["1.png"], LEFT), mask(tmp_path / "top.png", np.s_[:30])
    (photo,) = photographs(tmp_path, 1)
    one = mask(tmp_path / "one.png", LEFT)
    with_own = MaskFolders.of(options(roi=folder, ignore=top), 64, 8).on(Image.open(photo), photo)
    assert (own_roi(with_own) == read_roi(options(roi=one, ignore=top), 64)).all()


@pytest.mark.parametrize("method", ["nearest", "plus", "subspace"])
@pytest.mark.parametrize("tiles, count, rotations", [(1, 3, 1), (1, 1, 4), (2, 2, 1), (1, 2, 8)])
def test_a_folder_of_equal_masks_is_one_mask(tiny_configs, left, tmp_path, method, tiles, count, rotations):
    """To the last bit: memory bank, threshold, maps and scores."""
    files = photographs(tmp_path / "normal", count)
    tested = photographs(tmp_path / "tested", 2, 30, defect=True)
    names = [file.name for file in (*files, *tested)]
    kind = {"tiles": tiles, "image_size": 64, "method": method}
    one = small_detector(tiny_configs, roi=left, **kind)
    each = small_detector(tiny_configs, roi=masks_for(tmp_path / "masks", names, LEFT), **kind)
    for detector in (one, each):
        detector.fit(files, rotations=rotations)
    assert each.threshold == one.threshold
    ours, theirs = each.tensors(), one.tensors()
    assert ours.keys() == theirs.keys() and len(ours[ROI]) == 0
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != ROI)
    for own, other in zip(each.predict(tested), one.predict(tested)):
        assert own.score == other.score and (own.patch_map == other.patch_map).all()
        assert own.to_dict() == other.to_dict()


def test_each_photograph_counts_by_its_own_mask(tiny_configs, tmp_path):
    normal = photographs(tmp_path / "normal", 2)
    (first, second) = photographs(tmp_path / "tested", 2, 30, defect=True)
    folder = masks_for(tmp_path / "masks", ["1.png", "30.png"], LEFT)
    masks_for(folder, ["2.png", "31.png"], np.s_[:, 40:])
    detector = small_detector(tiny_configs, method="nearest", roi=folder, image_size=64)
    detector.fit(normal, rotations=1)
    bank = detector.scorer.detector.memories.whole
    assert bank.sizes == (32, 32)
    inner = detector.scorer.detector
    tokens = [inner.encode(detector.to_batch([Image.open(file)])).tokens[:, 0] for file in normal]
    halves = [tokens[0].view(2, 8, 8, -1)[:, :, :4], tokens[1].view(2, 8, 8, -1)[:, :, 4:]]
    wanted = torch.cat([half.flatten(1, 2) for half in halves], 1)
    torch.testing.assert_close(bank.centred + bank.mean, wanted, atol=1e-6, rtol=0)
    left, right = detector.predict([first, second])
    assert (left.patch_map[:, 4:] == 0).all() and (left.patch_map[:, :4] > 0).any()
    assert (right.patch_map[:, :4] == 0).all() and (right.patch_map[:, 4:] > 0).any()
    assert right.score > left.score, "the defect lies on the right"


def test_what_has_no_path_has_no_mask(tiny_configs, tmp_path):
    detector = small_detector(tiny_configs, roi=masks_for(tmp_path / "masks", ["1.png"], LEFT), image_size=64)
    with pytest.raises(DataError, match=r"references\[0\] has no path, by which its mask in --roi .*masks"):
        detector.fit([Image.fromarray(texture(1))])
    detector.fit(photographs(tmp_path / "normal", 1))
    with pytest.raises(DataError, match=r"images\[0\] has no path"):
        detector.predict(texture(2))
    with pytest.raises(DataError, match="holds no mask of 2.png"):
        detector.predict(photographs(tmp_path / "normal", 1, 2))
    detector.restrict(np.full((64, 64), 255, np.uint8))
    detector.fit([Image.fromarray(texture(1))])
    detector.predict(texture(2))


def test_a_saved_detector_finds_the_masks_where_they_are_named(tiny_configs, tmp_path):
    folder = masks_for(tmp_path / "masks", ["1.png", "30.png"], LEFT)
    detector = small_detector(tiny_configs, roi=folder, image_size=64)
    detector.fit(photographs(tmp_path / "normal", 1))
    (tested,) = photographs(tmp_path, 1, 30, defect=True)
    file, before = tmp_path / "part.safetensors", detector.predict(tested)
    detector.save(file)
    again = AnomalyDetector.load(file, device="cpu").predict(tested)
    assert again.score == before.score and (again.patch_map == before.patch_map).all()
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(
        ConfigError, match="the masks of its photographs were in .*masks, and there is no such"
    ):
        AnomalyDetector.load(file, device="cpu")
    again = AnomalyDetector.load(file, device="cpu", roi=moved)
    assert again.predict(tested).score == before.score
    again.add_references(photographs(tmp_path / "normal", 1, 30))
    with pytest.raises(ConfigError, match="--ignore .* was not made with such a folder of masks"):
        AnomalyDetector.load(file, device="cpu", roi=moved, ignore=moved)
    whole = small_detector(tiny_configs, image_size=64)
    whole.fit(photographs(tmp_path / "normal", 1))
    whole.save(file)
    with pytest.raises(ConfigError, match="--roi .* was not made with such a folder of masks"):
        AnomalyDetector.load(file, device="cpu", roi=moved)


@pytest.mark.parametrize("method", ["nearest", "plus", "subspace"])
@pytest.mark.parametrize("rotations", [1, 4])
def test_a_reference_is_held_out_with_the_patches_of_its_own_mask(tiny_configs, tmp_path, method, rotations):
    """Masks of other areas: what is left is what the other reference alone gives."""
    files = photographs(tmp_path / "normal", 2)
    files.sort(key=lambda file: pixel_digest(open_image(file)))  # as the bank holds them
    folder = masks_for(tmp_path / "masks", ["1.png"], np.s_[:, :20])
    masks_for(folder, ["2.png"], np.s_[:, 10:])
    both, alone = (small_detector(tiny_configs, method=method, roi=folder, image_size=64) for _ in range(2))
    both.fit(files, rotations=rotations, false_alarm_rate=None)
    alone.fit(files[1:], rotations=rotations, false_alarm_rate=None)
    left = both.scorer.without(0, 2).detector
    images = both.to_batch([Image.fromarray(texture(9))])
    maps = [one.raw_maps(images) for one in (left, alone.scorer.detector)]
    torch.testing.assert_close(*maps, atol=1e-5, rtol=0)


LFE = WindowConfig("mul", 4, 2)


@pytest.mark.parametrize("method", ["nearest", "plus", "subspace"])
@pytest.mark.parametrize("count, rotations", [(1, 1), (1, 4), (3, 1)])
def test_local_windows_know_the_region_too(tiny_configs, left, tmp_path, method, count, rotations):
    """One mask and a folder of equal ones; outside is zero in both branches, and leaves no token."""
    files = photographs(tmp_path / "normal", count)
    (tested,) = photographs(tmp_path, 1, 30, defect=True)
    folder = masks_for(tmp_path / "masks", [file.name for file in (*files, tested)], LEFT)
    kind = {**vars(LFE), "image_size": 64, "method": method}
    one, each = (small_detector(tiny_configs, roi=roi, **kind) for roi in (left, folder))
    for detector in (one, each):
        detector.fit(files, rotations=rotations)
    assert each.threshold == one.threshold
    own, other = each.predict(tested), one.predict(tested)
    assert own.score == other.score and (own.window_map == other.window_map).all()
    for found in (own.base_map, own.window_map, own.patch_map):
        assert (found[:, 4:] == 0).all() and (found[:, :4] > 0).any()
    whole = small_detector(tiny_configs, **kind)
    whole.fit(files, rotations=rotations)
    assert one.predict(tested).score < whole.predict(tested).score, "the defect lies outside"


@pytest.mark.parametrize("win_zip", [0, 2])
def test_the_bank_of_windows_holds_the_patches_that_count(tiny_configs, left, references, win_zip):
    windows = WindowConfig("onlywin", 4, 2, win_zip=win_zip)
    detector = small_detector(tiny_configs, method="nearest", roi=left, **vars(windows), image_size=64)
    detector.fit(references[:2], rotations=1)
    inner = detector.scorer.detector
    grid, bank = inner.windows.grid, inner.memories.windows
    counts = inner.counted.of_grid(8, 8).flatten()[grid.seen]  # (W,n)
    tokens = []
    for photo in references[:2]:
        image = detector.to_batch([photo]).whole[0]
        side = grid.encoded * inner.backbone.patch_size
        encoded = inner.backbone.encode(grid.cut(image, inner.backbone.patch_size), side=side).tokens
        tokens.append(encoded[:, counts])
    torch.testing.assert_close(bank.centred + bank.mean, torch.cat(tokens, 1), atol=1e-5, rtol=0)
    assert bank.sizes == (int(counts.sum()),) * 2 and 0 < counts.sum() < counts.numel()
    assert (bank.patches == grid.seen[counts].repeat(2)).all()
