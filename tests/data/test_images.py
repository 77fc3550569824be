"""Every kind of image file is loaded right or refused with a sentence; masks keep small values."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import image_size, open_image, photograph_to_array
from data.masks import open_mask, rotation_doubt
from data.photographs import image_to_pixels, mask_to_tensor
from tests.support.constants import SHARED
from utils.errors import DataError
from utils.limits import allow_pixels
from utils.tile_layout import Crops

CLIP_MEAN = [[[0.48145466]], [[0.4578275]], [[0.40821073]]]  # what the golden pixels were normalised with
CLIP_STD = [[[0.26862954]], [[0.26130258]], [[0.27577711]]]
RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)  # 6 wide, 4 high, every pixel of its own


def gray(image: Image.Image) -> np.ndarray:
    """The values of an RGB image whose channels agree."""
    values = np.array(image).astype(int)
    assert image.mode == "RGB" and (values == values[..., :1]).all()
    return values[..., 0]


def save(file: Path, values: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(file, **options)
    return file


# Photographs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, values",
    [
        ("gray8.png", RAMP),
        ("gray16.png", RAMP.astype(np.uint16) * 257),
        ("gray16.tif", RAMP.astype(np.uint16) * 257),
        ("gray16 big-endian.tif", (RAMP.astype(np.uint16) * 257).astype(">u2")),
        ("gray16.pgm", RAMP.astype(np.uint16) * 257),
        ("int32 of 0..255.tif", RAMP.astype(np.int32)),
        ("int32 of 0..65535.tif", RAMP.astype(np.int32) * 257),
        ("float of 0..1.tif", RAMP.astype(np.float32) / 255),
        ("float of 0..255.tif", RAMP.astype(np.float32)),
        ("float of 0..65535.tif", RAMP.astype(np.float32) * 257),
        ("gray.bmp", RAMP),
        ("gray.gif", RAMP),
        ("gray.jp2", RAMP),
    ],
)
def test_grayscale_of_any_depth(tmp_path, name, values):
    assert (gray(open_image(save(tmp_path / name, values))) == RAMP).all()


def test_sixteen_bits_are_scaled_whatever_range_is_used(tmp_path):
    dark = gray(
        open_image(save(tmp_path / "dark.png", np.array([[0, 128, 129, 255, 257, 65535]], np.uint16)))
    )
    assert dark.tolist() == [[0, 0, 1, 1, 1, 255]]
    for name in ("darker.png", "darker.pgm"):  # also where no value says how many bits there are
        darker = save(tmp_path / name, np.array([[0, 128, 129, 255]], np.uint16))
        assert gray(open_image(darker)).tolist() == [[0, 0, 1, 1]], name


def test_numbers_of_no_usual_range_are_stretched(tmp_path):
    wide = gray(open_image(save(tmp_path / "wide.tif", np.array([[-1e6, 0, 1e6]], np.float32))))
    assert wide.tolist() == [[0, 128, 255]]
    assert gray(open_image(save(tmp_path / "flat.tif", np.full((2, 2), -7.0, np.float32)))).max() == 0
    with pytest.raises(DataError, match="not finite"):
        open_image(save(tmp_path / "nan.tif", np.array([[0, np.nan]], np.float32)))


def test_colour_modes(tmp_path):
    rgb = np.dstack([RAMP, RAMP[::-1], 255 - RAMP])
    for name, mode in (("rgb.png", None), ("rgb.webp", None), ("rgb.tif", None), ("cmyk.tif", "CMYK")):
        options = {"lossless": True} if name.endswith("webp") else {}
        assert (np.array(open_image(save(tmp_path / name, rgb, mode, **options))) == rgb).all(), name
    for name, mode in (("cmyk.jpg", "CMYK"), ("ycbcr.jpg", None)):
        smooth = np.repeat(np.repeat(rgb, 16, 0), 16, 1)
        loaded = np.array(open_image(save(tmp_path / name, smooth, mode, quality=98))).astype(int)
        assert abs(loaded - smooth)[8::16, 8::16].max() < 12, name
    palette = Image.fromarray(RAMP // 10).convert("P")
    palette.putpalette([c for i in range(24) for c in (255 - i, i, 7)])
    palette.save(tmp_path / "palette.png")
    loaded = np.array(open_image(tmp_path / "palette.png"))
    assert (loaded == np.dstack([255 - RAMP // 10, RAMP // 10, np.full_like(RAMP, 7)])).all()
    one_bit = save(tmp_path / "bits.png", RAMP > 100)
    assert (gray(open_image(one_bit)) == (RAMP > 100) * 255).all()


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    assert np.array(open_image(save(tmp_path / "a.png", rgba))).tolist() == [
        [[10, 20, 30], [255] * 3, [127] * 3]
    ]
    la = np.array([[[10, 255], [10, 0]]], np.uint8)
    assert gray(open_image(save(tmp_path / "la.png", la))).tolist() == [[10, 255]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 50, 50, 50])
    palette.save(tmp_path / "p.png", transparency=0)
    assert gray(open_image(tmp_path / "p.png")).tolist() == [[255, 50]]


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.T),
        (6, np.rot90(RAMP, -1)),
        (7, RAMP[::-1, ::-1].T),
        (8, np.rot90(RAMP)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientations(tmp_path, orientation, upright, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RAMP).resize((48, 32), Image.Resampling.NEAREST)
    image.save(tmp_path / f"turned.{suffix}", exif=exif, **({"quality": 98} if suffix == "jpg" else {}))
    loaded = gray(open_image(tmp_path / f"turned.{suffix}"))
    assert abs(loaded[4::8, 4::8] - upright).max() <= (6 if suffix == "jpg" else 0)
    for decode in (False, True):
        assert image_size(tmp_path / f"turned.{suffix}", decode) == loaded.shape[::-1]
    if suffix != "jpg":
        assert (np.array(open_mask(tmp_path / f"turned.{suffix}")) > 0).tolist() == (loaded > 0).tolist()


def test_broken_exif_turns_nothing(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about the EXIF data
        assert (gray(open_image(tmp_path / "a.png")) == RAMP).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    for name in ("a.gif", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert (gray(open_image(tmp_path / name)) == RAMP).all(), name


def test_one_pixel_and_slivers_become_tensors(tmp_path):
    for width, height in ((1, 1), (1, 500), (500, 1)):
        file = save(tmp_path / "a.png", np.full((height, width), 100, np.uint8))
        pixels = image_to_pixels(open_image(file), 28)
        assert pixels.shape == (3, 28, 28) and (pixels == 100).all()


@pytest.mark.parametrize("crops", [None, Crops(28, 20, ((0, 0), (0, 12), (4, 12)))])
def test_a_grey_photograph_is_resized_once_to_the_values_of_three_channels(monkeypatch, crops):
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (30, 40, 1), np.uint8), 3, 2)
    tinted_at_the_edge, tinted = grey.copy(), grey.copy()
    tinted_at_the_edge[0, 0, 1] ^= 255
    tinted[15, :, 2] ^= 255  # the middle row
    resized, plainly = [], Image.Image.resize

    def resize(image, *how):
        resized.append(image.mode)
        return plainly(image, *how)

    def expected(image, width, height):
        return np.asarray(plainly(image, (width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)

    monkeypatch.setattr(Image.Image, "resize", resize)
    for values, mode in ((grey, "L"), (tinted_at_the_edge, "RGB"), (tinted, "RGB")):
        image = Image.fromarray(values)
        wanted = expected(image, 16, 16)
        if crops:
            large = expected(image, crops.width, crops.height)
            tiles = [large[:, top : top + 16, left : left + 16] for top, left in crops.origins]
            wanted = np.stack([wanted, *tiles])
        resized.clear()
        found = photograph_to_array(image, 16, crops)
        assert found.dtype == np.uint8 and (found == wanted).all()
        assert set(resized) == {mode}


def test_files_are_closed(tmp_path):
    file = save(tmp_path / "a.png", RAMP)
    (tmp_path / "b.png").write_bytes(file.read_bytes()[:60])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if before is None:
        pytest.skip("no /proc to count open files in")
    kept = [open_image(file), open_mask(file), image_size(file)]
    with pytest.raises(DataError):
        open_image(tmp_path / "b.png")
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 3


# Refusals ---------------------------------------------------------------------------------------------------


def refused(path: Path, reported: str, **options) -> None:
    for opener in (open_image, open_mask, lambda p, **o: image_size(p, True, **o)):
        with pytest.raises(DataError, match=reported) as caught:
            opener(path, **options)
        assert "\n" not in str(caught.value) and path.name.split("\n")[0] in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.gif", "a.jp2", "a.ppm"])
def test_truncated_files_are_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    content = save(tmp_path / name, noise).read_bytes()
    for share in (0.02, 0.3, 0.7):
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        refused(tmp_path / name, "copy it again|convert it")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("Lorem ipsum")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "page.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    for name, reported in (
        ("empty", "0 bytes"),
        ("text", "not an image"),
        ("folder", "not a file"),
        ("gone", "is missing"),
        ("link", "link to nowhere"),
        ("loop", "loop"),
        ("pipe", "not a file"),
        ("page", "not an image"),
    ):
        refused(tmp_path / f"{name}.png", reported)
    refused(tmp_path / "new\nline.png", "is missing")


def test_unreadable_files_are_refused(tmp_path, monkeypatch):
    file = save(tmp_path / "a.png", RAMP)

    def denied(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    refused(file, "read permission")


def test_too_large_images_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(
            tmp_path / "bomb.png", "20000x20000 px is above the limit of 100,000,000 pixels.*--max-pixels"
        )
        allow_pixels(400_000_000)
        assert image_size(tmp_path / "bomb.png") == (20_000, 20_000)
    allow_pixels(23)
    refused(save(tmp_path / "small.png", RAMP), "6x4 px")
    allow_pixels(24)
    assert open_image(tmp_path / "small.png").size == (6, 4)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_give_an_image_or_a_sentence(tmp_path, seed):
    random = np.random.default_rng(seed)
    allow_pixels(10_000)
    noise = random.integers(0, 255, (16, 16, 3), np.uint8)
    for suffix in ("png", "jpg", "tif", "gif", "bmp", "webp", "jp2"):
        content = bytearray(save(tmp_path / f"a.{suffix}", noise).read_bytes())
        for _ in range(15):
            damaged = bytearray(content)
            for position in random.integers(0, min(len(content), 400), 6):
                damaged[position] = random.integers(256)
            (tmp_path / f"b.{suffix}").write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert open_image(tmp_path / f"b.{suffix}").mode == "RGB"
                    assert set(np.unique(open_mask(tmp_path / f"b.{suffix}"))) <= {0, 255}
                except DataError as error:
                    assert f"b.{suffix}" in str(error) and "\n" not in str(error)


# Masks ------------------------------------------------------------------------------------------------------

CLASSES = np.array([[0, 1, 2], [3, 0, 200]], np.uint8)


@pytest.mark.parametrize(
    "name, values",
    [
        ("l.png", CLASSES),
        ("i16.png", CLASSES.astype(np.uint16)),
        ("i16 high byte.png", CLASSES.astype(np.uint16) * 256),
        ("i32.tif", CLASSES.astype(np.int32)),
        ("f.tif", CLASSES.astype(np.float32) / 1000),
        ("bits.png", CLASSES > 0),
        ("one channel.png", np.dstack([CLASSES * 0, CLASSES * 0, CLASSES])),
        ("opaque.png", np.dstack([CLASSES, CLASSES, CLASSES, CLASSES * 0 + 255])),
        ("la.png", np.dstack([CLASSES, CLASSES * 0 + 255])),
        ("white but transparent.png", np.dstack([CLASSES * 0 + 255] * 3 + [CLASSES])),
        ("l.gif", CLASSES),
        ("l.bmp", CLASSES),
    ],
)
def test_masks_of_any_kind_keep_every_value_that_is_not_zero(tmp_path, name, values):
    mask = open_mask(save(tmp_path / name, values))
    assert mask.mode == "L" and np.array(mask).tolist() == ((CLASSES > 0) * 255).tolist()


@pytest.mark.parametrize(
    "colours",
    [
        [0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 1],  # as class masks are painted
        [0, 0, 0] * 4,  # class numbers without colours
    ],
)
def test_palette_masks_go_by_index_where_index_0_is_black(tmp_path, colours):
    indices = np.array([[0, 1, 2], [3, 0, 0]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours)
    image.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert (np.array(open_mask(tmp_path / "p.png")) > 0).tolist() == (indices > 0).tolist()


def test_palette_masks_go_by_colour_where_index_0_is_not_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 1])
    image.save(tmp_path / "p.png")
    assert np.array(open_mask(tmp_path / "p.png")).tolist() == [[255, 0, 255]]


def test_jpeg_noise_is_no_defect(tmp_path):
    values = np.zeros((64, 64), np.uint8)
    values[20:41, 20:41] = 255
    mask = np.array(open_mask(save(tmp_path / "a.jpg", values, quality=60)))
    assert (np.array(Image.open(tmp_path / "a.jpg")) > 0).sum() > (values > 0).sum() * 1.2, (
        "the case is not one"
    )
    assert (mask != values).mean() < 0.005
    assert np.array(open_mask(save(tmp_path / "b.jpg", values // 64, quality=100))).any()


def test_masks_are_thresholded_at_half_of_full_scale_after_the_resize():
    mask = Image.fromarray(np.array([[0, 0, 255, 255], [0, 0, 255, 0]] * 2, np.uint8))
    assert mask_to_tensor(mask, 4)[0].tolist() == (np.array(mask) > 0).astype(float).tolist()
    squashed = np.array(mask.resize((2, 2), Image.Resampling.BILINEAR))
    assert mask_to_tensor(mask, 2)[0].tolist() == (squashed > 127).astype(float).tolist() == [[0, 1], [0, 1]]
    assert mask_to_tensor(None, 3).shape == (1, 3, 3) and not mask_to_tensor(None, 3).any()


# Fidelity ---------------------------------------------------------------------------------------------------


def test_prepared_photographs_equal_the_published_ones():
    """Every 28th pixel at 448 px of the recorded queries, and the size of their masks."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    cases = json.loads((folder / "cases.json").read_text())
    assert cases
    for case in cases:
        golden = np.load(folder / case["file"])
        image = image_to_pixels(open_image(SHARED / case["query"]), 448)
        found = ((image / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD))[:, ::28, ::28]
        assert abs(found.numpy() - golden["pixels"]).max() < 1e-5, case["file"]
        mask = mask_to_tensor(open_mask(SHARED / case["mask"]), 448)
        assert int(mask.sum()) == int(golden["mask_pixels"]), case["file"]


@pytest.mark.parametrize(
    "turn, size, of_mask, doubted",
    [
        (1, (6, 6), 1, False),
        (6, (6, 6), 1, True),
        (6, (8, 6), 1, False),  # the size tells
        (3, (8, 6), 1, True),
        (6, (6, 6), 6, False),
        (99, (6, 6), 1, False),
    ],
)
def test_a_mask_is_doubted_where_exif_data_turn_its_photograph_alone(tmp_path, turn, size, of_mask, doubted):
    for name, orientation in (("photo.jpg", turn), ("mask.png", of_mask)):
        image = Image.new("L", size)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / name, exif=exif)
    assert bool(rotation_doubt(tmp_path / "mask.png", tmp_path / "photo.jpg")) == doubted
