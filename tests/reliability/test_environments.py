"""Real runs in odd surroundings: other environments, file systems that are full or cannot be written to, two
runs at once."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.support.constants import ROOT
from tests.support.small_runs import Place, environment, files, run, start

pytestmark = pytest.mark.slow

NAMES = ("train", "predict")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


def arguments(place, name, folder, *more):
    if name == "train":
        return place.train("--epochs", "3", "--save-every", "1", "--checkpoints", str(folder), *more)
    return place.predict("--save-maps", "--output", str(folder), *more)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """Command -> what it leaves undisturbed."""
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("whole") / name
        code, reported = run(name, arguments(place, name, folder))
        assert code == 0, reported
        found[name] = files(folder)
    return found


def run_in(name, arguments, env, before=None):
    command = [sys.executable, str(ROOT / f"{name}.py"), *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, preexec_fn=before)


@pytest.mark.parametrize(
    "name, env",
    [("predict", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}), ("train", {})],
    ids=["LANG=C", "env -i"],
)
def test_an_environment_of_ascii_or_of_nothing(place, whole, tmp_path, name, env):
    folder = tmp_path / "größe \udcff"
    done = run_in(name, arguments(place, name, folder), {**env, "OMP_NUM_THREADS": "1"} if env else {})
    assert done.returncode == 0, done.stderr
    if env:
        assert files(folder) == whole[name]
    else:
        assert files(folder).keys() == whole[name].keys()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("name, mask", [("train", 0), ("predict", 0)])
def test_files_have_the_rights_that_the_umask_says(place, whole, tmp_path, name, mask):
    done = run_in(name, arguments(place, name, tmp_path / "out"), environment(), lambda: os.umask(mask))
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "out") == whole[name]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o666 & ~mask}


@pytest.mark.parametrize("name", NAMES)
def test_of_two_runs_at_once_one_goes_on_and_the_other_is_refused(place, whole, tmp_path, name):
    """They begin together; whichever comes second is reported so, and nothing of either is mixed."""
    both = [start(name, arguments(place, name, tmp_path / "out")) for _ in range(2)]
    reported = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes and set(codes) <= {0, 2}, reported
    for code, text in zip(codes, reported):
        assert code == 0 or ("is being written by" in text and "Traceback" not in text), text
    assert files(tmp_path / "out") == whole[name]


def mount(folder, *options):
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("this user may not mount a file system")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own."""
    if not shutil.which("mount") or os.name == "nt":
        pytest.skip("there is no mount")
    folder = tmp_path / "disk"
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fills_up_is_one_sentence_and_the_run_goes_on(place, whole, small_disk, name):
    mount(small_disk, "size=1m")
    full = sum(map(len, whole[name].values())) // 2  # half of what the run leaves
    filler = small_disk / "filler"
    filler.write_bytes(bytes(max(0, 2**20 - max(16384, full))))
    code, reported = run(name, arguments(place, name, small_disk / "out"))
    assert code == 2 and "the disk is full: free some space" in reported and "Traceback" not in reported, (
        reported
    )
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, reported = run(name, arguments(place, name, small_disk / "out", "--resume"))
    assert code == 0, reported
    assert files(small_disk / "out") == whole[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_output_that_cannot_be_written_to_is_one_sentence(place, small_disk, name):
    mount(small_disk, "ro")
    begun = time.monotonic()
    code, reported = run(name, arguments(place, name, small_disk / "out"))
    assert code == 2 and "it cannot be written to: name another folder" in reported, reported
    assert "Traceback" not in reported and str(small_disk) in reported and time.monotonic() - begun < 60
