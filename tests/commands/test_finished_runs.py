"""Finished test runs: what counts as one, what replaces it, and that nothing refused harms it."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.backbones import backbone_of
from tests.support.both_layouts import BACKBONE
from tests.support.small_runs import command
from utils.errors import ConfigError, ModelError

test = command("test")


@pytest.fixture
def place(datasets, tiny_configs, tmp_path):
    """Arguments of a run on a dataset of its own, and the folder that it goes to."""
    shutil.copytree(datasets[0], tmp_path / "mvtec")

    def arguments(*more):
        return [
            "--dataset",
            "mvtec",
            "--data-path",
            str(tmp_path / "mvtec"),
            "--method",
            "nearest",
            "--results",
            str(tmp_path / "results"),
            "--model-config",
            tiny_configs,
            *BACKBONE,
            *more,
        ]

    test.main(arguments("--pictures", "0"))
    return arguments, run_of(tmp_path)


def run_of(tmp_path):
    (run,) = (tmp_path / "results/fdsl/mvtec/1shot/seed14").iterdir()
    return run


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "log.txt")
    }


def another_photograph(tmp_path):
    photo = next(iter(sorted((tmp_path / "mvtec/plate/test").glob("*/*.png"))))
    cv2.imwrite(str(photo), 255 - cv2.imread(str(photo))[:, :50])


def test_the_training_free_method_looks_at_the_whole_image_unless_it_is_told_otherwise(place):
    arguments, run = place
    assert (
        run.name == "nearest_ViT-tiny-test_untrained_layers1-3_64px"
        and json.loads((run / "config.json").read_text())["windows"]["winmode"] == "nan"
    )
    with pytest.raises(ConfigError, match="--win-size is for local windows"):
        test.main(arguments("--win-size", "3"))
    for flag in ("--checkpoint", "--checkpoints"):
        with pytest.raises(ConfigError, match=f"{flag} does not go with --method nearest"):
            test.main(arguments(flag, "heads"))


def test_maps_of_a_run_that_has_not_ended_are_refused(place, tmp_path):
    """They may be of the run before: of another checkpoint, say."""
    _, run = place
    (run / ".parts").mkdir()
    before = content(run)
    with pytest.raises(ConfigError, match="has not ended"):
        test.main(["--from-maps", str(run), "--results", str(tmp_path / "results")])
    (run / ".parts").rmdir()
    (run / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="has not ended"):
        test.main(["--from-maps", str(run)])
    assert content(run) == {name: value for name, value in before.items() if name != "metrics.json"}


def test_maps_of_other_photographs_are_refused_and_nothing_is_touched(place, tmp_path):
    _, run = place
    again = ["--from-maps", str(run), "--results", str(tmp_path / "results"), "--pictures", "0"]
    before = content(run)
    another_photograph(tmp_path)
    with pytest.raises(ConfigError, match="are not those that the maps of .* are of"):
        test.main(again)
    assert content(run) == before and not (run / ".parts").exists()


def test_what_is_refused_before_it_begins_leaves_a_finished_run_as_it_is(place, tmp_path):
    arguments, run = place
    before = content(run)
    with pytest.raises(ModelError, match="neither a file nor a tag"):
        test.main([*arguments("--pictures", "0", "--force"), "--pretrained", "mistyped"])
    another_photograph(tmp_path)
    with pytest.raises(ModelError, match="--layers"):
        test.main([*arguments("--pictures", "0"), "--layers", "77"])
    assert content(run) == before


def test_an_interrupted_run_leaves_no_results_of_the_one_before(place, tmp_path, monkeypatch):
    arguments, run = place
    test.main(arguments("--force"))
    assert (run / "report.html").is_file() and (run / "pictures").is_dir()
    monkeypatch.setattr(
        "fdsl.evaluation.single_pass.compute_category", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        test.main(arguments("--force"))
    assert set(content(run)) == {"config.json", "references.txt"}


def test_pictures_are_drawn_later_from_the_maps_and_old_ones_do_not_stay(place, logged, monkeypatch):
    arguments, run = place
    numbers = (run / "metrics.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("fdsl.evaluation.single_pass.build_detector", None)
        test.main(arguments())
    assert "they are made from its maps" in logged()
    assert (
        (run / "report.html").is_file()
        and any((run / "pictures").iterdir())
        and (run / "metrics.json").read_bytes() == numbers
    )
    test.main(arguments())
    assert "is finished: nothing to do" in logged()
    test.main(arguments("--pictures", "0", "--force"))
    assert not (run / "report.html").exists() and not (run / "pictures").exists()
    (run / "maps.npz").unlink()
    test.main(arguments())  # nothing to draw from: the whole run once more
    assert (run / "report.html").is_file() and (run / "metrics.json").read_bytes() == numbers


def test_a_run_of_other_settings_with_the_same_name_leaves_the_first_one(place, logged):
    arguments, run = place
    before = content(run)
    for _ in range(2):  # the second time it is found again
        logged()
        test.main([*arguments("--pictures", "0"), "--precision", "bf16"])
        (other,) = set(run.parent.iterdir()) - {run}
        assert other.name.startswith(f"{run.name}_") and content(run) == before
        assert json.loads((other / "config.json").read_text())["machine"]["precision"] == "bfloat16"
    assert "is finished: nothing to do" in logged()
    test.main(arguments("--pictures", "0"))
    assert f"{run} is finished: nothing to do" in logged()


def test_backbones_of_the_training_free_method_have_folders_of_their_own(place, tmp_path, tiny_configs):
    arguments, run = place
    test.main([*arguments("--pictures", "0"), "--layers", "1"])
    assert len(list(run.parent.iterdir())) == 2
    weights = tmp_path / "weights.safetensors"
    for seed in (1, 2):  # other weights under the same name
        torch.manual_seed(seed)
        state = backbone_of("ViT-tiny-test", "none", [1], model_config=tiny_configs).visual.state_dict()
        save_file({name: torch.randn_like(value) * 0.1 for name, value in state.items()}, weights)
        test.main([*arguments("--pictures", "0"), "--pretrained", str(weights)])
        assert len(list(run.parent.iterdir())) == 2 + seed
    shutil.move(weights, tmp_path / "moved.safetensors")
    test.main([*arguments("--pictures", "0"), "--pretrained", str(tmp_path / "moved.safetensors")])
    assert len(list(run.parent.iterdir())) == 4


def test_folders_of_photographs_have_folders_of_their_own(tmp_path, tiny_configs):
    generator = np.random.default_rng(0)
    for product in ("gear", "cup"):
        for name in ("good/0.png", "good/1.png", "dent/0.png"):
            (tmp_path / product / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(
                str(tmp_path / product / name), generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            )
        test.main(
            [
                "--dataset",
                "folder",
                "--data-path",
                str(tmp_path / product),
                "--method",
                "nearest",
                "--results",
                str(tmp_path / "r"),
                "--pictures",
                "0",
                "--model-config",
                tiny_configs,
                *BACKBONE,
            ]
        )
    runs = sorted(path.name for path in (tmp_path / "r/fdsl/folder/1shot/seed14").iterdir())
    assert [name.rpartition("_")[2] for name in runs] == ["cup", "gear"]


def test_stored_maps_keep_their_score_and_size_unless_told_otherwise(place, tmp_path):
    arguments, _ = place
    test.main(arguments("--pictures", "0", "--image-score", "max", "--metric-size", "64"))
    (run,) = (tmp_path / "results/fdsl/mvtec/1shot/seed14").glob("nearest_*_at64")
    test.main(["--from-maps", str(run), "--results", str(tmp_path / "again"), "--pictures", "0"])
    again = tmp_path / "again" / run.relative_to(tmp_path / "results")
    assert (again / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    test.main(
        [
            "--from-maps",
            str(run),
            "--results",
            str(tmp_path / "again"),
            "--pictures",
            "0",
            "--image-score",
            "top1",
        ]
    )
    assert len(list(again.parent.glob("nearest_*_top1_at64"))) == 1


def test_a_seed_that_no_generator_takes_is_refused(place, capsys):
    arguments, _ = place
    with pytest.raises(SystemExit):
        test.main(arguments("--seed", str(2**70)))
    assert "is not a whole number from 0 to" in capsys.readouterr().err
    test.main(arguments("--pictures", "0", "--seed", str(2**63 - 1)))


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"categories": 3}', '{"categories": {"plate": {}}, "mean": {}}']
)
def test_a_finished_run_with_damaged_numbers_is_repeated(datasets, backbone, tmp_path, content, logged):
    flags = ["--dataset", "mvtec", "--data-path", str(datasets[0]), "--method", "nearest", *backbone]
    flags += ["--results", str(tmp_path), "--pictures", "0"]
    command("test").main(flags)
    (file,) = tmp_path.rglob("metrics.json")
    before = file.read_text()
    file.write_text(content)
    command("test").main(flags)
    assert "metrics.json is not " in logged() and file.read_text() == before
