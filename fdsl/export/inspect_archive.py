"""inspect.pyz: deploy/inspect.py and all of the project that it imports, in one file, for a machine that has
nothing else of the project."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

from utils.files import whole_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "deploy.command"
FIRST = f"from {PROGRAM} import command\n\ncommand()\n"


def write_inspect_archive(file: Path) -> None:
    """Writes inspect.pyz, whole or not at all; `python inspect.pyz` runs it."""
    with whole_file(file, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), FIRST)
        for module in sorted(modules_of(PROGRAM)):
            archive.writestr(zipfile.ZipInfo(module.relative_to(ROOT).as_posix()), module.read_bytes())


def modules_of(name: str) -> set[Path]:
    """The files of the project that a module imports, also within functions, its own and their packages'
    included."""
    found: set[Path] = set()
    waiting = [name]
    while waiting:
        module = ROOT.joinpath(*waiting.pop().split("."))
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if file in found or not file.is_file():
            continue  # read already, or not ours
        found |= {file, file.with_name("__init__.py")}
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return found
