"""inspect.pyz and serve.pyz: deploy/inspect.py and deploy/serve.py, each in one file with all modules of the
project that it imports, for a machine without the project."""

from __future__ import annotations

import zipfile
from modulefinder import ModuleFinder
from pathlib import Path

from utils.files import remove_leftovers, whole_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"inspect.pyz": "deploy.inspect_command", "serve.pyz": "deploy.serve_command"}


def write_archive(file: Path) -> None:
    """Writes one of PROGRAMS, whole or not at all; `python FILE` runs it. Removes leftovers of a killed
    export."""
    program = PROGRAMS[file.name]
    remove_leftovers(file)
    with whole_file(file, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        first = f"from {program} import command\n\ncommand()\n"
        archive.writestr(zipfile.ZipInfo("__main__.py"), first)
        for module in sorted(modules_of(program)):
            archive.writestr(zipfile.ZipInfo(module.relative_to(ROOT).as_posix()), module.read_bytes())


def modules_of(name: str) -> set[Path]:
    """The files of the project that a module imports, also within functions; its own file and those of
    packages are included."""
    finder = ModuleFinder([str(ROOT)])
    finder.import_hook(name)
    files = (getattr(module, "__file__", None) for module in finder.modules.values())
    return {Path(file) for file in files if file}
