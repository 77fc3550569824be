"""Drawn photographs, in memory and as files."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def texture(seed, defect=False, height=60, width=80):
    """Grey with soft spots; a defect is a red square at rows 30..45, columns 50..65."""
    generator = np.random.default_rng(seed)
    coarse = (
        generator.normal(120, 12, (height // 8 + 1, width // 8 + 1))
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )
    photo = coarse[..., None] + generator.normal(0, 3, (height, width, 3))
    photo = photo.clip(0, 255).astype(np.uint8)
    if defect:
        photo[30:46, 50:66] = (250, 20, 20)
    return photo


def draw(path, seed, defect=False, size=(80, 60)):
    """Writes a texture of `size` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(seed, defect, size[1], size[0])).save(path)


def draw_parts(root):
    """good/ with three references and parts/ with good and defective photographs, nested, and a broken
    one."""
    for number in (1, 2, 3):
        draw(root / "good" / f"{number}.png", number)
    for number in (2, 10):
        draw(root / "parts" / f"{number}.png", 20 + number)
    draw(root / "parts" / "line b" / "x,1.png", 30, defect=True)
    draw(root / "parts" / "line b" / "deep" / "7.JPG", 31, defect=True)
    (root / "parts" / "line b" / "broken.png").write_bytes(b"not an image")
    (root / "parts" / "notes.txt").write_text("no photograph")
    return root


def write_image(path, pixels):
    """Writes (H,W,3) or (H,W) uint8, the colours in OpenCV's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def save(file: Path, value: int | np.ndarray = 100, size: tuple[int, int] = (12, 10)) -> Path:
    """Writes an array's picture, or a grey one of `size` (width, height) with one value."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new("L", size, value)).save(file)
    return file


def png(seed=0, spot=False, size=(44, 36), kind="PNG"):
    """The bytes of a file: noise, with a red square where there is a spot."""
    pixels = np.random.default_rng(seed).normal(120, 10, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
    if spot:
        pixels[12:24, 20:34] = (250, 20, 20)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def grey_png(value=128, size=(44, 36)):
    """A photograph of one grey, without any structure."""
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "PNG")
    return file.getvalue()
