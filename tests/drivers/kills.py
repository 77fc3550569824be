"""Kills train.py, test.py, predict.py (also where it changes a saved detector) and export.py at file-system
events of theirs and lets them go on.

    python tests/drivers/kills.py [--kills 40]

An event is a file under the run's folder or the temporary one that is opened for writing, flushed to the
disk, renamed, removed or cut, or a folder that is made or removed. One process runs undisturbed and counts
its events; then, for moments spread evenly over them, a process is killed (SIGKILL) just before the event,
the same command is given again, and what it leaves must equal what the undisturbed run left. Processes are
forked from one that has imported everything. POSIX only.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.support.small_runs import Place, command, files

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
NEVER_LEFT = (".tmp", ".new", ".lock", ".parts", ".partial", ".unfinished.safetensors")
CHANGES = {"forget": ("--forget", "000.png"), "grow": ("--add-references", "cup/test/good")}  # of a detector
CHANGED = "changed.safetensors"  # is there before, as another detector
NAMES = ("train", "test", "predict", *CHANGES, *(("export",) if find_spec("onnxscript") else ()))


class Events:
    """Counts the events of this process under `folder`, and kills it before number `fatal` (None: never)."""

    def __init__(self, folder: Path, fatal: int | None) -> None:
        self.folders = (os.path.abspath(folder), tempfile.gettempdir())
        self.fatal, self.count = fatal, 0
        self._fsync = os.fsync

    def begin(self) -> None:
        sys.addaudithook(self._heard)
        os.fsync = self._flushed

    def _heard(self, event: str, given: tuple) -> None:
        if event not in EVENTS or not isinstance(given[0], str | bytes | os.PathLike):
            return
        if event == "open" and not self._writes(given):
            return
        if os.path.abspath(os.fsdecode(given[0])).startswith(self.folders):
            self._happens()

    @staticmethod
    def _writes(given: tuple) -> bool:
        _, mode, flags = given
        writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(writing) or (isinstance(mode, str) and any(letter in mode for letter in "wax+"))

    def _flushed(self, handle: int) -> None:
        self._happens()
        self._fsync(handle)

    def _happens(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(
    main: Callable, arguments: list[str], folder: Path, log: Path, fatal: int | None
) -> tuple[int, int]:
    """Runs an entry point in a process of its own; (wait status, number of events)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            events = Events(folder, fatal)
            events.begin()
            main(arguments)
            os.write(writing, str(events.count).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as raised:
        count = raised.read()
    return os.waitpid(child, 0)[1], int(count or 0)


def arguments_of(place: Place, name: str, folder: Path) -> list[str]:
    """A command that writes into `folder`."""
    if name == "train":
        return place.train("--epochs", "4", "--save-every", "1", "--checkpoints", str(folder))
    if name == "test":
        return place.test("--results", str(folder))
    if name == "export":
        return ["--detector", str(detector_of(place)), "--output", str(folder / "part.onnx")]
    if name in CHANGES:
        flag, given = CHANGES[name]
        given = str(place.data / given) if name == "grow" else given
        where = ["--model-config", str(place.configs), "--device", "cpu", "--save-detector"]
        return ["--detector", str(detector_of(place)), flag, given, *where, str(folder / CHANGED)]
    return place.predict("--resume", "--save-maps", "--output", str(folder))


def detector_of(place: Place) -> Path:
    """The saved detector that `measure` makes."""
    return place.folder / "part.safetensors"


def at_events(place: Place, name: str, kills: int, work: Path) -> dict:
    """Kills one command at `kills` of its events; returns what is printed. AssertionError where a run does
    not go on to the very same files."""
    log = work / f"{name}.log"
    main = command("predict" if name in CHANGES else name).main

    def run(folder: Path, fatal: int | None = None) -> tuple[int, int]:
        return forked(main, arguments_of(place, name, folder), folder, log, fatal)

    status, count = run(work / f"{name}-whole")
    assert status == 0, log.read_text()
    wanted, killed = files(work / f"{name}-whole"), 0
    for number in sorted({1 + count * moment // kills for moment in range(kills)}):
        folder = work / f"{name}-{number}"
        if name in CHANGES:
            folder.mkdir()
            shutil.copyfile(detector_of(place), folder / CHANGED)
        status, _ = run(folder, number)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (number, log.read_text())
        if name in CHANGES:
            whole = (detector_of(place).read_bytes(), (work / f"{name}-whole" / CHANGED).read_bytes())
            assert (folder / CHANGED).read_bytes() in whole, f"killed before event {number}: half a detector"
            left = [one for one in os.listdir(tempfile.gettempdir()) if not one.startswith("torchinductor")]
            assert not left, f"killed before event {number}, {name} left {left} in the temporary folder"
        status, _ = run(folder)
        assert status == 0, (number, log.read_text())
        assert files(folder) == wanted, f"killed before event {number}, {name}.py left other files"
        left = [path.name for path in folder.rglob("*") if path.name.endswith(NEVER_LEFT)]
        assert not left, f"killed before event {number}, {name}.py left {left}"
        killed += 1
        shutil.rmtree(folder)
    return {"command": name if name in CHANGES else f"{name}.py", "events": count, "kills": killed}


def measure(kills: int) -> Iterator[dict]:
    """Every command, each killed at `kills` events; a row as soon as a command is done."""
    with tempfile.TemporaryDirectory() as folder:
        work, tempfile.tempdir = Path(folder), str(Path(folder, "temporary"))
        os.mkdir(tempfile.tempdir)
        place = Place(work / "place")
        fitted = place.predict("--save-detector", str(detector_of(place)), "--output", str(work / "fitted"))
        for name, arguments in (("train", place.train()), ("predict", fitted)):
            status, _ = forked(command(name).main, arguments, work / "none", work / "log", None)
            assert status == 0, (work / "log").read_text()
        for name in NAMES:
            yield at_events(place, name, kills, work)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40, help="of each command (default 40)")
    for row in measure(parser.parse_args().kills):
        print(
            f"{row['command']}: {row['kills']} kills at {row['events']} events; all ended in the same files",
            flush=True,
        )


if __name__ == "__main__":
    main()
