"""data, models and utils do not import each other; only the entry points join them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data", "models", "utils")


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_do_not_import_each_other(package):
    files = sorted((ROOT / package).glob("*.py"))
    assert files
    entry_points = {file.stem for file in ROOT.glob("*.py")}
    for file in files:
        strangers = imported(file) & ((set(PACKAGES) | entry_points) - {package})
        assert not strangers, f"{file.name} imports {strangers}"
