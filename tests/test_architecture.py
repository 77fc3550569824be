"""data, models and utils do not import each other; only the entry points join them."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data", "models", "utils")
COMES_WITH = {
    "markupsafe": "jinja2",
    "werkzeug": "flask",
    "threadpoolctl": "scikit-learn",
}  # whose own interface needs it


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


def required(file: str) -> set[str]:
    """Packages of a requirements file, and of those that it names, as PyPI spells them: lower case, with
    hyphens."""
    found = set()
    for line in (ROOT / file).read_text().splitlines():
        if line.startswith("-r "):
            found |= required(line[3:].strip())
        elif line and not line.startswith("#"):
            found.add(re.split(r"[=<>!~ ]", line)[0].lower().replace("_", "-"))
    return found


@pytest.mark.parametrize(
    "places, file",
    [
        (("*.py", "data/*.py", "models/*.py", "utils/*.py", "examples/*.py"), "requirements.txt"),
        (("app.py", "page/*.py"), "requirements-app.txt"),
        (("tests/*.py", "tests/browser/*.py", "benchmarks/*.py"), "requirements-dev.txt"),
    ],
)
def test_what_is_imported_is_required(places, file):
    """A fresh environment has what its requirements file lists, and no more than that is promised."""
    files = [
        path
        for place in places
        for path in ROOT.glob(place)
        if (path.name == "app.py") == (file == "requirements-app.txt") or file != "requirements.txt"
    ]
    own = (
        {path.stem for path in ROOT.glob("*.py")}
        | {path.name for path in ROOT.iterdir() if path.is_dir()}
        | {"browser"}
    )
    own |= {path.stem for path in (ROOT / "tests").rglob("*.py")}
    names, known = required(file), packages_distributions()
    for path in files:
        for module in imported(path) - own - set(sys.stdlib_module_names) - {"__future__"}:
            module = COMES_WITH.get(module, module)
            packages = {name.lower().replace("_", "-") for name in known.get(module, [])} | {module}
            assert packages & names, f"{path.relative_to(ROOT)} imports {module}, which {file} does not list"


def test_predict_does_not_wait_for_scikit_learn():
    """It takes a second to import, and only photographs with labels have curves to draw."""
    code = "import sys, predict; sys.exit('sklearn' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
