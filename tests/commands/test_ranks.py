"""Several processes leave the very files of one, whatever their number, also where one of them was killed."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from fdsl.evaluation.run_folder import RunFolder
from fdsl.scoring import NotFinite, Scorer
from fdsl.store.maps import FinishedCategories
from tests.support.constants import ROOT
from tests.support.ranks import as_command, in_ranks
from tests.support.small_runs import Place, command, environment, files
from utils.lock import locked

test, train = command("test"), command("train")
pytestmark = pytest.mark.usefixtures("one_thread")
SEVERAL = ("--seed", "14", "15", "--pictures", "1")
ABLATED = (*("--k-shot", "1", "2", "--pictures", "0", "--ablate", "method=nearest,fdsl"), "winmode=nan,mul")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("place"))
    train.main(place.train("--epochs", "1"))
    test.main(place.test(*SEVERAL))
    return place


def in_torchrun(size, name, arguments, *more):
    """The command as users start it: (exit code, standard error)."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    done = subprocess.run(
        [*words, *more, str(ROOT / f"{name}.py"), *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def of_ranks(place, size, results, *more, action=None):
    arguments = place.test(*(more or SEVERAL), results=results)
    return in_ranks(
        size, action or (lambda _: as_command(test.main, arguments)), place.folder / f"{results}-reported"
    )


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_it_gives_the_files_of_one_process(place, size):
    codes, reported = of_ranks(place, size, f"ranks{size}")
    assert codes == [0] * size, reported
    wanted = files(place.folder / "results")
    assert len([name for name in wanted if name.endswith("maps.npz")]) == 2
    assert files(place.folder / f"ranks{size}") == wanted
    configs = [
        sorted(folder.rglob("config.json"))
        for folder in (place.folder / "results", place.folder / f"ranks{size}")
    ]
    assert [one.read_text().count("1 threads") for part in configs for one in part] == [1] * 4


def tables_and_files(folder):
    """What the runs of a table leave, and the table but for its command."""
    found = files(folder)
    text = found.pop("m/mvtec/ablation.md").decode()
    return found, [line for line in text.splitlines() if not line.startswith("The command: ")]


@pytest.fixture(scope="module")
def table(place):
    test.main(place.test(*ABLATED, results="table"))
    return tables_and_files(place.folder / "table")


@pytest.mark.slow
def test_an_ablation_has_the_files_and_the_table_of_one_process(place, table):
    codes, reported = of_ranks(place, 2, "ablated", *ABLATED)
    assert codes == [0, 0], reported
    assert tables_and_files(place.folder / "ablated") == table
    assert len([name for name in table[0] if name.endswith("maps.npz")]) == 8
    assert reported[0].count("8 runs: ") == 1 and "8 runs: " not in reported[1]


@pytest.mark.slow
def test_ranks_go_from_one_backbone_to_the_next_together(place):
    flags = ("--pictures", "0", "--method", "nearest", "--winmode", "nan", "--ablate", "layers=1+3,3")

    def arguments(results):
        words = place.test(*flags, results=results)
        for flag, values in {"--layers": 2, "--checkpoint": 1, "--win-size": 1, "--win-stride": 1}.items():
            del words[words.index(flag) : words.index(flag) + 1 + values]
        return words

    test.main(arguments("encoders"))
    codes, reported = in_ranks(
        2, lambda _: as_command(test.main, arguments("encoders-of-ranks")), place.folder / "encoders-reported"
    )
    assert codes == [0, 0], reported
    assert tables_and_files(place.folder / "encoders-of-ranks") == tables_and_files(place.folder / "encoders")


@pytest.mark.slow
def test_a_killed_rank_of_an_ablation_leaves_what_is_finished(place, table, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    arguments, plain = place.test(*ABLATED, results="broken"), FinishedCategories.save

    def action(rank):
        def save(self, depends_on, maps):
            plain(self, depends_on, maps)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        FinishedCategories.save = save
        as_command(test.main, arguments)

    codes, _ = of_ranks(place, 2, "broken", action=action)
    assert codes == [2, -9] and list((place.folder / "broken").rglob(".parts/*.npz"))
    test.main(place.test(*ABLATED, results="broken"))
    assert tables_and_files(place.folder / "broken") == table


@pytest.mark.slow
def test_each_category_is_computed_by_one_process(place, monkeypatch):
    saved, plain = place.folder / "saved", FinishedCategories.save
    saved.mkdir()

    def save(self, depends_on, maps):
        (saved / f"{os.getpid()}-{len(list(saved.iterdir()))}").touch()
        plain(self, depends_on, maps)

    monkeypatch.setattr(FinishedCategories, "save", save)
    assert of_ranks(place, 2, "counted", "--seed", "14")[0] == [0, 0]
    by = [file.name.split("-")[0] for file in saved.iterdir()]
    assert len(by) == 3 and sorted(map(by.count, set(by))) == [1, 2]


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    arguments, plain = place.test(*SEVERAL, results="killed"), FinishedCategories.save

    def action(rank):
        def save(self, depends_on, maps):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(self, depends_on, maps)

        FinishedCategories.save = save
        as_command(test.main, arguments)

    codes, reported = of_ranks(place, 2, "killed", action=action)
    assert codes == [2, -9] and "Another rank has ended" in reported[0]
    assert not list((place.folder / "killed").rglob("metrics.json"))
    assert of_ranks(place, 3, "killed")[0] == [0, 0, 0]
    assert files(place.folder / "killed") == files(place.folder / "results")


@pytest.mark.slow
def test_values_that_overflow_are_repeated_in_float32_by_the_first(place, monkeypatch):
    plain = Scorer.__call__

    def scored(self, pixels, names, match=None):
        narrow = self.detector.backbone.dtype != torch.float32
        if narrow and any("nut/test/spot/002" in name for name in names):
            raise NotFinite(names[0], self.detector.backbone.dtype)
        return plain(self, pixels, names, match)

    monkeypatch.setattr(Scorer, "__call__", scored)
    left = []
    for size in (1, 2):
        more = ["--seed", "14", "--pictures", "0", "--precision", "bf16"]
        codes, reported = of_ranks(place, size, f"narrow{size}", *more)
        assert codes == [0] * size and reported[0].count("The run is repeated in float32") == 1, reported
        left.append(files(place.folder / f"narrow{size}"))
    assert left[0] == left[1] and any(name.endswith("maps.npz") for name in left[0])


@pytest.mark.slow
def test_torchrun_starts_it(place):
    code, reported = in_torchrun(2, "test", place.test(*SEVERAL, results="torchrun"))
    assert code == 0, reported
    assert reported.count("results in ") == 2 and reported.count("The backbone is untrained") == 1
    assert files(place.folder / "torchrun") == files(place.folder / "results")


@pytest.mark.slow
def test_another_one_ends_it_before_the_lock_is_had(place, monkeypatch, logged):
    plain = RunFolder.locked

    def locked(self):
        monkeypatch.setattr(RunFolder, "locked", plain)
        codes, reported = of_ranks(place, 1, "late", "--seed", "14")
        assert codes == [0], reported
        return plain(self)

    monkeypatch.setattr(RunFolder, "locked", locked)
    test.main(place.test("--seed", "14", results="late"))
    assert "is finished: nothing to do" in logged() and "results in " not in logged()


@pytest.mark.slow
def test_two_jobs_on_one_folder_are_refused(place):
    results = place.folder / "busy"
    folder = next((place.folder / "results").rglob("config.json")).parent.relative_to(
        place.folder / "results"
    )
    with locked(results / folder / ".lock", "it", "go"):
        codes, reported = of_ranks(place, 2, "busy")
        assert codes == [2, 2] and "is being written by process" in reported[0] and reported[1] == ""


@pytest.mark.slow
def test_only_the_first_evaluates_stored_maps(place, logged):
    folder = str(next((place.folder / "results").rglob("config.json")).parent)
    arguments = ["--from-maps", folder, "--data-path", str(place.data), "--image-score", "max"]
    arguments += ["--results", str(place.folder / "again")]
    codes, reported = in_ranks(2, lambda _: as_command(test.main, arguments), place.folder / "again-reported")
    assert codes == [0, 0] and len(list((place.folder / "again").rglob("metrics.json"))) == 1
    assert "results in" not in reported[1]
