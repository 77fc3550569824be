"""train.py --dataset A B: heads that learn from several datasets together."""

import shutil

import pytest

from data.catalogue import open_catalogue
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.few_shot_split import sample_split
from fdsl.store.checkpoint import load_checkpoint
from fdsl.training.training_set import TrainingSet, join_training_sets, sample_training_set
from tests.support.both_layouts import BACKBONE
from tests.support.run_config import a_config
from tests.support.small_runs import command
from utils.errors import DataError
from utils.options import from_stored

train = command("train")


def trained(folders, tiny_configs, place, *more, names=("mvtec", "visa")):
    train.main(
        ["--dataset", *names, "--data-path", *map(str, folders), "--checkpoints", str(place)]
        + [*BACKBONE, "--model-config", tiny_configs, "--epochs", "1", "--k-shot", "2", *more]
    )
    return place / "fdsl" / f"{'+'.join(names)}.safetensors"


def drawn(name, root) -> TrainingSet:
    return sample_training_set(open_catalogue(name, root), 2, 111, name, "none")


def test_each_image_meets_the_references_of_its_own_dataset(datasets):
    one, other = drawn("mvtec", datasets[0]), drawn("visa", datasets[1])
    both = join_training_sets([one, other])
    files = [both.root / record.image_path for record in both.records]
    assert files == [
        part.root.resolve() / record.image_path for part in (one, other) for record in part.records
    ]
    masks = [both.root / record.mask_path for record in both.records if record.mask_path]
    assert masks and all(mask.is_file() for mask in masks)
    assert both.images == one.images | other.images
    for part in (one, other):
        for category, references in part.references.items():
            here = [both.root / record.image_path for record in both.references[category]]
            assert here == [part.root.resolve() / record.image_path for record in references]


def test_both_are_learnt_from_and_neither_is_a_test_afterwards(datasets, tiny_configs, tmp_path):
    checkpoint = load_checkpoint(trained(datasets, tiny_configs, tmp_path))
    assert checkpoint.trained_on == "mvtec+visa"
    images = sum(len(drawn(name, root).records) for name, root in zip(("mvtec", "visa"), datasets))
    assert sum(checkpoint.config.training.images.values()) == images
    for name, root in zip(("mvtec", "visa"), datasets):
        tested = sample_split(from_stored(RunConfig, a_config(14, dataset=name, data_path=str(root))))
        assert tested.has_trained(checkpoint, name), "by its name"
        assert tested.has_trained(checkpoint, "folder"), "by its files"


def test_where_they_lie_changes_nothing(datasets, tiny_configs, tmp_path):
    for name, root in zip(("a", "b/deep"), datasets):
        shutil.copytree(root, tmp_path / name)
    first = trained(datasets, tiny_configs, tmp_path / "one")
    again = trained((tmp_path / "a", tmp_path / "b" / "deep"), tiny_configs, tmp_path / "two")
    assert first.read_bytes() == again.read_bytes()


def test_two_categories_of_one_name_are_one_sentence(datasets, tmp_path):
    one = drawn("mvtec", datasets[0])
    shutil.copytree(datasets[0], tmp_path / "again")
    with pytest.raises(DataError, match="is in two of the datasets; rename its folder in one of them"):
        join_training_sets([one, drawn("mvtec", tmp_path / "again")])


@pytest.mark.parametrize(
    "names, folders, more, words",
    [
        (("mvtec", "visa"), 1, (), "each dataset has a folder of its own"),
        (("mvtec", "mvtec"), 2, (), "each dataset and each folder is given once"),
        (("mvtec", "visa"), 2, ("--meta", "meta.json"), "--meta goes with one dataset"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    datasets, tiny_configs, tmp_path, names, folders, more, words, capsys
):
    with pytest.raises(SystemExit, match="2"):
        trained(datasets[:folders], tiny_configs, tmp_path, *more, names=names)
    assert words in capsys.readouterr().err
