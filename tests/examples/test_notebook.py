"""examples/own_parts.ipynb runs from its first cell to its last, and shows what it says."""

import ast
import json

import pytest
from PIL import Image

from tests.support.constants import ROOT

NOTEBOOK = ROOT / "examples" / "own_parts.ipynb"


def run_cell(source, names):
    """Runs a cell as Jupyter does; the value of its last line where that is an expression."""
    body = ast.parse(source).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
    return last and eval(compile(last, NOTEBOOK.name, "eval"), names)


@pytest.mark.slow
def test_it_runs_to_its_end(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    pictures = [value for value in shown if isinstance(value, Image.Image)]
    assert len(pictures) == 2 and all(picture.width > 1.5 * picture.height for picture in pictures)
    assert min(picture.convert("L").getextrema()[1] for picture in pictures) > 100
    assert names["ranked"][0].parent.name != "good", "the highest score is that of a defective part"
    assert names["detector"].predict(names["alarm"]).score < names["before"]
    assert "export.py --detector" in capsys.readouterr().out


def test_it_is_stored_without_outputs():
    """They would go out of date."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert cells and not any(cell.get("outputs") for cell in cells)
