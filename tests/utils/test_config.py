"""Stored settings: what is read back, and what is refused."""

from dataclasses import dataclass

import pytest

from utils.config import BackboneConfig, as_stored, from_stored, younger
from utils.errors import ConfigError


def test_stored_settings_are_checked():
    good = as_stored(BackboneConfig())
    assert from_stored(BackboneConfig, good) == BackboneConfig()
    for broken in (
        {**good, "new": 1},
        {name: good[name] for name in list(good)[1:]},
        {**good, "image_size": "518"},
    ):
        with pytest.raises(ConfigError):
            from_stored(BackboneConfig, broken)


@dataclass(frozen=True)
class Grown:
    """A configuration that got a field after files of it had been written."""

    old: int = 1
    new: tuple[str, ...] = younger(())


def test_a_younger_field_is_stored_only_where_it_is_not_its_default():
    assert as_stored(Grown(2)) == {"old": 2}
    assert as_stored(Grown(2, ("a",))) == {"old": 2, "new": ["a"]}
    for config in (Grown(2), Grown(2, ("a",))):
        assert from_stored(Grown, as_stored(config)) == config
    with pytest.raises(ConfigError, match="old"):
        from_stored(Grown, {"new": []})
