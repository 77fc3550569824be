"""The mask of what counts in each photograph, from --roi and --ignore, or as it is drawn on the page: one for
all photographs, or from a folder one for each, which then travels with its photograph."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.images import IMAGE_SUFFIXES, image_size, open_image
from data.masks import key, rotation_doubt, size_doubt
from utils.config import MethodConfig
from utils.errors import ConfigError, DataError
from utils.files import content_digest
from utils.text import printable

logger = logging.getLogger("fdsl")
WHITE = 128  # grey values from here on are white
GREYS = (48, 207)  # what lies between is neither black nor white,
FINER = 4  # so many times finer is a drawn region before it is resized by area
MOST_GREY = 0.05  # and so much of a mask at most: a JPEG's edges, but no photograph
OWN = "region of interest"  # in the `info` of a photograph: its own mask (S,S) uint8


def read_roi(options: MethodConfig, side: int) -> np.ndarray | None:
    """(side, side) uint8, 255 where photographs are evaluated, from `options.roi` and `options.ignore`,
    resized by area; None without either, and where one names a folder (`MaskFolders`). DataError for what is
    no mask, and where nothing is left."""
    given = _given(options)
    return None if not given or _folders(given) else _combined(given, side)


def _given(options: MethodConfig) -> dict[str, Path]:
    """Flag -> what it names."""
    given = {"--roi": options.roi, "--ignore": options.ignore}
    return {flag: Path(path) for flag, path in given.items() if path is not None}


def _folders(given: Mapping[str, Path]) -> list[str]:
    return [flag for flag, path in given.items() if path.is_dir()]


def _combined(files: Mapping[str, Path], side: int) -> np.ndarray:
    """What the masks of the flags leave to evaluate."""
    masks = {flag: _read(flag, path, side) for flag, path in files.items()}
    inside = masks.get("--roi", np.full((side, side), 255, np.uint8)).astype(np.float32)
    outside = masks.get("--ignore", np.zeros((side, side), np.uint8)).astype(np.float32)
    left = np.rint(inside * (255 - outside) / 255).astype(np.uint8)
    if not left.any():
        flag, path = next(iter(files.items()))
        raise DataError(f"{flag} {printable(path)}: leaves nothing to evaluate; {CURES[flag]}")
    return left


def checked_roi(mask: np.ndarray, side: int) -> np.ndarray:
    """A copy of a mask that somebody made; ConfigError unless it is (side, side) uint8."""
    shape, kind = getattr(mask, "shape", None), getattr(mask, "dtype", type(mask).__name__)
    if shape != (side, side) or kind != np.uint8:
        raise ConfigError(f"mask is {shape} {kind}; give ({side},) * 2 uint8.")
    return mask.copy()


class MaskFolders:
    """The masks of photographs, where --roi or --ignore names a folder of them.

    The mask of a photograph is the one whose path in the folder, without its suffix, the photograph's path
    ends with: `line/7.png` before `7.png`.
    """

    def __init__(self, options: MethodConfig, side: int, grid: int) -> None:
        """Of images of `side` pixels and `grid` patches. DataError for a folder without a mask."""
        self.side, self.grid, self._given = side, grid, _given(options)
        self._masks = {flag: _masks_by_stem(flag, self._given[flag]) for flag in _folders(self._given)}
        self._doubted = set[Path]()

    @classmethod
    def of(cls, options: MethodConfig, side: int, grid: int) -> MaskFolders | None:
        """None where no folder is named."""
        return cls(options, side, grid) if _folders(_given(options)) else None

    def __str__(self) -> str:
        return ", ".join(f"{flag} {printable(self._given[flag])}" for flag in self._masks)

    def files(self, photograph: str | Path) -> dict[str, Path]:
        """Flag -> the mask of a photograph, by its path; DataError where there is none, or not one alone."""
        path, masks = Path(photograph), self._masks
        return {flag: self._file(flag, path) if flag in masks else one for flag, one in self._given.items()}

    def has(self, photograph: str | Path) -> bool:
        """Whether there is a mask of a photograph."""
        try:
            return bool(self.files(photograph))
        except DataError:
            return False

    def digest_with(self, photograph: str | Path, digest: str) -> str:
        """The digest of a photograph's content together with its masks', of as many digits; DataError as
        `files`, and where a mask cannot be read."""
        try:
            digests = [digest, *(content_digest(file) for file in self.files(photograph).values())]
        except OSError as error:
            raise DataError(f"a mask of it cannot be read ({error.strerror})") from error
        return hashlib.sha256("".join(digests).encode()).hexdigest()[: len(digest)]

    def _file(self, flag: str, photograph: Path) -> Path:
        name, folder = printable(photograph.name), printable(self._given[flag])
        path = _keys(Path(os.path.abspath(photograph)))
        ending = [mask for mask in self._masks[flag].get(path[-1], []) if path[-len(mask[1]) :] == mask[1]]
        longest = max((len(keys) for _, keys in ending), default=0)
        nearest = [mask for mask, keys in ending if len(keys) == longest]
        if not nearest:
            stem = printable(photograph.stem)
            raise DataError(f"{flag} {folder}: holds no mask of {name}; put {stem}.png there")
        if len(nearest) > 1:
            first, second = (printable(mask.relative_to(self._given[flag])) for mask in nearest[:2])
            raise DataError(
                f"{flag} {folder}: {first} and {second} are two masks of {name}; remove one of them"
            )
        return nearest[0]

    def on(self, photograph: Image.Image, path: str | Path) -> Image.Image:
        """The photograph of a path with its mask; DataError as `files`, and where that leaves no patch.
        Warns once of a mask that may not have been rotated as its photograph."""
        files = self.files(path)
        for mask in {files[flag] for flag in self._masks} - self._doubted:
            if doubt := _doubt(mask, photograph.size, Path(path)):
                self._doubted.add(mask)
                logger.warning("warning: %s: %s", printable(mask), doubt)
        roi = _combined(files, self.side)
        patches = np.asarray(Image.fromarray(roi).resize((self.grid, self.grid), Image.Resampling.BOX))
        if patches.max() < WHITE:
            flag, mask = next(iter(files.items()))
            raise DataError(
                f"{flag} {printable(mask)}: covers no patch by half; draw it larger, or take a larger "
                "--image-size"
            )
        photograph.info[OWN] = roi
        return photograph


def _doubt(mask: Path, photo: tuple[int, int], path: Path) -> str:
    """Why a mask may not lie on a photograph of that (width, height) as it was drawn; "" where it does. Masks
    of any size are resized to the photograph, so that it is the sides' ratio that tells."""
    size = image_size(mask)
    other_way = size[0] * photo[0] == size[1] * photo[1] and size[0] != size[1]
    return size_doubt(size, photo) if other_way else rotation_doubt(mask, path)


def _masks_by_stem(flag: str, folder: Path) -> dict[str, list[tuple[Path, list[str]]]]:
    """Key of a stem -> the masks in a folder, and in those below it, that are called so, with the keys of
    their paths in it."""
    by_stem: dict[str, list[tuple[Path, list[str]]]] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            mask = Path(place, name)
            if mask.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                keys = _keys(mask.relative_to(folder))
                by_stem.setdefault(keys[-1], []).append((mask, keys))
    if not by_stem:
        raise DataError(f"{flag} {printable(folder)}: holds no mask; put one for each photograph there")
    return by_stem


def _keys(path: Path) -> list[str]:
    """The parts of a path as names are compared, without the suffix."""
    return [key(part) for part in (*path.parts[:-1], path.stem)]


def own_roi(photograph: Image.Image) -> np.ndarray | None:
    """A photograph's own mask (S,S) uint8; None where it has none."""
    return photograph.info.get(OWN)


@dataclass(frozen=True)
class Shape:
    """A polygon, its corners (x, y) as shares of a photograph's width and height; `ignored`: what lies in it
    does not count, else what lies in it does."""

    points: tuple[tuple[float, float], ...]
    ignored: bool


def drawn_roi(shapes: Sequence[Shape], side: int) -> np.ndarray:
    """`read_roi` of shapes: what lies in one that counts (without such a one: all), but not in one that is
    ignored. DataError where nothing is left."""
    evaluated = [shape for shape in shapes if not shape.ignored]
    fine = FINER * side
    mask = Image.new("L", (fine, fine), 0 if evaluated else 255)
    pen = ImageDraw.Draw(mask)
    for shape in sorted(shapes, key=lambda shape: shape.ignored):
        pen.polygon([(x * fine, y * fine) for x, y in shape.points], fill=0 if shape.ignored else 255)
    roi = np.asarray(mask.resize((side, side), Image.Resampling.BOX))
    if not roi.any():
        raise DataError("the region of interest leaves nothing to evaluate; draw it larger, or ignore less")
    return roi


CURES = {
    "--roi": "it is to be white where photographs are evaluated, and --ignore may not cover all of that",
    "--ignore": "it is to be black where photographs are evaluated",
}


def _read(flag: str, path: Path, side: int) -> np.ndarray:
    """The mask in a file, (side, side) uint8: 255 where a pixel is white all over."""
    try:
        grey = np.asarray(open_image(path).convert("L"))
    except DataError as error:
        raise DataError(f"{flag} {error}") from error
    share = float(((grey > GREYS[0]) & (grey < GREYS[1])).mean())
    if share > MOST_GREY:
        raise DataError(
            f"{flag} {printable(path)}: {share:.0%} of it is neither black nor white, so it is no mask; "
            "give a black and white image"
        )
    white = Image.fromarray(((grey >= WHITE) * 255).astype(np.uint8))
    return np.asarray(white.resize((side, side), Image.Resampling.BOX))
