"""Several processes leave the very predictions of one, whatever their number, in blocks that are whole or not
there."""

import json
import os
import shutil
import signal
import tarfile

import cv2
import pytest
from PIL import Image

from data import manifest
from fdsl.store.blocks import Blocks
from tests.support.photographs import draw, write_image
from tests.support.ranks import as_command, in_ranks
from tests.support.small_runs import Place, command, files
from utils.drift import Drift
from utils.errors import ConfigError
from utils.world import World

predict = command("predict")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """13 photographs to inspect, two that cannot be read and one of another kind: in blocks of two."""
    place = Place(tmp_path_factory.mktemp("place"))
    (place.data / "cup/test/good/broken.png").write_bytes(b"no picture")
    (place.data / "cup/test/spot/empty.png").touch()
    (place.data / "cup/test/good/raw.dng").write_bytes(b"raw")
    place.whole = predicted(place, "one")
    return place


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK", 2)
    monkeypatch.setattr(manifest, "BLOCKS", 1)


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
    assert "3 file(s) skipped" in reported[0] and reported[1] == ""


@pytest.mark.slow
def test_references_and_odd_photographs_are_said_once(place):
    for output in ("plain", "warned"):
        reported = of_ranks(place, 1 if output == "plain" else 3, output, "--pictures", "none")[1]
        found = [line for one in reported for line in one.splitlines() if line.startswith("warning: ")]
        assert len([line for line in found if "is one of the references" in line]) == 3, found
        if output == "plain":
            wanted = found
    assert found == wanted


@pytest.mark.slow
def test_each_block_is_scored_by_one_process(place, monkeypatch):
    written, plain = place.folder / "written", Blocks.writing
    written.mkdir()

    def writing(self, number):
        (written / f"{number}-{os.getpid()}").touch()
        return plain(self, number)

    monkeypatch.setattr(Blocks, "writing", writing)
    assert of_ranks(place, 3, "counted")[0] == [0, 0, 0]
    owners = {}
    for file in written.iterdir():
        number, process = map(int, file.name.split("-"))
        owners.setdefault(process, []).append(number)
    assert sorted(map(sorted, owners.values())) == [[0, 3, 6], [1, 4, 7], [2, 5]]


def killing(place, output, number, *more):
    """Rank 1 is killed where it would begin block `number`."""
    plain = Blocks.writing

    def action(rank):
        def writing(self, block):
            if rank == 1 and block == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, block)

        Blocks.writing = writing
        as_command(predict.main, arguments_of(place, output, *more))

    return action


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_resume_goes_on_with_any_number(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    codes, reported = of_ranks(place, 2, "killed", action=killing(place, "killed", 5))
    assert codes == [2, -9] and "Another rank has ended" in reported[0]
    done = sorted(path.name for path in (place.folder / "killed/.partial/blocks").iterdir())
    assert "000001" in done and "000005" not in done
    begun_again = killing(place, "killed", 1, "--resume")  # that block is done
    codes, reported = of_ranks(place, 3, "killed", action=begun_again)
    assert codes == [0, 0, 0], reported
    assert files(place.folder / "killed") == place.whole


@pytest.mark.slow
def test_one_process_goes_on_with_blocks(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    of_ranks(place, 2, "left", action=killing(place, "left", 3))
    assert predicted(place, "left", "--resume") == place.whole


@pytest.mark.slow
def test_a_restart_by_torchrun_resumes_without_the_flag(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    of_ranks(place, 2, "restarted", action=killing(place, "restarted", 5))
    before = {
        path: path.stat().st_mtime_ns for path in (place.folder / "restarted/.partial/blocks").iterdir()
    }
    kept = place.folder / "kept.json"

    def action(_):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
        plain = Blocks.join

        def join(self, journal):
            now = {str(path): path.stat().st_mtime_ns for path in self.folder.iterdir()}
            kept.write_text(json.dumps(now))
            return plain(self, journal)

        Blocks.join = join
        as_command(predict.main, arguments_of(place, "restarted"))

    assert of_ranks(place, 2, "restarted", action=action)[0] == [0, 0]
    now = json.loads(kept.read_text())
    assert before and all(now[str(path)] == time for path, time in before.items() if path.suffix != ".tmp")
    assert files(place.folder / "restarted") == place.whole


@pytest.mark.slow
def test_killed_while_joining(place, monkeypatch):
    """Pictures are in their places in part, and the list of rows is there."""
    plain = os.replace

    def action(rank):
        moved = []

        def replace(source, target):
            if ".partial/blocks" in str(source) and str(source).endswith(".jpg"):
                moved.append(source)
                if len(moved) == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
            plain(source, target)

        os.replace = replace
        as_command(predict.main, arguments_of(place, "joining"))

    assert of_ranks(place, 2, "joining", action=action)[0] == [-9, 0]
    assert len(list((place.folder / "joining/pictures").iterdir())) == 4
    assert of_ranks(place, 2, "joining", "--resume")[0] == [0, 0]
    assert files(place.folder / "joining") == place.whole


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
    skipped = [path.read_text() for path in (other.folder / "out").glob(".partial/blocks/*/skipped.jsonl")]
    assert all(any(f"test/good/{name}.png" in one for one in skipped) for name in ("000", "001"))
    file.write_bytes(whole)
    gone.unlink()
    gone.write_bytes(there)
    assert of_ranks(other, 2, "out", "--resume")[0] == [0, 0]
    assert files(other.folder / "out") == predicted(other, "anew")


def cut(block):
    rows = block / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-9])


def turned(block):
    maps = bytearray((block / "base.f32").read_bytes())
    maps[5] ^= 1
    (block / "base.f32").write_bytes(maps)


DAMAGE = {
    "a row is cut": cut,
    "a row is gone": lambda block: (block / "rows.jsonl").write_text(""),
    "a row is there twice": lambda block: (block / "rows.jsonl").write_bytes(
        2 * (block / "rows.jsonl").read_bytes()
    ),
    "a map is another": turned,
    "maps are too many": lambda block: (block / "base.f32").open("ab").write(b"1234"),
    "maps are gone": lambda block: (block / "base.f32").unlink(),
    "pictures are gone": lambda block: shutil.rmtree(block / "pictures"),
    "notes are none": lambda block: (block / "notes.jsonl").write_text("5\n"),
    "the block is gone": shutil.rmtree,
    "a reason is none": lambda block: (block / "skipped.jsonl").write_text("[1]\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("when", ["it is taken up", "blocks are joined"])
def test_a_damaged_block_is_computed_again(place, monkeypatch, tmp_path, damage, when):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    if when == "it is taken up":
        of_ranks(place, 2, f"{damage}", action=killing(place, damage, 3))
        DAMAGE[damage](place.folder / damage / ".partial/blocks/000001")
        assert predicted(place, damage, "--resume") == place.whole
        return
    plain = World.wait

    def wait(self):
        plain(self)
        if self.is_first:
            DAMAGE[damage](place.folder / f"{damage} later" / ".partial/blocks/000001")

    monkeypatch.setattr(World, "wait", wait)
    codes, reported = of_ranks(place, 2, f"{damage} later")
    assert codes == [0, 0] and "block 2 is missing or damaged: it is computed again" in reported[0], reported
    assert files(place.folder / f"{damage} later") == place.whole


@pytest.mark.slow
def test_blocks_keep_the_results_of_the_run_before_until_they_are_joined(place, monkeypatch):
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
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    of_ranks(place, 2, "begun", action=killing(place, "begun", 3))
    words = arguments_of(place, "begun", "--resume")
    words[words.index("--input") + 1] = str(place.data / "nut")
    with pytest.raises(ConfigError, match="was begun with other --input"):
        predict.main(words)


@pytest.mark.slow
def test_a_finished_run_of_one_process_is_one_processs_to_resume(place):
    predicted(place, "finished")
    codes, reported = of_ranks(place, 2, "finished", "--resume")
    assert codes == [0, 0] and "is the run of one process: one goes on with it" in reported[0]
    left = files(place.folder / "finished")
    assert {**left, "skipped.csv": b""} == {**place.whole, "skipped.csv": b""}


def test_photographs_as_a_whole_are_followed_in_their_order(place, tmp_path, monkeypatch, logged):
    """Each block is too small for it, and a process has every second one."""
    monkeypatch.setattr(Drift.__init__, "__defaults__", (3, None))
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
    assert (place.folder / "line-one/baseline.json").is_file()
