"""The values that a request to the page asks for; ConfigError for any other."""

from __future__ import annotations

from typing import Any, TypedDict

from flask import request

from data.region_of_interest import Shape
from fdsl.config.run_config import RunConfig
from utils.errors import ConfigError
from utils.files import parsed_json
from utils.options import is_of, options_of

MOST_SHAPES, MOST_CORNERS = 100, 1000  # of a region of interest, and of one of its shapes


class DrawnShape(TypedDict):
    """A Shape as JSON."""

    points: list[tuple[float, float]]
    ignored: bool


def asked() -> dict[str, Any]:
    """The request's body, a JSON object."""
    try:
        values = parsed_json(request.get_data())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError("the request is not a JSON object")
    return values


def rotations_in(values: dict[str, Any]) -> int | str:
    """How many rotated copies of the references."""
    rotations = values.get("rotations", 1)
    options_of(RunConfig)["rotations"].refuse(rotations)
    return rotations


def rate_in(values: dict[str, Any]) -> float:
    """The target false-positive rate."""
    rate = values.get("rate", 0.01)
    if not is_of(float, rate) or not 0 < rate < 1:
        raise ConfigError("a target false-positive rate lies between 0 and 1")
    return float(rate)


def score_in(values: dict[str, Any]) -> float:
    """A threshold that is set by hand."""
    score: Any = values.get("score")
    if not is_of(float, score):
        raise ConfigError("a threshold is a score or a target false-positive rate")
    return float(score)


def shapes_in(values: dict[str, Any]) -> tuple[Shape, ...]:
    """The shapes of the region of interest, as `Session.state` gives them."""
    given = values.get("shapes", [])
    if not is_of(list[DrawnShape], given) or len(given) > MOST_SHAPES or not all(map(_lies_inside, given)):
        raise ConfigError("a region of interest is a list of polygons with 3 or more corners from 0 to 1")
    return tuple(Shape(tuple((x, y) for x, y in one["points"]), one["ignored"]) for one in given)


def _lies_inside(shape: DrawnShape) -> bool:
    points = shape["points"]
    return 3 <= len(points) <= MOST_CORNERS and all(0 <= x <= 1 for point in points for x in point)
