"""Several processes train the very heads of one, whatever their number."""

import os
import signal

import pytest
import torch

from fdsl.training import loop
from fdsl.training.step import DiscrepancySource
from tests.support.ranks import as_command, in_ranks
from tests.support.small_runs import Place, command, files
from utils.lock import locked

train = command("train")
pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--epochs", "2", "--batch-size", "5")  # 18 images: batches of 5, 5, 5 and 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("place"))
    train.main(place.train(*SHORT, checkpoints="one"))
    return place


def of_ranks(place, size, checkpoints, *more, action=None):
    arguments = place.train(*SHORT, *more, checkpoints=checkpoints)
    action = action or (lambda _: as_command(train.main, arguments))
    return in_ranks(size, action, place.folder / f"{checkpoints}-reported")


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_it_gives_the_files_of_one_process(place, size):
    codes, reported = of_ranks(place, size, f"ranks{size}")
    assert codes == [0] * size, reported
    wanted = files(place.folder / "one")
    assert len(wanted) == 3 and files(place.folder / f"ranks{size}") == wanted
    assert reported[0].count("epoch 2/2") == 1 and "epoch" not in reported[1]


@pytest.mark.slow
def test_each_batch_is_encoded_by_one_process(place, monkeypatch):
    encoded, plain = place.folder / "encoded", DiscrepancySource.discrepancy
    encoded.mkdir()

    def discrepancy(self, batch):
        (encoded / f"{os.getpid()}-{len(list(encoded.iterdir()))}-{len(batch['path'])}").touch()
        return plain(self, batch)

    monkeypatch.setattr(DiscrepancySource, "discrepancy", discrepancy)
    assert of_ranks(place, 2, "counted", "--epochs", "1")[0] == [0, 0]
    images = {}
    for file in encoded.iterdir():
        process, _, count = file.name.split("-")
        images[process] = images.get(process, 0) + int(count)
    assert sum(images.values()) == 18 and len(images) == 2 and min(images.values()) >= 5


@pytest.mark.slow
def test_values_that_overflow_go_on_in_float32_from_the_same_batch(place, monkeypatch):
    plain = DiscrepancySource.discrepancy

    def discrepancy(self, batch):
        found = plain(self, batch)
        narrow = self.backbone.dtype != torch.float32
        return found * torch.inf if narrow and "nut/test/spot/002.png" in batch["path"] else found

    monkeypatch.setattr(DiscrepancySource, "discrepancy", discrepancy)
    for size in (1, 2, 3):
        codes, reported = of_ranks(place, size, f"narrow{size}", "--precision", "bf16")
        assert codes == [0] * size and reported[0].count("goes on in float32") == 1, reported
    wanted = files(place.folder / "narrow1")
    assert wanted != files(place.folder / "one")
    assert files(place.folder / "narrow2") == files(place.folder / "narrow3") == wanted


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    arguments = place.train(*SHORT, "--save-every", "1", checkpoints="killed")
    plain = loop.take_step

    def action(rank):
        def take_step(step, batch, losses, position, state):
            if rank == 1 and position.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(step, batch, losses, position, state)

        loop.take_step = take_step
        as_command(train.main, arguments)

    codes, reported = of_ranks(place, 2, "killed", action=action)
    assert codes == [2, -9] and "Another rank has ended" in reported[0]
    codes, reported = of_ranks(place, 3, "killed")
    assert codes == [0, 0, 0] and "Going on after step" in reported[0], reported
    assert files(place.folder / "killed") == files(place.folder / "one")


@pytest.mark.slow
def test_processes_that_drift_apart_are_stopped(place, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)
    plain = loop.take_step

    def action(rank):
        def take_step(step, batch, losses, position, state):
            plain(step, batch, losses, position, state)
            step.method.heads[0].layers[0].weight.data += 1e-3 * rank

        loop.take_step = take_step
        as_command(train.main, place.train(*SHORT, checkpoints="drifting"))

    codes, reported = of_ranks(place, 2, "drifting", action=action)
    assert codes == [2, 2] and "have different weights after step 4" in reported[0]
    assert "losses" not in reported[1]
    assert not place.weights("drifting").exists()


@pytest.mark.slow
def test_two_trainings_of_one_checkpoint_are_refused(place):
    codes, reported = of_ranks(place, 2, "busy", action=lambda rank: lock_and_train(place, rank))
    assert codes == [2, 2] and "is being written by process" in reported[0] and reported[1] == ""


def lock_and_train(place, rank):
    file = place.weights("busy").with_name(".mvtec.lock")
    if rank == 0:
        with locked(file, "it", "go"):
            as_command(train.main, place.train(*SHORT, checkpoints="busy"))
    as_command(train.main, place.train(*SHORT, checkpoints="busy"))
