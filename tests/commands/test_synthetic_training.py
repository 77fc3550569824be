"""train.py --augmentation synthetic: heads that have never seen a defective part."""

import pytest

from data.catalogue import open_catalogue
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.few_shot_split import sample_split
from fdsl.store.checkpoint import load_checkpoint
from fdsl.training import setup
from tests.support.both_layouts import BACKBONE
from tests.support.photographs import draw_parts
from tests.support.run_config import a_config
from tests.support.small_runs import command
from utils.errors import DataError
from utils.options import from_stored

train = command("train")


@pytest.fixture
def good(tmp_path):
    """A folder in the layout of somebody's own parts: good photographs, none defective."""
    place = draw_parts(tmp_path / "place")
    for file in sorted((place / "good").iterdir()):
        (tmp_path / "own" / "train" / "good").mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "own" / "train" / "good" / file.name)
    return tmp_path / "own"


SYNTHETIC = ("--augmentation", "synthetic")


def trained(folder, tiny_configs, place, *more):
    train.main(
        ["--dataset", "folder", "--data-path", str(folder), "--checkpoints", str(place), "--epochs", "2"]
        + [*BACKBONE, "--model-config", tiny_configs, *more]
    )
    return place / "fdsl" / "folder.safetensors"


def test_heads_learn_from_good_photographs_alone(good, tiny_configs, tmp_path):
    file = trained(good, tiny_configs, tmp_path / "one", *SYNTHETIC)
    config = load_checkpoint(file).config
    training = config.training
    assert config.trained_on == "synthetic defects on folder"
    count = len(list((good / "train" / "good").iterdir()))
    assert (training.recipe.augmentation, training.recipe.k_shot) == ("synthetic", 1)
    assert sum(training.images.values()) == count - 1
    assert trained(good, tiny_configs, tmp_path / "two", *SYNTHETIC).read_bytes() == file.read_bytes()
    other = trained(good, tiny_configs, tmp_path / "two", *SYNTHETIC, "--seed", "3", "--force")
    assert other.read_bytes() != file.read_bytes()


def test_mixed_learns_from_real_defects_too(datasets, tiny_configs, tmp_path):
    counts = []
    for kind in ("synthetic", "mixed"):
        train.main(
            ["--dataset", "mvtec", "--data-path", str(datasets[0]), "--checkpoints", str(tmp_path / kind)]
            + [*BACKBONE, "--model-config", tiny_configs, "--epochs", "1", "--augmentation", kind]
        )
        checkpoint = load_checkpoint(tmp_path / kind / "fdsl" / "mvtec.safetensors")
        counts.append(sum(checkpoint.config.training.images.values()))
        config = from_stored(RunConfig, a_config(14, data_path=str(datasets[0])))
        assert sample_split(config).has_trained(checkpoint, "mvtec") == (kind == "mixed"), (
            "saw the test images"
        )
    only, mixed = counts
    catalogue = open_catalogue("mvtec", datasets[0])
    assert only == sum(len(part) - 1 for part in catalogue.train.values()), "all but the one reference"
    assert mixed == only + sum(map(len, catalogue.test.values()))
    assert checkpoint.trained_on == "mvtec and synthetic defects"


def test_without_epochs_as_many_as_show_enough_images(good, tiny_configs, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "SYNTHETIC_IMAGES", 7)
    count = len(list((good / "train" / "good").iterdir())) - 1
    train.main(
        ["--dataset", "folder", "--data-path", str(good), "--checkpoints", str(tmp_path), *SYNTHETIC]
        + [*BACKBONE, "--model-config", tiny_configs]
    )
    epochs = load_checkpoint(tmp_path / "fdsl" / "folder.safetensors").config.training.recipe.epochs
    assert (epochs - 1) * count < 7 <= epochs * count


def test_photographs_that_are_all_references_are_one_sentence(good, tiny_configs, tmp_path):
    count = len(list((good / "train" / "good").iterdir()))
    with pytest.raises(
        DataError, match="every normal image is a reference, so there is none for synthetic defects"
    ):
        trained(good, tiny_configs, tmp_path / "one", *SYNTHETIC, "--k-shot", str(count))
