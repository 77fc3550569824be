"""Small drawn datasets and the commands' arguments for them, for tests that interrupt, break and repeat
runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.constants import ROOT, TINY
from tests.support.photographs import write_image

CATEGORIES = ("cup", "nut", "plate")
BACKBONE = (
    "--model",
    "ViT-tiny-test",
    "--pretrained",
    "none",
    "--layers",
    "1",
    "3",
    "--image-size",
    "32",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--workers",
    "0",
)
LFE = ("--win-size", "2", "--win-stride", "2")


def command(name):
    """An entry point as a module: test.py's name is also that of a package of Python's."""
    spec = importlib.util.spec_from_file_location(f"small_run_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_dataset(root, categories=CATEGORIES, seed=0, train=3, good=2, bad=4):
    """MVTec AD's layout under `root`: noise with a red square where there is a defect."""
    generator = np.random.default_rng(seed)
    for category in categories:
        for part, count in (("train/good", train), ("test/good", good), ("test/spot", bad)):
            for number in range(count):
                photo = generator.normal(120, 12, (40, 36, 3)).clip(0, 255).astype(np.uint8)
                if part == "test/spot":
                    mask = np.zeros((40, 36), np.uint8)
                    x, y = generator.integers(4, 20, 2)
                    mask[y : y + 12, x : x + 12] = 255
                    photo[mask > 0] = (250, 20, 20)
                    write_image(root / category / "ground_truth/spot" / f"{number:03}_mask.png", mask)
                write_image(root / category / part / f"{number:03}.png", photo)
    return root


def write_model_config(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ViT-tiny-test.json").write_text(json.dumps({**TINY, **more}))
    return folder


class Place:
    """A folder with a dataset and a model file, and the arguments that run the commands in it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.data = draw_dataset(self.folder / "data")
        self.configs = write_model_config(self.folder / "configs")

    def train(self, *more, checkpoints="checkpoints"):
        return [
            "--dataset",
            "mvtec",
            "--data-path",
            str(self.data),
            "--model-name",
            "m",
            "--model-config",
            str(self.configs),
            *BACKBONE,
            "--epochs",
            "3",
            "--k-shot",
            "2",
            "--batch-size",
            "4",
            "--checkpoints",
            str(self.folder / checkpoints),
            *more,
        ]

    def test(self, *more, results="results", checkpoint="checkpoints"):
        return [
            "--dataset",
            "mvtec",
            "--data-path",
            str(self.data),
            "--model-name",
            "m",
            "--model-config",
            str(self.configs),
            *BACKBONE,
            *LFE,
            "--checkpoint",
            str(self.folder / checkpoint / "m/mvtec.safetensors"),
            "--results",
            str(self.folder / results),
            *more,
        ]

    def predict(self, *more):
        """Every photograph of the dataset; fills --output where `more` does."""
        backbone = [word for word in BACKBONE if word not in ("--workers", "0")]
        return [
            "--references",
            str(self.data / "cup/train/good"),
            "--input",
            str(self.data),
            "--model-config",
            str(self.configs),
            *backbone,
            "--workers",
            "1",
            *more,
        ]

    def weights(self, checkpoints="checkpoints"):
        return self.folder / checkpoints / "m/mvtec.safetensors"

    def run_folder(self, results="results"):
        """The one run's folder in `results`."""
        found = sorted(path.parent for path in (self.folder / results).rglob("config.json"))
        assert len(found) == 1, found
        return found[0]


def finished_place(folder, *more):
    """A dataset, a checkpoint trained without a disturbance and the run that tests it, with `more` flags."""
    place = Place(folder)
    command("train").main(place.train())
    command("test").main(place.test(*more))
    return place


def files(folder):
    """Path -> content of everything a run leaves but its log, its report and the command that asked for
    it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.txt", "mvtec.log.txt", "config.json", "report.html")
    }


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(name, arguments, **more):
    """A real process of an entry point."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{name}.py"), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
        **more,
    )


def run(name, arguments):
    """An entry point to its end, as (exit code, standard error)."""
    process = start(name, arguments)
    reported = process.communicate()[1]
    return process.returncode, reported


def line_with(process, words):
    """The next line on a process's standard error that holds these words."""
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"{words!r} was never reported")


def children(number):
    """The ids of a process's children (Linux; elsewhere none)."""
    listed = Path(f"/proc/{number}/task/{number}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []
