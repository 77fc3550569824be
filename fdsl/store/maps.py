"""maps.npz: a test run's maps and raw scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.features import ScoreMaps, join_score_maps
from utils.errors import ConfigError
from utils.files import whole_file


@dataclass(frozen=True)
class RunMaps:
    """The score maps of a run's images, by their names: arrays (n,G,G) and (n,), float32."""

    names: list[str]
    maps: ScoreMaps

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
    """Reads maps.npz; ConfigError when it is not there, not whole, or its arrays do not fit together."""
    try:
        with np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        maps = ScoreMaps(*(arrays.get(name) for name in ("base", "base_score", "window", "window_score")))
        names = [str(name) for name in arrays["names"]]
    except FileNotFoundError:
        raise ConfigError(f"There is no {file}; name the folder of a finished test run.") from None
    except Exception as error:  # zipfile, numpy and zlib raise many kinds
        raise ConfigError(f"{file} is not a whole file of maps ({error}); run test.py again.") from error
    if maps.base is None or maps.base_score is None or not _fit_together(len(names), maps):
        raise ConfigError(f"{file} holds arrays that do not fit together; run test.py again.")
    return RunMaps(names, maps)


def _fit_together(count: int, maps: ScoreMaps) -> bool:
    """Whether the arrays are maps (n,G,G) and scores (n,) of `count` images, with windows for all or for
    none."""
    if (maps.window is None) != (maps.window_score is None):
        return False
    pairs = [(maps.base, maps.base_score), (maps.window, maps.window_score)]
    return all(
        values.ndim == 3 and len(values) == count and scores.shape == (count,)
        for values, scores in pairs
        if values is not None
    )
