"""Stored settings: what is read back, and what is refused."""

import pytest

from utils.config import BackboneConfig
from utils.errors import ConfigError
from utils.options import as_stored, from_stored


def test_stored_settings_are_checked():
    good = as_stored(BackboneConfig())
    assert from_stored(BackboneConfig, good) == BackboneConfig()
    for broken in (
        {**good, "new": 1},
        {name: good[name] for name in list(good)[1:]},
        {**good, "image_size": "518"},
        [],
        None,
    ):
        with pytest.raises(ConfigError):
            from_stored(BackboneConfig, broken)
