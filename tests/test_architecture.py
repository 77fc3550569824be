"""Who may import whom, that imports do not go round, that names stand once, and that requirements are
complete."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from fdsl.export.inspect_archive import PROGRAMS, modules_of
from tests.support.constants import ROOT

COMMANDS = {"train", "test", "predict", "app", "export"}
LOWER = {"fdsl", "data", "models", "utils"}
MAY_IMPORT = {
    "utils": {"utils"},
    "data": {"data", "utils"},
    "models": {"models", "utils"},
    "fdsl": LOWER,
    "page": LOWER | {"page"},
    "deploy": {"deploy", "data", "utils"},  # inspect.pyz holds these alone
    "benchmarks": LOWER | {"benchmarks", "deploy"},
    ".": LOWER | {"page"},  # the commands
}
IN_THE_ROOT = {f"{name}.py" for name in COMMANDS} | {
    "trainAndTest.sh",
    "test_few_shot.sh",
    "reproduce.sh",
    "ablations.sh",
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "pyproject.toml",
    "requirements.txt",
    "requirements-app.txt",
    "requirements-export.txt",
    "requirements-dev.txt",
}
COMES_WITH = {
    "huggingface_hub": "timm",
    "markupsafe": "jinja2",
    "werkzeug": "flask",
    "threadpoolctl": "scikit-learn",
    "onnx_ir": "onnxscript",
}  # whose own interface needs it


def files_of(*folders: str) -> list[Path]:
    """The Python files of these folders of the project and of the folders in them; of the root (.) its own
    alone."""
    return sorted(
        file for folder in folders for file in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
    )


PRODUCT = files_of(".", "data", "models", "fdsl", "utils", "page", "deploy")
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in PRODUCT}
MODULES |= {name.removesuffix(".__init__"): file for name, file in MODULES.items()}


def imported_by(node: ast.AST, package: tuple[str, ...] = ()) -> set[str]:
    """Names, with dots, that one import statement asks for; `package`: where a relative one begins. `from a
    import b` asks for a.b where that is a module of ours, else for a."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    above = package[: len(package) - node.level + 1] if node.level else ()
    base = ".".join((*above, *filter(None, [node.module])))
    return {name if (name := f"{base}.{alias.name}") in MODULES else base for alias in node.names}


def package_of(file: Path) -> tuple[str, ...]:
    return file.relative_to(ROOT).parent.parts


def imported(file: Path) -> set[str]:
    """The first names of all modules that a file imports, at its top or later."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {name.split(".")[0] for node in nodes for name in imported_by(node, package_of(file))}


def needs(file: Path) -> set[Path]:
    """The product's files that a reader of this one is sent to: those that it imports at its top or later,
    for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        found |= imported_by(node, package_of(file))
    return {MODULES[name] for name in found if name in MODULES}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_layers_import_what_lies_below_them(folder):
    """utils nothing of ours, data and models utils alone, fdsl these three, and nothing a command."""
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()} | COMMANDS
    files = files_of(folder)
    assert files
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        strangers = imported(file) & ours - MAY_IMPORT[folder]
        assert not strangers, f"{name} imports {strangers}"


def prints(node):
    """Whether a call writes to a standard stream by itself, or makes a parser whose messages do."""
    name = ast.unparse(node.func)
    return name == "print" or name.endswith(("stdout.write", "stderr.write", "argparse.ArgumentParser"))


def test_what_is_printed_goes_through_one_writer():
    """utils/console.py escapes control characters, which a name from elsewhere may hold."""
    found = [
        f"{file.relative_to(ROOT)} line {node.lineno}"
        for file in PRODUCT
        if file != ROOT / "utils" / "console.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and prints(node)
    ]
    assert PRODUCT and found == []


def test_tests_and_benchmarks_do_not_need_each_other():
    """Benchmarks are run as commands."""
    assert [file for file in files_of("tests") if "benchmarks" in imported(file)] == []


def test_what_a_command_line_said_ends_in_flags():
    """Elsewhere it is typed settings: nothing handles what argparse gives but an entry script's main."""
    readers_of_words = [
        ROOT / "utils" / f"{name}.py" for name in ("console", "command_line", "settings_file")
    ]
    scripts = {ROOT / "app.py", ROOT / "data" / "prepare.py", *readers_of_words}
    of_deploy = {
        ROOT / "deploy" / f"{name}.py" for name in ("detector_flags", "inspect_command", "serve_command")
    }
    flags = {*(ROOT / "fdsl" / "flags").glob("*.py"), *of_deploy, *scripts}
    assert {file for file in PRODUCT if "argparse" in imported(file)} <= flags
    readers = set()
    for name in ("test", "predict", "train", "export"):
        for function in ast.parse((ROOT / f"{name}.py").read_text()).body:
            names = {getattr(node, "id", getattr(node, "arg", "")) for node in ast.walk(function)}
            readers |= {f"{name}.{getattr(function, 'name', '')}"} if names & {"args", "several"} else set()
    assert readers == {"test.main"}


def test_imports_do_not_go_round():
    graph = {file: needs(file) for file in set(MODULES.values())}
    assert sum(map(len, graph.values())) > len(graph), "the imports are found at all"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(file.relative_to(ROOT).as_posix() for file in error.args[1]))


def test_a_file_name_stands_once():
    counted = Counter(file.name for file in PRODUCT if file.name != "__init__.py")
    assert [name for name, count in counted.items() if count > 1] == []


def test_a_test_files_name_stands_once():
    """pytest takes the second one of a name for the first, and stops."""
    names = Counter(file.name for file in files_of("tests") if file.name.startswith("test_"))
    assert names and [name for name, count in names.items() if count > 1] == []


def test_the_root_holds_what_a_user_types_and_reads():
    found = {path.name for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert found - IN_THE_ROOT == set(), "these belong into a folder"
    assert {f"{name}.py" for name in COMMANDS} <= found


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


APP = [ROOT / "app.py", *files_of("page")]
# On the line: --config says where the first is missing; progress bars of other commands take the second.
OPTIONAL = {"yaml", "tqdm"}
ON_THE_LINE = sorted(set().union(*map(modules_of, PROGRAMS.values())))
EXPORT = [ROOT / "export.py", *sorted((ROOT / "fdsl" / "export").glob("onnx_*.py"))]


@pytest.mark.parametrize(
    "file, importing",
    [
        ("requirements.txt", sorted(set(PRODUCT) - {*APP, *EXPORT, *files_of("deploy")})),
        ("requirements-app.txt", APP),
        ("requirements-export.txt", EXPORT),
        ("deploy/requirements.txt", ON_THE_LINE),
        ("requirements-dev.txt", files_of("tests", "benchmarks")),
    ],
    ids=["product", "app", "export", "deploy", "tests"],
)
def test_what_is_imported_is_required(file, importing):
    """A fresh environment has what its requirements file lists, and no more than that is promised."""
    own = {path.name for path in ROOT.iterdir() if path.is_dir()} | COMMANDS
    names, known = required(file), packages_distributions()
    assert importing
    for path in importing:
        optional = OPTIONAL if file == "deploy/requirements.txt" else {"__future__"}
        for module in imported(path) - own - set(sys.stdlib_module_names) - {"__future__"} - optional:
            module = COMES_WITH.get(module, module)
            packages = {name.lower().replace("_", "-") for name in known.get(module, [])} | {module}
            assert packages & names, f"{path.relative_to(ROOT)} imports {module}, which {file} does not list"


@pytest.mark.slow
def test_predict_does_not_wait_for_scikit_learn():
    """It takes a second to import, and only photographs with labels have curves to draw."""
    code = "import sys, predict; sys.exit('sklearn' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_fast_test_starts_no_python():
    """tests/conftest.py refuses it, so that the fast tests stay fast."""
    with pytest.raises(AssertionError, match="test_a_fast_test_starts_no_python starts python"):
        subprocess.run([sys.executable, "-c", ""])
