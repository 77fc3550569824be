"""What the machine refuses: too little memory, a full disk, a lost GPU, a killed helper process."""

import errno
import os
import resource
import signal

import numpy as np
import pytest
import torch

from fdsl.store.maps import load_maps
from fdsl.store.training_state import TrainingState
from models.backbones.open_clip import OpenClipBackbone
from models.methods.fdsl import Fdsl
from tests.support.run_config import heads_of
from tests.support.small_runs import children, command, files, finished_place, line_with, start
from utils import files as whole_files
from utils.config import BackboneConfig, MethodConfig
from utils.errors import ConfigError

TRAINED_WITH = heads_of(BackboneConfig(), MethodConfig(), "ab", "visa")
pytestmark = pytest.mark.usefixtures("one_thread")
train, test = command("train"), command("test")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished training and test run without pictures."""
    return finished_place(tmp_path_factory.mktemp("place"), "--pictures", "0")


def memory_of(monkeypatch, images):
    """A device whose memory holds this many images, whole ones or windows, in one call of the backbone."""
    original = OpenClipBackbone.encode

    def encode(self, batch, *more, **named):
        if len(batch) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return original(self, batch, *more, **named)

    monkeypatch.setattr(OpenClipBackbone, "encode", encode)


def close(one, other, tolerance=1e-6):
    return (
        np.allclose(one.base, other.base, rtol=0, atol=tolerance)
        and np.allclose(one.window, other.window, rtol=0, atol=tolerance)
        and np.allclose(one.base_score, other.base_score, rtol=0, atol=tolerance)
    )


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_test_run_goes_on_with_less_memory_and_gives_the_same_maps(
    place, tmp_path, monkeypatch, logged, images
):
    memory_of(monkeypatch, images)
    test.main(place.test("--pictures", "0", "--results", str(tmp_path)))
    found, wanted = (load_maps(place.run_folder(name) / "maps.npz") for name in (tmp_path, "results"))
    assert found.names == wanted.names and close(found.maps, wanted.maps)
    assert (
        "Out of memory with 4 images at once: going on with 2" in logged()
        and "windows at once: going on with" in logged()
    )


@pytest.mark.parametrize("images", [1, 3])
def test_a_training_goes_on_with_less_memory_and_gives_the_same_weights(
    place, tmp_path, monkeypatch, logged, images
):
    memory_of(monkeypatch, images)
    train.main(place.train("--checkpoints", str(tmp_path)))
    assert np.allclose(losses(tmp_path / "m"), losses(place.folder / "checkpoints/m"), rtol=1e-4, atol=0)
    assert logged().count("Out of memory with") == (2 if images == 1 else 1)


def test_memory_for_not_even_one_block_of_a_batch_is_one_sentence(place, tmp_path, monkeypatch):
    def short_of_memory(self, raw):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Fdsl, "maps_of", short_of_memory)
    with pytest.raises(ConfigError, match="not enough memory .*CUDA out of memory.*--batch-size"):
        train.main(place.train("--checkpoints", str(tmp_path)))
    assert not list(tmp_path.rglob("*.safetensors"))


def losses(folder):
    """The table of losses, a row per step. Weights cannot be compared: where a gradient is nothing but
    rounding, as that of a bias before a batch norm, Adam makes a whole step of it."""
    return np.loadtxt(folder / "mvtec.loss.csv", delimiter=",", skiprows=1)


@pytest.mark.parametrize("name, arguments", [("train", ()), ("test", ("--pictures", "0"))])
def test_memory_for_not_even_one_image_is_one_sentence(place, tmp_path, monkeypatch, name, arguments):
    memory_of(monkeypatch, 0)
    main, make = (train.main, place.train) if name == "train" else (test.main, place.test)
    with pytest.raises(ConfigError, match="not enough memory .*CUDA out of memory.*--batch-size"):
        main(make(*arguments, "--checkpoints" if name == "train" else "--results", str(tmp_path)))
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("maps.npz"))


# Disk -------------------------------------------------------------------------------------------------------


def filling_disk(successes, real=os.fsync):
    """An fsync that finds the disk full after so many successes."""
    left = [successes]

    def fsync(handle):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return real(handle)

    return fsync


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_full_disk_at_any_write_leaves_whole_files_and_a_run_that_goes_on(
    place, tmp_path, monkeypatch, name
):
    main, arguments, wanted = (
        (train.main, place.train("--checkpoints", str(tmp_path)), place.folder / "checkpoints/m")
        if name == "train"
        else (test.main, place.test("--pictures", "0", "--results", str(tmp_path)), place.run_folder())
    )
    refused = 0
    for successes in range(30):
        with monkeypatch.context() as patch:
            patch.setattr(whole_files.os, "fsync", filling_disk(successes))
            try:
                main(arguments)
                break
            except OSError as error:
                refused += 1
                assert error.errno == errno.ENOSPC and str(tmp_path) in error.filename
                assert not list(tmp_path.rglob("*.tmp"))
    assert refused >= 2
    found = tmp_path / "m" if name == "train" else place.run_folder(tmp_path)
    assert files(found) == files(wanted)


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_one_sentence_and_exit_code_2(place, tmp_path):
    process = start(
        "train",
        place.train("--checkpoints", str(tmp_path)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    rest = process.communicate()[1]
    errors = [line for line in rest.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and "Traceback" not in rest and len(errors) == 1
    assert "mvtec.unfinished.safetensors: File too large; the file may not become so large here" in errors[0]
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_killed_helper_of_a_run_is_one_sentence(place, tmp_path):
    process = start("train", place.train("--epochs", "900", "--workers", "1", "--checkpoints", str(tmp_path)))
    line_with(process, "epoch 1/900: loss")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    rest = process.communicate(timeout=30)[1]
    assert (
        process.returncode == 2
        and "A process that loads images was ended from outside" in rest
        and "Traceback" not in rest
    )


def test_the_state_is_read_by_no_pickle(place, tmp_path):
    torch.save({"a": 1}, tmp_path / "state.safetensors")
    with pytest.raises(ConfigError, match="no unfinished training"):
        TrainingState(tmp_path / "state.safetensors", TRAINED_WITH).read()
