"""The commands end to end on tiny drawn datasets: what they write, repeat, refuse and reproduce."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from data import mvtec
from data.catalogue import open_catalogue, run_script
from fdsl.api import AnomalyDetector
from fdsl.metrics.exact import ALL_METRICS, METRIC_NAMES
from fdsl.store.maps import load_maps
from tests.support.both_layouts import BACKBONE
from tests.support.detectors import small_detector
from tests.support.small_runs import command
from utils.errors import ConfigError, DataError, ModelError

train, test = command("train"), command("test")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory, datasets, tiny_configs):
    """A folder with checkpoints trained both ways."""
    place = tmp_path_factory.mktemp("work")
    for name, root in zip(("mvtec", "visa"), datasets):
        train.main(
            [
                "--dataset",
                name,
                "--data-path",
                str(root),
                "--model-name",
                "m",
                "--model-config",
                tiny_configs,
                *BACKBONE,
                "--epochs",
                "4",
                "--k-shot",
                "2",
                "--checkpoints",
                str(place / "checkpoints"),
            ]
        )
    return place


def run_test(place, datasets, *more, dataset="mvtec", results="results"):
    heads = () if "--checkpoint" in more else ("--checkpoints", str(place / "checkpoints"))
    test.main(
        [
            "--dataset",
            dataset,
            "--data-path",
            str(datasets[dataset == "visa"]),
            "--model-name",
            "m",
            *BACKBONE,
            *heads,
            "--results",
            str(place / results),
            *more,
        ]
    )


LFE = ("--win-size", "4", "--win-stride", "3")


@pytest.fixture(scope="session")
def finished(workplace, datasets, tiny_configs):
    """The folder of a finished run with LFE."""
    run_test(workplace, datasets, *LFE, "--model-config", tiny_configs)
    return workplace / "results/m/mvtec/1shot/seed14/mul_4_3_0.5"


def test_training_leaves_a_checkpoint_named_by_its_dataset(workplace):
    folder = workplace / "checkpoints/m"
    for name in ("mvtec", "visa"):
        rows = list(csv.DictReader((folder / f"{name}.loss.csv").open(encoding="utf-8-sig")))
        assert list(rows[0]) == ["step", "epoch", "loss", "focal", "dice"] and rows[-1]["epoch"] == "4"
        assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
        assert cv2.imread(str(folder / f"{name}.loss.png")) is not None
        log = (folder / f"{name}.log.txt").read_text()
        assert (
            "epoch 4/4: loss" in log and f"step {rows[-1]['step']}: loss {float(rows[-1]['loss']):.4f}" in log
        )


def test_the_same_seed_trains_the_same_heads_and_a_trained_one_is_kept(
    workplace, datasets, tiny_configs, tmp_path
):
    arguments = [
        "--dataset",
        "visa",
        "--data-path",
        str(datasets[1]),
        "--model-name",
        "m",
        "--model-config",
        tiny_configs,
        *BACKBONE,
        "--epochs",
        "4",
        "--k-shot",
        "2",
    ]
    train.main([*arguments, "--checkpoints", str(tmp_path)])
    first = (workplace / "checkpoints/m/visa.safetensors").read_bytes()
    assert (tmp_path / "m/visa.safetensors").read_bytes() == first
    stamp = (tmp_path / "m/visa.safetensors").stat().st_mtime_ns
    train.main([*arguments, "--checkpoints", str(tmp_path)])
    assert (tmp_path / "m/visa.safetensors").stat().st_mtime_ns == stamp
    train.main([*arguments, "--checkpoints", str(tmp_path), "--seed", "5"])
    assert (tmp_path / "m/visa.safetensors").read_bytes() != first


def test_a_run_leaves_everything_that_is_promised(finished):
    for name in (
        "config.json",
        "metrics.json",
        "metrics.csv",
        "table.md",
        "scores.csv",
        "references.txt",
        "log.txt",
        "pictures",
        "report.html",
        "maps.npz",
    ):
        assert (finished / name).exists(), name
    metrics = json.loads((finished / "metrics.json").read_text())
    assert list(metrics["categories"]) == ["plate"] and list(metrics["mean"]) == list(ALL_METRICS)
    assert metrics["mean"] == metrics["categories"]["plate"]
    undefined = [name for name, value in metrics["mean"].items() if value is None]
    assert undefined == ["auspro", "auspro_05"], "no mask says how much of it saturates"
    assert all(0 <= value <= 1 for value in metrics["mean"].values() if value is not None)
    with (finished / "metrics.csv").open(encoding="utf-8-sig") as file:
        assert list(csv.DictReader(file))[-1]["aupro_05"] == repr(metrics["mean"]["aupro_05"])
    assert "PRO to 0.05" in (finished / "report.html").read_text()
    assert (finished / "table.md").read_text().splitlines()[0].split()[1::2] == ["category", *METRIC_NAMES]
    rows = list(csv.DictReader((finished / "scores.csv").open(encoding="utf-8-sig")))
    assert list(rows[0])[:5] == ["image", "category", "defect", "anomalous", "image_score"]
    assert list(rows[0])[5:] == ["score", "base_score", "window_score"]
    assert len(rows) == 8 and [row["anomalous"] for row in rows].count("true") == 4
    config = json.loads((finished / "config.json").read_text())
    assert (config["trained_on"], config["k_shot"], config["seed"]) == ("visa", 1, 14)
    table = (finished / "table.md").read_text()
    assert "UNTRAINED" in table and "scaled over the category's whole test set" in table
    assert (finished / "references.txt").read_text().startswith("plate\tplate/train/good/")
    strips = [
        path for path in (finished / "pictures/plate").glob("*.jpg") if path.name != "contact_sheet.jpg"
    ]
    assert len(strips) == 8 and (finished / "pictures/plate/contact_sheet.jpg").is_file()


def test_stored_maps_are_the_detectors(finished):
    with np.load(finished / "maps.npz") as maps:
        assert maps["base"].shape == maps["window"].shape == maps["fused"].shape == (8, 8, 8)
        assert np.array_equal(
            maps["fused"], np.float32(0.5) * maps["base"] + np.float32(0.5) * maps["window"]
        )
        assert maps["score"].shape == (8,) and maps["names"][0] == "plate/test/good/000.png"


def test_a_finished_run_is_not_repeated(finished, workplace, datasets, monkeypatch):
    def must_not_run(*_):
        raise AssertionError("the run was repeated")

    monkeypatch.setattr("fdsl.evaluation.single_pass.compute_category", must_not_run)
    run_test(workplace, datasets, *LFE)
    with pytest.raises(AssertionError):
        run_test(workplace, datasets, *LFE, "--force")
    monkeypatch.undo()
    run_test(workplace, datasets, *LFE, "--force")


@pytest.mark.parametrize(
    "more",
    [
        ("--win-weight", "0.3"),
        ("--winmode", "nan"),
        ("--winmode", "onlywin"),
        ("--image-score", "top1"),
        ("--metric-size", "full"),
    ],
)
def test_stored_maps_evaluated_anew_equal_a_full_run_to_the_last_digit(finished, workplace, datasets, more):
    looked_through = () if "nan" in more else LFE
    run_test(workplace, datasets, *looked_through, *more, "--pictures", "0", results="full")
    test.main(["--from-maps", str(finished), "--results", str(workplace / "anew"), *more, "--pictures", "0"])
    written = [path.relative_to(workplace / "anew") for path in (workplace / "anew").rglob("metrics.json")]
    assert written
    name = max(written, key=lambda path: (workplace / "anew" / path).stat().st_mtime_ns)
    assert (workplace / "anew" / name).read_text() == (workplace / "full" / name).read_text()
    anew, full = ((workplace / one / name.with_name("scores.csv")).read_text() for one in ("anew", "full"))
    columns = anew.splitlines()[0].split(",")
    assert [line.split(",")[:5] for line in anew.splitlines()] == [
        line.split(",")[:5] for line in full.splitlines()
    ]
    # What repeats another column is left out; the highest 1 % of 64 patches is the highest one.
    usual = {"score", "base_score", "window_score"}
    left_out = {"onlywin": {"window_score"}, "nan": {"base_score"}, "top1": {"score"}}.get(more[1], set())
    assert set(columns[5:]) == usual - left_out


def test_batches_of_any_size_give_the_same_run(workplace, datasets, finished):
    run_test(workplace, datasets, *LFE, "--batch-size", "1", "--pictures", "0", results="single")
    single = load_maps(workplace / "single" / finished.relative_to(workplace / "results") / "maps.npz").maps
    batched = load_maps(finished / "maps.npz").maps
    assert np.allclose(single.base, batched.base, atol=1e-6) and np.allclose(
        single.window, batched.window, atol=1e-6
    )


@pytest.mark.parametrize("fd", ["signed", "none"])
def test_ablations_of_the_discrepancy(datasets, tiny_configs, tmp_path, fd):
    for name, root in zip(("mvtec", "visa"), datasets):
        train.main(
            [
                "--dataset",
                name,
                "--data-path",
                str(root),
                "--model-name",
                "m",
                "--model-config",
                tiny_configs,
                *BACKBONE,
                "--epochs",
                "1",
                *(() if fd == "none" else ("--k-shot", "2")),
                "--fd",
                fd,
                "--use-nam",
                "0",
                "--checkpoints",
                str(tmp_path / "checkpoints"),
            ]
        )
    shots = "0" if fd == "none" else "2"
    run_test(tmp_path, datasets, "--winmode", "nan", "--k-shot", shots, "--pictures", "0")
    assert (tmp_path / f"results/m/mvtec/{shots}shot/seed14/nan_nonam_fd-{fd}/metrics.json").is_file()


def test_read_only_datasets_need_nothing_written(datasets):
    assert not list(datasets[0].rglob("meta.json")) and not list(datasets[1].rglob("meta.json"))


def test_the_published_checkpoint_loads_like_ours(shared, tmp_path):
    test.main(
        [
            "--dataset",
            "mvtec",
            "--data-path",
            str(one_category(shared, tmp_path)),
            "--model-name",
            "published",
            "--checkpoint",
            str(shared / "golden/published_on_mvtec.pth"),
            "--use-nam",
            "1",
            "--model",
            "DeiT-Ti-16",
            "--model-config",
            str(shared / "weights/open_clip_configs"),
            "--layers",
            "3",
            "6",
            "9",
            "12",
            "--image-size",
            "448",
            "--pretrained",
            str(shared / "weights/DeiT-Ti-16-in1k.safetensors"),
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--winmode",
            "nan",
            "--results",
            str(tmp_path / "results"),
            "--pictures",
            "0",
        ]
    )
    metrics = json.loads(next((tmp_path / "results").rglob("metrics.json")).read_text())
    assert metrics["mean"]["auroc_px"] > 0.9


def one_category(shared, folder):
    """A dataset of links to a few bottles: 1 reference, 4 good and 8 broken ones."""
    source, target = shared / "data/mvtec/bottle", folder / "dataset/bottle"
    for part, numbers in (
        ("train/good", ["000"]),
        ("test/good", ["000", "001", "002", "003"]),
        ("test/broken_large", [f"{number:03}" for number in range(8)]),
    ):
        (target / part).mkdir(parents=True)
        for number in numbers:
            (target / part / f"{number}.png").symlink_to(source / part / f"{number}.png")
    (target / "ground_truth").mkdir()
    (target / "ground_truth/broken_large").symlink_to(source / "ground_truth/broken_large")
    return folder / "dataset"


@pytest.mark.parametrize(
    "more, error, words",
    [
        (("--win-size", "20"), ModelError, "--win-size 20 does not fit a grid of 8"),
        (("--k-shot", "9"), DataError, "9 references are wanted"),
        (("--k-shot", "0"), ConfigError, "--k-shot 0"),
        (("--layers", "1", "2"), ConfigError, "--layers 1 2 does not match the checkpoint"),
        (("--checkpoint", "nowhere.safetensors"), ConfigError, "There is no checkpoint nowhere.safetensors"),
        (("--meta", "nowhere.json"), DataError, "nowhere.json"),
        (("--device", "cuda:7"), ConfigError, "--device cuda:7"),
        (("--device", "gpu"), ConfigError, "--device gpu"),
        (("--precision", "fp16"), ConfigError, "fp16"),
    ],
)
def test_what_cannot_run_is_one_sentence(workplace, datasets, tiny_configs, more, error, words):
    with pytest.raises(error) as caught:
        run_test(workplace, datasets, *LFE, "--model-config", tiny_configs, *more, results="refused")
    assert words in str(caught.value)


def test_other_weights_than_the_checkpoints_are_refused(workplace, datasets, tiny_configs, tmp_path):
    from safetensors.torch import save_file

    from tests.support.backbones import backbone_of

    state = backbone_of("ViT-tiny-test", "none", [1], model_config=tiny_configs).visual.state_dict()
    save_file(
        {name: torch.randn_like(value) for name, value in state.items()}, tmp_path / "other.safetensors"
    )
    with pytest.raises(ModelError, match="are not those that"):
        run_test(
            workplace, datasets, *LFE, "--pretrained", str(tmp_path / "other.safetensors"), results="refused"
        )


def test_other_photographs_under_the_same_name_are_not_taken_for_those_of_a_finished_run(
    workplace, datasets, tiny_configs, tmp_path, logged
):
    """Same category, same numbers of images, same settings: only the files differ."""
    root = tmp_path / "mvtec"
    shutil.copytree(datasets[0], root)
    train_args = [
        "--dataset",
        "mvtec",
        "--data-path",
        str(root),
        "--checkpoints",
        str(tmp_path / "c"),
        "--epochs",
        "1",
        "--k-shot",
        "2",
        "--model-config",
        tiny_configs,
        *BACKBONE,
    ]
    train.main(train_args)
    test_args = [
        "--dataset",
        "mvtec",
        "--data-path",
        str(root),
        "--checkpoint",
        str(tmp_path / "c/fdsl/mvtec.safetensors"),
        "--results",
        str(tmp_path / "r"),
        "--pictures",
        "0",
        "--winmode",
        "nan",
        "--model-config",
        tiny_configs,
        *BACKBONE,
    ]
    test.main(test_args)
    assert (
        "TRAINED ON THESE TEST IMAGES" in logged()
        and "TRAINED ON THESE" in next((tmp_path / "r").rglob("table.md")).read_text()
    )
    photo = next(path for path in sorted((root).rglob("test/*/*.png")) if "good" not in str(path))
    photo.write_bytes(photo.read_bytes() + b"longer")
    before = (tmp_path / "c/fdsl/mvtec.safetensors").stat().st_mtime_ns
    test.main(test_args)
    assert logged().count("the photographs have changed since this run") == 1
    train.main(train_args)
    assert (tmp_path / "c/fdsl/mvtec.safetensors").stat().st_mtime_ns != before
    train.main(train_args)
    assert "trained with these settings already" in logged()


def test_the_training_free_method_is_evaluated_like_the_heads(datasets, tiny_configs, tmp_path):
    """And gives the maps that predict.py and the Python interface give."""
    arguments = [
        "--dataset",
        "mvtec",
        "--data-path",
        str(datasets[0]),
        "--method",
        "nearest",
        "--results",
        str(tmp_path),
        "--winmode",
        "nan",
        "--model-config",
        tiny_configs,
        *BACKBONE,
    ]
    test.main(arguments)
    run = tmp_path / "fdsl/mvtec/1shot/seed14/nearest_ViT-tiny-test_untrained_layers1-3_64px"
    assert "method nearest: nearest normal patch, no training" in (run / "table.md").read_text()
    assert "nearest: nearest normal patch, no training" in (run / "report.html").read_text()
    assert json.loads((run / "metrics.json").read_text())["mean"]["auroc_px"] > 0.8
    detector = small_detector(tiny_configs, method="nearest", image_size=64)
    reference, maps = (run / "references.txt").read_text().split()[1], load_maps(run / "maps.npz")
    detector.fit(datasets[0] / reference, false_alarm_rate=None)
    found = detector.predict([datasets[0] / path for path in maps.names])
    assert all(np.allclose(one.base_map, stored, atol=1e-6) for one, stored in zip(found, maps.maps.base))
    for more, words in (
        (["--checkpoint", "c"], "--checkpoint does not go"),
        (["--use-nam", "1"], "--use-nam does not go"),
        (["--fd", "abs"], "--fd does not go"),
        (["--k-shot", "0"], "nothing to compare with"),
    ):
        with pytest.raises(ConfigError, match=words):
            test.main([*arguments, *more])


@pytest.mark.parametrize("shots", ["1", "2"])
def test_both_methods_together_are_evaluated_as_predict_scores_them(
    workplace, datasets, tiny_configs, tmp_path, shots, logged
):
    """Each category's references alone say what the two maps are measured against."""
    heads = workplace / "checkpoints/m/visa.safetensors"
    arguments = [
        "--dataset",
        "mvtec",
        "--data-path",
        str(datasets[0]),
        "--method",
        "both",
        "--checkpoint",
        str(heads),
        "--k-shot",
        shots,
        "--results",
        str(tmp_path),
        *LFE,
        "--model-config",
        tiny_configs,
        *BACKBONE,
    ]
    test.main(arguments)
    (run,) = (tmp_path / f"fdsl/mvtec/{shots}shot/seed14").glob(
        "both_mul_4_3_0.5_??????"
    )  # not the default checkpoint
    assert "both: trained heads and nearest" in (run / "table.md").read_text()
    assert "both: trained heads and nearest" in (run / "report.html").read_text()
    detector = AnomalyDetector.from_checkpoint(
        heads,
        method="both",
        winmode="mul",
        win_size=4,
        win_stride=3,
        device="cpu",
        precision="fp32",
        model_config=tiny_configs,
    )
    maps = load_maps(run / "maps.npz")
    references = [line.split("\t")[1] for line in (run / "references.txt").read_text().splitlines()]
    detector.fit([datasets[0] / path for path in references], false_alarm_rate=None)
    found = detector.predict([datasets[0] / path for path in maps.names])
    assert all(np.allclose(one.base_map, stored, atol=1e-6) for one, stored in zip(found, maps.maps.base))
    assert all(np.allclose(one.window_map, stored, atol=1e-6) for one, stored in zip(found, maps.maps.window))
    logged()
    test.main(["--from-maps", str(run), "--results", str(tmp_path / "again"), "--pictures", "0"])
    again = tmp_path / "again" / run.relative_to(tmp_path)
    assert (again / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_categories_that_meta_json_does_not_know_are_said(datasets, tmp_path, logged):
    shutil.copytree(datasets[0], tmp_path / "mvtec")
    assert run_script(mvtec.LAYOUT, tmp_path, "", [str(tmp_path / "mvtec")]) == 0
    open_catalogue("mvtec", tmp_path / "mvtec")
    assert "meta.json" not in logged()
    shutil.copytree(tmp_path / "mvtec/plate", tmp_path / "mvtec/nut")
    assert list(open_catalogue("mvtec", tmp_path / "mvtec").test) == ["plate"]
    assert "lists 1 of 2 categories: nut left out" in logged()


@pytest.mark.parametrize(
    "flags",
    [
        ["--use-nam", "0"],
        ["--fd", "signed"],
        ["--align", "diff2"],
        ["--k-shot", "2"],
        ["--seed", "3"],
        ["--dataset", "visa"],
        ["--model-name", "other"],
        ["--method", "nearest"],
        ["--checkpoint", "nowhere"],
        ["--layers", "1"],
        ["--image-size", "32"],
        ["--model", "ViT-B-32"],
    ],
)
def test_flags_that_would_make_other_maps_are_refused_with_stored_ones(finished, flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        test.main(["--from-maps", str(finished), *flags])
    assert f"{flags[0]} has no effect with --from-maps" in capsys.readouterr().err


def test_maps_without_windows_cannot_be_fused_with_some(finished, workplace):
    places = ["--results", str(workplace / "whole"), "--pictures", "0"]
    test.main(["--from-maps", str(finished), "--winmode", "nan", *places])
    (whole,) = (path.parent for path in (workplace / "whole").rglob("metrics.json"))
    with pytest.raises(ConfigError, match="--winmode mul needs window maps, and the stored run has none"):
        test.main(["--from-maps", str(whole), "--winmode", "mul", *places])
