"""A dataset is one file in data/ and one name in data/records.py."""

import ast
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from data.catalogue import describe_catalogue, open_catalogue
from data.records import DATASETS, Record, layout_of
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
NUTS = ("train/ok/0.png", "test/ok/1.png", "test/broken/2.png", "test/broken/10.png", "masks/2.png")


@pytest.mark.parametrize("name", DATASETS)
def test_each_layout_is_that_of_the_module_of_its_name(name):
    module = importlib.import_module(f"data.{name}")
    layout = layout_of(name)
    assert layout is module.LAYOUT and layout.name == name and layout.scan is module.scan


def test_the_example_of_the_document_is_a_dataset(tmp_path, monkeypatch):
    """docs/extending.md's file, run as it stands there, and its name."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    module = ModuleType("data.nuts")
    exec(re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1], vars(module))
    monkeypatch.setitem(sys.modules, "data.nuts", module)
    for name in NUTS:
        (tmp_path / "hexagonal" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "hexagonal" / name)
    with pytest.raises(DataError, match="choose one of mvtec, visa, folder"):
        open_catalogue("nuts", tmp_path)
    names = re.search(r"^DATASETS = (.*)$", text, re.MULTILINE)[1]
    monkeypatch.setattr("data.catalogue.DATASETS", ast.literal_eval(names))
    catalogue = open_catalogue("nuts", tmp_path)
    assert catalogue.test["hexagonal"] == [
        Record("hexagonal/test/broken/2.png", "hexagonal/masks/2.png", "hexagonal", "broken", True),
        Record("hexagonal/test/broken/10.png", "", "hexagonal", "broken", True),
        Record("hexagonal/test/ok/1.png", "", "hexagonal", "good", False),
    ]
    assert "1 of 60" in describe_catalogue(catalogue, "nuts")
    with pytest.raises(DataError, match="holds no folder with train/ok"):
        open_catalogue("nuts", tmp_path / "hexagonal")
