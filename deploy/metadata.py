"""Which values the metadata of an exported detector may hold. Their digest finds damage, and
this table what another program wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.files import parsed_json
from utils.image_statistics import PER_IMAGE

LARGEST_SIDE = 8192  # pixels of the input
LARGEST = 2**31  # of a photograph's side
MOST = 1e6  # map values, log-odds and statistics lie far within,
MOST_GREY = 1e39  # grey values of float32,
MOST_SCORE = float(np.finfo(np.float64).max)  # and a threshold may be any finite number


@dataclass(frozen=True)
class Field:
    """JSON numbers from `low` to `high`, of this shape (None: any length); `optional`: or no value."""

    low: float = -MOST
    high: float = MOST
    shape: tuple[int | None, ...] = ()
    whole: bool = False
    optional: bool = False

    def read(self, value: Any) -> Any:
        """A number, or an array; None for no value. ValueError for anything else."""
        if value is None and self.optional:
            return None
        values = np.array(value)
        if self.shape and value == []:
            values = np.empty([0, *(length or 0 for length in self.shape[1:])], int)
        fits = values.ndim == len(self.shape) and all(
            wanted in (None, length) for wanted, length in zip(self.shape, values.shape)
        )
        right = fits and values.dtype.kind in ("iu" if self.whole else "iuf")
        if not right or not bool(((values >= self.low) & (values <= self.high)).all()):
            raise ValueError
        values = values.astype(int if self.whole else float)
        return values if self.shape else values.item()


GREY, SCORE = (Field(-limit, limit, optional=True) for limit in (MOST_GREY, MOST_SCORE))
FIELDS = {
    "image_size": Field(4, LARGEST_SIDE, whole=True),
    "threshold": SCORE,
    "map_threshold": Field(optional=True),
    "normal_mean": Field(optional=True),
    "normal_deviation": Field(0, optional=True),
    "map_median": Field(0, optional=True),
    "grey_low": GREY,
    "grey_high": GREY,
    "heat_low": Field(),
    "heat_high": Field(),
    "reference_sizes": Field(1, LARGEST, (None, 2), whole=True),
    "reference_statistics": Field(shape=(None, PER_IMAGE)),
}
OF_TILES = {
    "width": Field(1, LARGEST, whole=True),
    "height": Field(1, LARGEST, whole=True),
    "origins": Field(0, LARGEST, (None, 2), whole=True),
}


def read_fields(fields: Mapping[str, Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values by name. `given`: JSON values, or texts, which are read as JSON; "" stands for no value.
    ValueError, which names the field, for what it may not hold."""
    values = {}
    for name, field in fields.items():
        try:
            value = given[name]
            values[name] = field.read(parsed_json(value or "null") if isinstance(value, str) else value)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{name} is not what export.py writes") from error
    return values
