"""Interrupted trainings and test runs go on to the same result."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fdsl.commands import train_heads
from fdsl.config.run_config import RunConfig
from fdsl.evaluation import single_pass
from fdsl.evaluation import write_results as reporting
from fdsl.store.checkpoint import load_checkpoint
from fdsl.store.maps import FinishedCategories
from fdsl.store.training_state import Position, TrainingState
from fdsl.training import step as training_step
from tests.support.run_config import heads_of
from tests.support.small_runs import Place, command, files
from utils.command_line import save_interval
from utils.config import BackboneConfig, MethodConfig
from utils.errors import ConfigError
from utils.options import from_stored

pytestmark = pytest.mark.usefixtures("one_thread")

train, test = command("train"), command("test")


class Fault(Exception):
    """What the tests throw where a run is to end."""


def after(monkeypatch, owner, name, calls, error=Fault):
    """Lets `owner.name` be called `calls` times, then raises `error` each time."""
    original, left = getattr(owner, name), [calls]

    def counted(*arguments, **named):
        if left[0] == 0:
            raise error()
        left[0] -= 1
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)


# Training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, every", [(1, "1"), (4, "3"), (5, "1h"), (14, "1h")])
def test_an_interrupted_training_ends_in_the_same_bytes(place, tmp_path, monkeypatch, steps, every):
    arguments = place.train("--save-every", every, "--checkpoints", str(tmp_path))
    with monkeypatch.context() as patch:
        after(patch, training_step.HeadsStep, "__call__", steps)
        with pytest.raises(Fault):
            train.main(arguments)
    assert not (tmp_path / "m/mvtec.safetensors").exists()
    np.random.seed(5)
    torch.manual_seed(5)
    train.main(arguments)
    assert files(tmp_path / "m") == files(place.folder / "checkpoints/m")


def test_a_training_may_be_interrupted_at_every_step(place, tmp_path, monkeypatch, logged):
    for _ in range(20):
        with monkeypatch.context() as patch:
            after(patch, training_step.HeadsStep, "__call__", 1)
            try:
                train.main(place.train("--save-every", "1", "--checkpoints", str(tmp_path)))
                break
            except Fault:
                pass
    assert files(tmp_path / "m") == files(place.folder / "checkpoints/m")
    assert "Going on after step 14 " in logged()


@pytest.mark.parametrize("place_of_fault", ["save_checkpoint", "write_text", "write_loss_curve"])
def test_a_training_may_be_interrupted_while_it_ends(place, tmp_path, monkeypatch, place_of_fault):
    with monkeypatch.context() as patch:
        after(patch, train_heads, place_of_fault, 0)
        with pytest.raises(Fault):
            train.main(place.train("--checkpoints", str(tmp_path)))
    train.main(place.train("--checkpoints", str(tmp_path)))
    assert files(tmp_path / "m") == files(place.folder / "checkpoints/m")


def interrupted(place, folder, monkeypatch, *more):
    with monkeypatch.context() as patch:
        after(patch, training_step.HeadsStep, "__call__", 3)
        with pytest.raises(Fault):
            train.main(place.train("--save-every", "1", "--checkpoints", str(folder), *more))
    return folder / "m/mvtec.unfinished.safetensors"


def test_unfinished_trainings_of_other_settings_are_kept_until_they_are_given_up(
    place, tmp_path, monkeypatch, logged
):
    state = interrupted(place, tmp_path, monkeypatch)
    before = state.read_bytes()
    with pytest.raises(ConfigError, match="another learning_rate.*after step 3.*--no-resume"):
        train.main(place.train("--checkpoints", str(tmp_path), "--learning-rate", "0.01"))
    assert state.read_bytes() == before
    train.main(place.train("--checkpoints", str(tmp_path), "--learning-rate", "0.01", "--no-resume"))
    assert not state.exists() and "Going on" not in logged()
    assert load_checkpoint(tmp_path / "m/mvtec.safetensors").config.training.recipe.learning_rate == 0.01


def test_a_changed_dataset_is_not_trained_on_halfway(place, tmp_path, monkeypatch):
    own = Place(tmp_path / "own")
    interrupted(own, tmp_path, monkeypatch)
    photo = own.data / "cup/test/spot/000.png"
    photo.write_bytes(photo.read_bytes() + b"more")
    with pytest.raises(ConfigError, match="the dataset has changed"):
        train.main(own.train("--checkpoints", str(tmp_path)))


def test_force_goes_on_too_and_a_finished_training_is_kept(place, tmp_path, monkeypatch, logged):
    interrupted(place, tmp_path, monkeypatch, "--force")
    train.main(place.train("--checkpoints", str(tmp_path), "--force"))
    assert "Going on after step 3 " in logged() and files(tmp_path / "m") == files(
        place.folder / "checkpoints/m"
    )
    stamp = (tmp_path / "m/mvtec.safetensors").stat().st_mtime_ns
    train.main(place.train("--checkpoints", str(tmp_path)))
    assert (
        tmp_path / "m/mvtec.safetensors"
    ).stat().st_mtime_ns == stamp and "trained with these settings already" in logged()


def test_leftovers_of_a_killed_process_are_removed(place, tmp_path):
    (tmp_path / "m").mkdir()
    for name in (
        ".mvtec.safetensors.x1.tmp",
        ".mvtec.unfinished.safetensors.x2.tmp",
        ".visa.safetensors.x3.tmp",
    ):
        (tmp_path / "m" / name).write_text("half")
    train.main(place.train("--checkpoints", str(tmp_path)))
    assert [path.name for path in (tmp_path / "m").glob(".*")] == [".visa.safetensors.x3.tmp"]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, values):
        return self.norm(self.line(values))


def learn(module, optimizer, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()


CONFIG = heads_of(BackboneConfig(), MethodConfig(), "ab", "visa")


def saved_state(folder, module, optimizer):
    state = TrainingState(folder / "state.safetensors", CONFIG)
    state.save(
        module, optimizer, Position(1, 2, [(1, 1, 0.1, 0.2, 1 / 3), (2, 1, 1e-300, 2.0, 3.0)]), "float32"
    )
    return state


def test_a_state_brings_back_heads_optimizer_and_position(tmp_path):
    torch.manual_seed(1)
    module = Small()
    optimizer = torch.optim.Adam(module.parameters())
    learn(module, optimizer)
    state = saved_state(tmp_path, module, optimizer)

    torch.manual_seed(2)
    learn(module, optimizer)
    other = Small()
    following = torch.optim.Adam(other.parameters())
    found = state.read()
    position = found.restore(other, following)
    assert (position.epoch, position.batch, position.step) == (1, 2, 2)
    assert position.rows == [(1, 1, 0.1, 0.2, 1 / 3), (2, 1, 1e-300, 2.0, 3.0)]
    torch.manual_seed(2)
    learn(other, following)
    assert all(
        torch.equal(one, two) for one, two in zip(module.state_dict().values(), other.state_dict().values())
    )


def test_a_state_with_values_that_are_not_finite_never_replaces_a_good_one(tmp_path):
    module = Small()
    optimizer = torch.optim.Adam(module.parameters())
    learn(module, optimizer)
    state = saved_state(tmp_path, module, optimizer)
    before = state.file.read_bytes()
    with torch.no_grad():
        module.line.weight[0, 0] = float("nan")
    with pytest.raises(
        ConfigError, match="not finite .heads.line.weight. after step 3; the state after step 2 is stored"
    ):
        state.save(module, optimizer, Position(1, 2, [(0, 0, 0, 0, 0)] * 3), "float32")
    assert state.file.read_bytes() == before


def broken_states(whole):
    save = json.dumps({"format": 1, "config": {}, "data": "", "epoch": 0, "batch": 0, "precision": "float32"})
    return {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "text": b"hello" * 99,
        "cut header": whole[:20],
        "huge header": (2**62).to_bytes(8, "little") + whole[8:],
        "metadata": {"fdsl-unfinished": "[1]"},
        "foreign": {"other": "x"},
        "no rows": {"fdsl-unfinished": save},
        "future": {"fdsl-unfinished": save.replace('"format": 1', '"format": 9')},
    }


@pytest.mark.parametrize(
    "kind",
    ["empty", "short", "text", "cut header", "huge header", "metadata", "foreign", "no rows", "future"],
)
def test_broken_states_are_refused_by_name(tmp_path, kind):
    module = Small()
    optimizer = torch.optim.Adam(module.parameters())
    learn(module, optimizer)
    state = saved_state(tmp_path, module, optimizer)
    content = broken_states(state.file.read_bytes())[kind]
    if isinstance(content, bytes):
        state.file.write_bytes(content)
    else:
        save_file({"a": torch.zeros(2)}, state.file, metadata=content)
    with pytest.raises(ConfigError, match="state.safetensors is no unfinished training.*--no-resume"):
        state.read()


def test_a_state_of_other_heads_is_refused(tmp_path):
    module = Small()
    optimizer = torch.optim.Adam(module.parameters())
    learn(module, optimizer)
    found = saved_state(tmp_path, module, optimizer).read()
    other = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="does not fit this training"):
        found.restore(other, torch.optim.Adam(other.parameters()))


def test_save_intervals():
    assert save_interval("50") == (50, None) and save_interval("90s") == (None, 90.0)
    assert save_interval("5m") == (None, 300.0) and save_interval("1h") == (None, 3600.0)
    for text in ("0", "-1", "m", "1.5", "5d", "", "0s", "٣", "9" * 30):
        with pytest.raises(Exception, match="is no number of steps"):
            save_interval(text)


# Test runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_an_interrupted_test_run_goes_on_with_the_next_category(
    place, tmp_path, monkeypatch, logged, finished
):
    arguments = place.test("--results", str(tmp_path))
    with monkeypatch.context() as patch:
        after(patch, single_pass, "compute_category", finished)
        with pytest.raises(Fault):
            test.main(arguments)
    with monkeypatch.context() as patch:
        after(patch, single_pass, "compute_category", 3 - finished)
        test.main(arguments)
    assert logged().count("finished before.") == finished
    found = place.run_folder(tmp_path)
    assert files(found) == files(place.run_folder()) and (found / "report.html").is_file()


@pytest.mark.parametrize("name", ["save_maps", "write_tables", "write_pictures", "write_report"])
def test_a_test_run_may_be_interrupted_while_it_ends(place, tmp_path, monkeypatch, name):
    arguments = place.test("--results", str(tmp_path))
    with monkeypatch.context() as patch:
        after(patch, reporting, name, 0)
        with pytest.raises(Fault):
            test.main(arguments)
    with monkeypatch.context() as patch:
        after(patch, single_pass, "compute_category", 0)
        test.main(arguments)
    assert files(place.run_folder(tmp_path)) == files(place.run_folder())
    assert (place.run_folder(tmp_path) / "report.html").is_file()


def test_parts_of_other_settings_or_files_and_damaged_ones_are_not_taken(
    place, tmp_path, monkeypatch, logged
):
    own = Place(tmp_path / "own")
    arguments = own.test(
        "--results", str(tmp_path / "results"), "--checkpoint", str(place.weights()), "--pictures", "0"
    )
    with monkeypatch.context() as patch:
        after(patch, single_pass, "compute_category", 2)
        with pytest.raises(Fault):
            test.main(arguments)
    folder = own.run_folder(tmp_path / "results")
    parts = sorted((folder / FinishedCategories.NAME).iterdir())
    assert len(parts) == 2
    parts[0].write_bytes(parts[0].read_bytes()[:-30])
    photo = own.data / "cup/test/spot/000.png"
    photo.write_bytes((own.data / "cup/test/spot/001.png").read_bytes() + b"longer")
    with monkeypatch.context() as patch:
        after(patch, single_pass, "compute_category", 2)
        try:
            test.main([*arguments, "--batch-size", "1"])
        except Fault:  # the damaged part is that of the other category
            pass
    assert logged().count("taken from") <= 1
    with monkeypatch.context() as patch:
        after(patch, single_pass, "compute_category", 0)
        with pytest.raises(Fault):
            test.main([*arguments, "--force", "--no-resume"])
    assert not list((folder / FinishedCategories.NAME).iterdir())


def test_maps_are_taken_only_where_all_that_they_depend_on_is_the_same(place):
    config = json.loads((place.run_folder() / "config.json").read_text())
    same_maps = from_stored(RunConfig, config).identity("maps")
    for part, name, other, same in (
        ("backbone", "model", "ViT-tiny-test-quickgelu", False),
        ("backbone", "image_size", 96, False),
        ("backbone", "layers", [2], False),
        ("machine", "precision", "bfloat16", False),
        ("options", "fd", "signed", False),
        ("windows", "index_memory", "1", False),
        ("windows", "win_weight", 0.9, True),
    ):
        assert config[part][name] != other
        changed = {**config, part: {**config[part], name: other}}
        assert (from_stored(RunConfig, changed).identity("maps") == same_maps) == same, name


def test_a_finished_run_is_not_repeated(place, logged):
    test.main(place.test())
    assert "is finished: nothing to do" in logged()
