"""A dataset is one file in data/ and one entry of the registry in data/catalogue.py."""

import importlib

import pytest

from data.catalogue import DATASETS, LAYOUTS, describe_catalogue, open_catalogue
from data.layout import Layout
from data.records import Catalogue, Record
from utils.errors import DataError


@pytest.mark.parametrize("name", DATASETS)
def test_each_layout_is_that_of_the_module_of_its_name(name):
    module = importlib.import_module(f"data.{name}")
    assert LAYOUTS[name] is module.LAYOUT and module.LAYOUT.scan is module.scan


def test_a_new_layout_needs_its_entry_alone(tmp_path, monkeypatch):
    def scan(root):
        return Catalogue(root, {"nut": [Record("a.png", "", "nut", "good", False)]}, {"nut": []})

    with pytest.raises(DataError, match="choose one of mvtec, visa, folder"):
        open_catalogue("nuts", tmp_path)
    monkeypatch.setitem(LAYOUTS, "nuts", Layout("nuts", scan, {"nut": (2, 1, 1)}))
    catalogue = open_catalogue("nuts", tmp_path)
    assert catalogue == scan(tmp_path) and "1 of 2" in describe_catalogue(catalogue, "nuts")
