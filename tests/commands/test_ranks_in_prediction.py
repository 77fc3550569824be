"""Several processes leave the very predictions of one, whatever their number, also after an interruption."""

import json
import os
import shutil
import signal
import tarfile

import cv2
import pytest
from PIL import Image

from fdsl.store.journal import Journal
from tests.support.photographs import draw, write_image
from tests.support.ranks import as_command, in_ranks
from tests.support.small_runs import Place, command, files
from utils.errors import ConfigError
from utils.world import World

predict = command("predict")
pytestmark = pytest.mark.usefixtures("one_thread")


IN_ORDER = dict.fromkeys(("scores.csv", "scores.jsonl", "maps.npz"))  # files of rows in order


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """13 photographs to inspect, two that cannot be read and one of another kind: in batches of two."""
    place = Place(tmp_path_factory.mktemp("place"))
    (place.data / "cup/test/good/broken.png").write_bytes(b"no picture")
    (place.data / "cup/test/spot/empty.png").touch()
    (place.data / "cup/test/good/raw.dng").write_bytes(b"raw")
    place.whole = predicted(place, "one")
    return place


def arguments_of(place, output, *more):
    given = [
        "--method",
        "nearest",
        "--batch-size",
        "2",
        "--save-maps",
        "--save-masks",
        "--output",
        str(place.folder / output),
        *more,
    ]
    words = place.predict(*given)
    words[words.index("--input") + 1] = str(place.data / "cup")
    return words


def predicted(place, output, *more):
    predict.main(arguments_of(place, output, *more))
    return files(place.folder / output)


def rows_of(left):
    return sorted(left["scores.jsonl"].splitlines())


def of_ranks(place, size, output, *more, action=None):
    action = action or (lambda _: as_command(predict.main, arguments_of(place, output, *more)))
    return in_ranks(size, action, place.folder / f"{output}-reported")


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_it_gives_the_files_of_one_process(place, size):
    codes, reported = of_ranks(place, size, f"ranks{size}")
    assert codes == [0] * size, reported
    assert files(place.folder / f"ranks{size}") == place.whole
    for kind in ("pictures/", "masks/"):
        assert len([name for name in place.whole if name.startswith(kind)]) == 13
    assert not list((place.folder / f"ranks{size}").glob(".*"))
    assert "3 file(s) skipped" in reported[0]
    assert all(line.startswith("warning: ") for line in "".join(reported[1:]).splitlines())


@pytest.mark.slow
def test_references_and_odd_photographs_are_named(place):
    for output in ("plain", "warned"):
        reported = of_ranks(place, 1 if output == "plain" else 3, output, "--pictures", "none")[1]
        found = [line for one in reported for line in one.splitlines() if line.startswith("warning: ")]
        assert len([line for line in found if "is one of the references" in line]) == 3, found
        if output == "plain":
            wanted = found
    assert set(found) == set(wanted)


def killing(place, output, rows, *more):
    """Rank 1 is killed where it writes a row after so many, half of it."""
    plain = Journal.add

    def action(rank):
        written = []

        def add(self, row, base, window):
            plain(self, row, base, window)
            if rank == 1 and len(written) == rows:
                os.truncate(self.folder / "rows.jsonl", os.path.getsize(self.folder / "rows.jsonl") - 9)
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(row)

        Journal.add = add
        as_command(predict.main, arguments_of(place, output, *more))

    return action


def counting(place, output, *more):
    """Each rank leaves the names of the photographs that it scores in a file."""
    plain = Journal.add

    def action(rank):
        def add(self, row, base, window):
            with open(place.folder / f"{output}-scored-{rank}", "a") as file:
                file.write(row["image"] + "\n")
            plain(self, row, base, window)

        Journal.add = add
        as_command(predict.main, arguments_of(place, output, *more))

    return action


def scored(place, output, size):
    files = [place.folder / f"{output}-scored-{rank}" for rank in range(size)]
    return [file.read_text().split() for file in files if file.exists()]


@pytest.mark.slow
def test_each_photograph_is_scored_by_one_process(place):
    assert of_ranks(place, 3, "counted", action=counting(place, "counted"))[0] == [0, 0, 0]
    shares = scored(place, "counted", 3)
    names = sum(shares, [])
    assert len(shares) == 3 and len(names) == len(set(names)) == 13


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_resume_goes_on_with_any_number(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    codes, reported = of_ranks(place, 2, "killed", action=killing(place, "killed", 3))
    assert codes == [2, -9] and "Another rank has ended" in reported[0]
    texts = [(place.folder / f"killed/.partial/rank{rank}/rows.jsonl").read_text() for rank in (0, 1)]
    done = [text[: text.rfind("\n") + 1] for text in texts]
    assert done[1].count("\n") == 3 and not (place.folder / "killed/scores.csv").exists()
    codes, reported = of_ranks(place, 3, "killed", action=counting(place, "killed", "--resume"))
    assert codes == [0, 0, 0], reported
    again = sum(scored(place, "killed", 3), [])
    assert len(again) == 13 - sum(text.count("\n") for text in done)
    assert not any(json.dumps(name) in text for name in again for text in done)
    assert files(place.folder / "killed") == place.whole


@pytest.mark.slow
def test_one_process_goes_on_with_the_run_of_several(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    of_ranks(place, 2, "left", action=killing(place, "left", 3))
    left = predicted(place, "left", "--resume")
    assert {**left, **IN_ORDER} == {**place.whole, **IN_ORDER} and rows_of(left) == rows_of(place.whole)


@pytest.mark.slow
def test_a_restart_by_torchrun_resumes_without_the_flag(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    of_ranks(place, 2, "restarted", action=killing(place, "restarted", 3))
    plain = counting(place, "restarted")

    def action(rank):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
        plain(rank)

    assert of_ranks(place, 2, "restarted", action=action)[0] == [0, 0]
    assert len(sum(scored(place, "restarted", 2), [])) < 10
    assert files(place.folder / "restarted") == place.whole


@pytest.mark.slow
def test_killed_while_joining(place, monkeypatch):
    """Pictures are beside the joined rows in part; the output folder has none before all of them are
    there."""
    plain = os.replace

    def action(rank):
        moved = []

        def replace(source, target):
            if ".partial/rank" in str(source) and str(source).endswith(".jpg"):
                moved.append(source)
                if len(moved) == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
            plain(source, target)

        os.replace = replace
        as_command(predict.main, arguments_of(place, "joining"))

    assert of_ranks(place, 2, "joining", action=action)[0] == [-9, 2]
    output = place.folder / "joining"
    assert len(list((output / ".partial/pictures").iterdir())) == 4
    assert not (output / "pictures").exists()
    assert of_ranks(place, 2, "joining", "--resume")[0] == [0, 0]
    assert files(output) == place.whole


@pytest.mark.slow
def test_a_photograph_that_changed_is_scored_again(place, monkeypatch, tmp_path):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    other = Place(tmp_path / "place")
    of_ranks(other, 2, "out", action=killing(other, "out", 3))
    changed = other.data / "cup/test/good/000.png"
    write_image(changed, 255 - cv2.imread(str(changed)))
    assert of_ranks(other, 2, "out", "--resume")[0] == [0, 0]
    assert files(other.folder / "out") == predicted(other, "anew")


@pytest.mark.slow
def test_a_photograph_that_was_half_written_is_scored_once_it_is_whole(place, monkeypatch, tmp_path):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    other = Place(tmp_path / "place")
    file, gone = other.data / "cup/test/good/000.png", other.data / "cup/test/good/001.png"
    whole, there = file.read_bytes(), gone.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    gone.unlink()
    gone.symlink_to("nowhere")
    of_ranks(other, 2, "out", action=killing(other, "out", 3))
    skipped = [path.read_text() for path in (other.folder / "out").glob(".partial/rank*/skipped.jsonl")]
    assert all(any(f"test/good/{name}.png" in one for one in skipped) for name in ("000", "001"))
    file.write_bytes(whole)
    gone.unlink()
    gone.write_bytes(there)
    assert of_ranks(other, 2, "out", "--resume")[0] == [0, 0]
    assert files(other.folder / "out") == predicted(other, "anew")


def changed(journal, maps=b"\tAAAA\n"):
    lines = (journal / "rows.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].partition(b"\t")[0] + maps
    (journal / "rows.jsonl").write_bytes(b"".join(lines))


DAMAGE = {
    "a row is cut": lambda journal: os.truncate(journal / "rows.jsonl", 900),
    "rows are gone": lambda journal: (journal / "rows.jsonl").unlink(),
    "a map is another": changed,
    "maps are gone": lambda journal: changed(journal, b"\n"),
    "the journal is gone": shutil.rmtree,
    "a reason is gone": lambda journal: (journal / "skipped.jsonl").write_text(""),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_rows_that_are_missing_are_refused_and_scored_again(place, monkeypatch, damage):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    plain = World.wait

    def wait(self):
        plain(self)
        if self.is_first:
            for journal in (place.folder / damage / ".partial").glob("rank*"):
                DAMAGE[damage](journal)

    with monkeypatch.context() as patch:
        patch.setattr(World, "wait", wait)
        codes, reported = of_ranks(place, 2, damage)
    assert codes[0] == 2 and "have no row" in reported[0], reported
    assert of_ranks(place, 2, damage, "--resume")[0] == [0, 0]
    assert files(place.folder / damage) == place.whole


@pytest.mark.slow
def test_the_results_of_the_run_before_stay_until_the_new_ones_are_joined(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    predicted(place, "before")
    of_ranks(
        place, 2, "before", "--threshold", "0.9", action=killing(place, "before", 3, "--threshold", "0.9")
    )
    left = files(place.folder / "before")
    assert {name: left[name] for name in place.whole} == place.whole
    assert of_ranks(place, 2, "before", "--threshold", "0.9", "--resume")[0] == [0, 0]
    assert files(place.folder / "before") == predicted(place, "after", "--threshold", "0.9")


@pytest.mark.slow
def test_rows_are_printed_at_the_end_by_the_one_that_joins(place):
    codes, reported = of_ranks(place, 2, "printed", "--format", "json", "--pictures", "none")
    assert codes == [0, 0]
    printed = [line for line in reported[0].splitlines() if line.startswith("{")]
    assert printed == (place.folder / "printed/scores.jsonl").read_text().splitlines() and len(printed) == 13
    assert "{" not in reported[1]


@pytest.mark.slow
def test_members_of_an_archive_are_scored_as_their_files(place):
    """Also after it was made anew, of the same photographs."""
    archive, folder = place.folder / "cup.tar", place.data / "cup/test/good"
    outputs = []
    for size, given in ((1, folder), (2, archive)):
        with tarfile.open(archive, "w") as tar:
            tar.add(folder, "")
        words = arguments_of(place, f"members{size}")
        words[words.index("--input") + 1] = str(given)
        codes, reported = in_ranks(
            size, lambda _, words=words: as_command(predict.main, words), place.folder / "x"
        )
        assert codes == [0] * size, reported
        lines = (place.folder / f"members{size}/scores.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        outputs.append([(row["image"].removeprefix("cup.tar/"), row["score"], row["maps"]) for row in rows])
    assert outputs[0] == outputs[1] and len(outputs[0]) == 2


@pytest.mark.slow
def test_what_is_refused(place, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(ConfigError, match="need a common folder"):
        patched.setattr(predict, "find_world", lambda: World(0, 2))
        predict.main(place.predict("--format", "json"))


@pytest.mark.slow
def test_several_processes_go_on_with_the_run_of_one(place):
    predicted(place, "finished")
    codes, reported = of_ranks(place, 2, "finished", action=counting(place, "finished", "--resume"))
    assert codes == [0, 0] and scored(place, "finished", 2) == [], reported
    assert files(place.folder / "finished") == place.whole


def test_photographs_as_a_whole_are_followed_in_their_order(place, tmp_path, monkeypatch, logged):
    """Each process has every second batch."""
    monkeypatch.setattr("utils.drift.WINDOW", 3)
    for number in range(9):
        file = place.folder / f"line/{number}.png"
        draw(file, number % 2)
        Image.open(file).point([value * (5 if number < 5 else 3) // 5 for value in range(256)] * 3).save(file)

    def arguments(output):
        words = arguments_of(place, output)
        words[words.index("--input") + 1] = str(place.folder / "line")
        return words

    predict.main(arguments("line-one"))
    (sentence,) = {line.split("warning: ")[1] for line in logged().splitlines() if "are darker than" in line}
    action = lambda _: as_command(predict.main, arguments("line-ranks"))  # noqa: E731
    codes, reported = in_ranks(2, action, place.folder / "line-reported")
    assert codes == [0, 0] and reported[0].count(sentence) == 1 and "darker" not in reported[1]
    assert files(place.folder / "line-ranks") == files(place.folder / "line-one")
