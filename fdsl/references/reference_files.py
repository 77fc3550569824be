"""The files of normal images that a flag names; warns of those that are skipped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data.category_folders import is_normal
from data.folder import SPLIT_FOLDERS
from data.images import pages_left_out
from data.inputs import find_images, list_images
from data.listing import list_folders
from data.masks import MASK_FOLDERS
from utils.console import warn
from utils.errors import DataError
from utils.text import printable

NOT_NORMAL = {*MASK_FOLDERS, "mask", "test", "test_public", "bad", "defect", "defects", "anomaly"}


def reference_files(given: Sequence[str], flag: str = "--references") -> list[Path]:
    """The normal images in files, folders and patterns that `flag` names, each once; warns of skipped ones.

    DataError where there is none, and for a folder that holds a dataset: its masks and defects would be
    taken for normal images.
    """
    what = "reference" if flag == "--references" else "calibration image"
    for one in given:
        if os.path.isdir(one):
            _refuse_dataset(Path(one), flag)
    warn([f"among the {what}s {one.name}: {one.reason}" for one in find_images(given) if one.reason])
    files = list_images(list(given))
    pages = [(path, pages_left_out(path)) for path in files]
    warn([f"of {what} {printable(path.name)} {count} page(s) are left out" for path, count in pages if count])
    return files


def _refuse_dataset(folder: Path, flag: str) -> None:
    """DataError where the folder, or one in it, holds folders of masks or of defects."""
    for inner in [folder, *(folder / name for name in list_folders(folder))]:
        others = [name for name in list_folders(inner) if name.casefold() in NOT_NORMAL]
        if others:
            raise DataError(
                f"{flag} {printable(folder)}: {printable(inner / others[0])}/ lies inside, which holds "
                f"no normal images; give the folder of normal ones{_normal_folder(inner)}"
            )


def _normal_folder(folder: Path) -> str:
    """The folder in a dataset that seems to hold its normal images, as the end of a sentence."""
    for place in (folder, *(folder / split for split in SPLIT_FOLDERS)):
        for name in list_folders(place):
            if is_normal(name):
                return f", {printable(place / name)}"
    return " alone"
