"""maps.npz, a test run's maps and raw scores, and those of the finished categories of an interrupted run."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.features import ScoreMaps, join_score_maps
from utils.errors import ConfigError
from utils.files import remove_folder, sync_folder, whole_file

logger = logging.getLogger("fdsl")
ARRAYS = ("base", "base_score", "window", "window_score")  # that are read in addition to the names


@dataclass(frozen=True)
class RunMaps:
    """The names of a run's images and their score maps: arrays (n,G,G) and (n,), float32."""

    names: list[str]
    maps: ScoreMaps

    def __len__(self) -> int:
        return len(self.names)

    def select(self, names: Sequence[str]) -> RunMaps:
        """The maps of `names`, in that order; ConfigError for a missing name."""
        place = {name: index for index, name in enumerate(self.names)}
        if len(place) < len(self.names):
            raise ConfigError("The maps hold an image twice; run test.py again without --from-maps.")
        missing = [name for name in names if name not in place]
        if missing:
            raise ConfigError(
                f"The maps do not hold {missing[0]} ({len(missing)} image(s) of the dataset are missing); "
                "run test.py again without --from-maps."
            )
        return RunMaps(list(names), self.maps.of([place[name] for name in names]))


def join_run_maps(parts: Sequence[RunMaps]) -> RunMaps:
    """The maps of several categories, one after the other."""
    names = [name for part in parts for name in part.names]
    return RunMaps(names, join_score_maps([part.maps for part in parts]))


def save_maps(
    file: Path, run: RunMaps, fused: np.ndarray | None = None, score: np.ndarray | None = None
) -> None:
    """Writes maps.npz (docs/design.md, section 4), whole or not at all."""
    arrays: dict[str, np.ndarray] = {"names": np.array(run.names, dtype=np.str_)}
    arrays |= {name: part for name, part in vars(run.maps).items() if part is not None}
    if fused is not None and score is not None:
        arrays |= {"fused": fused, "score": score}
    with whole_file(file, "wb") as out:
        np.savez(out, allow_pickle=False, **arrays)


def load_maps(file: Path) -> RunMaps:
    """The content of maps.npz; ConfigError where it is missing or incomplete, or its arrays do not fit
    together."""
    try:
        with zipfile.ZipFile(file) as saved_as:
            if any(member.compress_type for member in saved_as.infolist()):
                raise ValueError("its arrays are compressed")  # they might take far more memory than the file
        with np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in ("names", *ARRAYS) if name in saved.files}
        maps = ScoreMaps(*(arrays.get(name) for name in ARRAYS))
        if arrays["names"].ndim != 1 or arrays["names"].dtype.kind != "U":
            raise ValueError("its names are no list of names")
        names = [str(name) for name in arrays["names"]]
    except FileNotFoundError:
        raise ConfigError(f"There is no {file}; name the folder of a finished test run.") from None
    except Exception as error:  # zipfile, numpy and zlib raise many kinds
        raise ConfigError(f"{file} is not a complete file of maps ({error}); run test.py again.") from error
    if maps.base is None or maps.base_score is None or not _fit_together(len(names), maps):
        raise ConfigError(f"{file} holds arrays that do not fit together; run test.py again.")
    if not all(np.isfinite(part).all() for part in maps.arrays):
        raise ConfigError(f"{file} holds maps that are not finite; run test.py again.")
    return RunMaps(names, maps)


def _fit_together(count: int, maps: ScoreMaps) -> bool:
    """Whether the arrays are maps (n,G,G) and scores (n,) of `count` images, with windows for all or for
    none."""
    if (maps.window is None) != (maps.window_score is None):
        return False
    pairs = [(maps.base, maps.base_score), (maps.window, maps.window_score)]
    return all(
        values.ndim == 3
        and len(values) == count
        and values.shape[1] == values.shape[2] > 0
        and scores.shape == (count,)
        and values.dtype.kind == scores.dtype.kind == "f"
        for values, scores in pairs
        if values is not None
    )


class FinishedCategories:
    """The maps of a run's finished categories, a file each in FOLDER/.parts until the run has ended.

    A file's name is a digest of all that its maps depend on, so maps of other settings are never taken.
    """

    NAME = ".parts"

    def __init__(self, folder: Path) -> None:
        """Makes FOLDER/.parts."""
        self.folder = Path(folder) / self.NAME
        self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def left_in(cls, folder: Path) -> bool:
        """Whether `folder` holds a run that has begun and not ended."""
        return (Path(folder) / cls.NAME).is_dir()

    def load(self, depends_on: Mapping[str, Any], names: list[str]) -> RunMaps | None:
        """The finished maps of the images `names`, or None."""
        file = self._file(depends_on)
        if not file.is_file():
            return None
        try:
            maps = load_maps(file)
        except ConfigError as error:
            logger.warning("%s It is computed again.", error)
            return None
        return maps if maps.names == names else None

    def save(self, depends_on: Mapping[str, Any], maps: RunMaps) -> None:
        save_maps(self._file(depends_on), maps)

    def clear(self) -> None:
        """Removes the files before a run."""
        remove_folder(self.folder)
        self.folder.mkdir()

    def discard(self) -> None:
        """Removes the files and their folder after a run, whose results are brought to the disk first."""
        sync_folder(self.folder.parent)
        remove_folder(self.folder)

    def _file(self, depends_on: Mapping[str, Any]) -> Path:
        text = json.dumps(depends_on, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:24]}.npz"
