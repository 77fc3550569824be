"""Shared by the tests of reliability: places with finished runs, and one to make copies of."""

import open_clip
import pytest

from tests.support.broken_places import OneCategory
from tests.support.small_runs import command, finished_place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, a checkpoint trained without a disturbance and the run that tests it."""
    return finished_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A place of one category with a trained checkpoint."""
    base = OneCategory(tmp_path_factory.mktemp("base"))
    command("train").main(base.train("--epochs", "1"))
    return base


@pytest.fixture
def own_model_list(monkeypatch):
    """open_clip keeps every folder of model files that it was ever given."""
    for name in ("_MODEL_CONFIG_PATHS", "_MODEL_CONFIGS"):
        monkeypatch.setattr(open_clip.factory, name, getattr(open_clip.factory, name).copy())
