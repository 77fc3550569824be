"""Places that a test may break, and the ways to break them; shared by the tests of bad and of odd input."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdsl.store.checkpoint import FORMAT_VERSION, METADATA_KEY, load_checkpoint
from fdsl.store.tensor_file import write_tensor_file
from models.methods.fdsl import Fdsl
from tests.support.small_runs import Place, command, draw_dataset
from utils import signals
from utils.command import run_command
from utils.options import as_stored

train, test = command("train"), command("test")
SPOT, GOOD, MASK = "cup/test/spot/000.png", "cup/test/good/000.png", "cup/ground_truth/spot/000_mask.png"


class OneCategory(Place):
    """A dataset of one category, small enough to be copied for every case."""

    def __init__(self, folder, base=None):
        super().__init__(folder)
        shutil.rmtree(self.data)
        draw_dataset(self.data, ("cup",), train=3, good=2, bad=2)


def copied(base, folder):
    """A copy of a place that a case may break, its checkpoint alone."""
    own = object.__new__(OneCategory)
    own.folder, own.data, own.configs = folder, folder / "data", folder / "configs"
    shutil.copytree(base.folder, own.folder)
    shutil.rmtree(own.folder / "checkpoints")
    own.weights("checkpoints").parent.mkdir(parents=True)
    shutil.copy(base.weights(), own.weights())
    return own


# What is done to a place; each returns further arguments, or None -------------------------------------------


def content(path, what):
    """Replaces a file of the dataset."""

    def break_it(place):
        file = place.data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(what(file.read_bytes() if file.exists() else b""))

    return break_it


def damaged(whole):
    """A PNG whose compressed pixels are noise."""
    return whole[:60] + bytes(range(256)) * 2 + whole[-12:]


def removed(path):
    return lambda place: (place.data / path).unlink()


def link_to_nowhere(path):
    def break_it(place):
        (place.data / path).unlink()
        (place.data / path).symlink_to("nowhere.png")

    return break_it


def pipe(path):
    def break_it(place):
        (place.data / path).unlink()
        os.mkfifo(place.data / path)

    return break_it


def not_finite(path):
    def break_it(place):
        with Image.open(place.data / path) as image:  # masks are held against its size
            width, height = image.size
        Image.fromarray(np.full((height, width), np.nan, np.float32)).save(place.data / "nan.tiff")
        os.replace(place.data / "nan.tiff", place.data / path)

    return break_it


def no_reference_left(place):
    shutil.rmtree(place.data / "cup/train")


def no_image_to_test(place):
    shutil.rmtree(place.data / "cup/test")
    (place.data / "cup/test/good").mkdir(parents=True)


def no_mask_at_all(place):
    shutil.rmtree(place.data / "cup/ground_truth")


def file_instead_of_folder(place):
    shutil.rmtree(place.data)
    place.data.write_text("x")


def entry(path=SPOT, **changed):
    return {
        "img_path": path,
        "mask_path": MASK,
        "cls_name": "cup",
        "specie_name": "spot",
        "anomaly": 1,
        **changed,
    }


def meta(what):
    """Writes meta.json: text, or the entries of the category cup's test part."""

    def break_it(place):
        good = [
            entry(f"cup/train/good/{n:03}.png", mask_path="", specie_name="good", anomaly=0) for n in range(3)
        ]
        text = what if isinstance(what, str) else json.dumps({"train": {"cup": good}, "test": {"cup": what}})
        (place.data / "meta.json").write_text(text)

    return break_it


def changed_checkpoint(change):
    """Writes the checkpoint again after `change(state, config)`."""

    def break_it(place):
        found = load_checkpoint(place.weights())
        state, config = dict(found.state), json.loads(json.dumps(as_stored(found.config)))
        change(state, config)
        write_tensor_file(place.weights(), state, METADATA_KEY, {"format": FORMAT_VERSION, **config})

    return break_it


def checkpoint_bytes(what):
    def break_it(place):
        place.weights().write_bytes(what(place.weights().read_bytes()))

    return break_it


def set_in(*path, value):
    def change(_state, config):
        for name in path[:-1]:
            config = config[name]
        config[path[-1]] = value

    return changed_checkpoint(change)


def header(edit):
    """Edits the JSON header of the checkpoint's safetensors file."""

    def what(whole):
        size = int.from_bytes(whole[:8], "little")
        head = json.loads(whole[8 : 8 + size])
        edit(head)
        text = json.dumps(head).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + size :]

    return checkpoint_bytes(what)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["FDSL_MALICIOUS"])),)


def torch_file(content):
    """A .pth file in the checkpoint's place, named by the flag."""

    def break_it(place):
        torch.save(content(), place.folder / "their.pth")
        return ["--checkpoint", str(place.folder / "their.pth")]

    return break_it


def weights_file(what, suffix=".safetensors"):
    """A file for --pretrained."""

    def break_it(place):
        file = place.folder / f"encoder{suffix}"
        what(file)
        return ["--pretrained", str(file)]

    return break_it


def model_file(text):
    def break_it(place):
        (place.configs / "ViT-tiny-test.json").unlink()
        (place.configs / "Broken.json").write_text(text)
        return ["--model", "Broken"]

    return break_it


def blocked(name):
    """A file where the run wants to make a folder."""

    def break_it(place):
        (place.folder / "blocked").write_text("x")
        return [f"--{name}", str(place.folder / "blocked/further")]

    return break_it


def broken_run(text):
    def break_it(place):
        (place.folder / "run").mkdir()
        (place.folder / "run/config.json").write_text(text)
        return ["--from-maps", str(place.folder / "run")]

    return break_it


def narrow(state, config):
    heads = Fdsl(16, 2).state_dict()
    state.clear()
    state.update(heads)


def refused(monkeypatch, capsys, name, arguments):
    """What an entry point says on standard error when it ends with exit code 2."""
    monkeypatch.setattr(signals, "answer", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_command({"train": train, "test": test}[name].main)
    reported = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in reported, reported
    return reported
