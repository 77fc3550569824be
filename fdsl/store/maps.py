"""maps.npz: a test run's maps and raw scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import ConfigError
from utils.files import whole_file


@dataclass
class RunMaps:
    """Patch-grid anomaly maps (n,G,G) float32 and raw scores (n,) of a run; window parts are None without
    LFE."""

    names: list[str]
    base: np.ndarray
    base_score: np.ndarray
    window: np.ndarray | None = None
    window_score: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, names: Sequence[str]) -> RunMaps:
        """The maps of `names`, in that order; ConfigError for a name that is not there."""
        place = {name: index for index, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            raise ConfigError(
                f"The maps do not hold {missing[0]} ({len(missing)} image(s) of the dataset are missing); "
                "run test.py again without --from-maps."
            )
        rows = [place[name] for name in names]
        return RunMaps(
            list(names),
            self.base[rows],
            self.base_score[rows],
            None if self.window is None else self.window[rows],
            None if self.window_score is None else self.window_score[rows],
        )


def join_maps(parts: Sequence[RunMaps]) -> RunMaps:
    """The maps of several categories, one after the other."""

    def joined(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    return RunMaps(
        [name for part in parts for name in part.names],
        joined("base"),
        joined("base_score"),
        joined("window"),
        joined("window_score"),
    )


def save_maps(
    file: Path, maps: RunMaps, fused: np.ndarray | None = None, score: np.ndarray | None = None
) -> None:
    """Writes maps.npz (DESIGN section 5), whole or not at all."""
    arrays: dict[str, np.ndarray] = {
        "names": np.array(maps.names, dtype=np.str_),
        "base": maps.base,
        "base_score": maps.base_score,
    }
    if maps.window is not None:
        arrays |= {"window": maps.window, "window_score": maps.window_score}
    if fused is not None:
        arrays |= {"fused": fused, "score": score}
    with whole_file(file, "wb") as out:
        np.savez(out, **arrays)


def load_maps(file: Path) -> RunMaps:
    """Reads maps.npz; ConfigError when it is not there, not whole, or its arrays do not fit together."""
    try:
        with np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        maps = RunMaps(
            [str(name) for name in arrays["names"]],
            arrays["base"],
            arrays["base_score"],
            arrays.get("window"),
            arrays.get("window_score"),
        )
    except FileNotFoundError:
        raise ConfigError(f"There is no {file}; name the folder of a finished test run.") from None
    except Exception as error:  # zipfile, numpy and zlib raise many kinds
        raise ConfigError(f"{file} is not a whole file of maps ({error}); run test.py again.") from error
    shapes = [maps.base.shape, *([maps.window.shape] if maps.window is not None else [])]
    if any(len(shape) != 3 or shape[0] != len(maps) for shape in shapes) or maps.base_score.shape != (
        len(maps),
    ):
        raise ConfigError(f"{file} holds arrays that do not fit together; run test.py again.")
    return maps
