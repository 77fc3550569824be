"""The values that a request to the page asks for; ConfigError for any other."""

from __future__ import annotations

from typing import Any, TypeGuard

from flask import request

from data.region_of_interest import Shape
from fdsl.config.run_config import RunConfig
from utils.errors import ConfigError
from utils.files import parsed_json
from utils.numbers import is_finite
from utils.options import options_of

MOST_SHAPES, MOST_CORNERS = 100, 1000  # of a region of interest, and of one of its shapes


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
    if not _is_number(rate) or not 0 < rate < 1:
        raise ConfigError("a target false-positive rate lies between 0 and 1")
    return float(rate)


def score_in(values: dict[str, Any]) -> float:
    """A threshold that is set by hand."""
    score = values.get("score")
    if not _is_number(score):
        raise ConfigError("a threshold is a score or a target false-positive rate")
    return float(score)


def shapes_in(values: dict[str, Any]) -> tuple[Shape, ...]:
    """The shapes of the region of interest, as `Session.state` gives them."""
    given = values.get("shapes", [])
    if not isinstance(given, list) or len(given) > MOST_SHAPES or not all(map(_is_shape, given)):
        raise ConfigError("a region of interest is a list of polygons with 3 or more corners from 0 to 1")
    return tuple(Shape(tuple((x, y) for x, y in one["points"]), one["ignored"]) for one in given)


def _is_shape(given: Any) -> bool:
    points = given.get("points") if isinstance(given, dict) else None
    if not isinstance(points, list) or not 3 <= len(points) <= MOST_CORNERS:
        return False
    corners = all(
        isinstance(point, list) and len(point) == 2 and all(_is_number(x) and 0 <= x <= 1 for x in point)
        for point in points
    )
    return corners and isinstance(given.get("ignored"), bool)


def _is_number(value: object) -> TypeGuard[float]:
    return is_finite(value) and not isinstance(value, bool)
