"""Finished runs of somebody else: what they store never leads out of --results, and nothing is lost."""

import json
import shutil

import numpy as np
import pytest

from fdsl.store.maps import load_maps
from tests.commands.test_finished_runs import content, run_of
from tests.support.both_layouts import BACKBONE
from tests.support.small_runs import command
from utils.errors import ConfigError

test = command("test")


@pytest.fixture(scope="module")
def finished(datasets, tmp_path_factory, tiny_configs):
    """A finished run, and the arguments that evaluate it anew."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(datasets[0], folder / "mvtec")
    places = ["--data-path", str(folder / "mvtec"), "--results", str(folder / "results")]
    run = ["--dataset", "mvtec", "--method", "nearest", "--pictures", "0", "--model-config", tiny_configs]
    test.main([*run, *places, *BACKBONE])
    return run_of(folder)


def changed(run, place, value):
    """The run with another value at a place of its config.json."""
    config = json.loads((run / "config.json").read_text())
    *path, last = place.split(".")
    inner = config
    for name in path:
        inner = inner[name]
    inner[last] = value
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "place, value",
    [
        ("options.align", "../../x"),
        ("options.fd", "/x"),
        ("image_score", "../x"),
        ("metric_size", "../x"),
        ("metric_size", 10**9),
        ("windows.winmode", "../../../x"),
        ("windows.win_size", 0),
        ("windows.tiles", 10**6),
        ("options.leave_out", ["../x"]),
        ("options.with_batch", 1),
        ("rotations", "../x"),
        ("model_name", "../x"),
        ("k_shot", -1),
        ("seed", -1),
        ("method", "../x"),
        ("method", ["nearest"]),
        ("backbone.layers", []),
        ("backbone.image_size", True),
    ],
)
def test_a_value_that_no_flag_takes_is_refused(finished, tmp_path, place, value):
    shutil.copytree(finished, tmp_path / "given")
    changed(tmp_path / "given", place, value)
    (tmp_path / "inner/deep").mkdir(parents=True)
    before = content(tmp_path)
    with pytest.raises(ConfigError):
        test.main(["--from-maps", str(tmp_path / "given"), "--results", str(tmp_path / "inner/deep/results")])
    assert content(tmp_path) == before


def test_maps_that_are_not_finite_leave_a_finished_run_as_it_was(finished, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(finished.parents[4], results)
    (run,) = (results / "fdsl/mvtec/1shot/seed14").iterdir()
    shutil.copytree(run, tmp_path / "given")
    with np.load(run / "maps.npz") as saved:
        arrays = dict(saved)
    arrays["base"][0] = np.nan
    np.savez(tmp_path / "given/maps.npz", **arrays)
    before = content(results)
    with pytest.raises(ConfigError, match="not finite"):
        test.main(
            ["--from-maps", str(tmp_path / "given"), "--results", str(results), "--pictures", "0", "--force"]
        )
    assert content(results) == before


def test_a_small_file_that_would_take_much_memory_is_refused(tmp_path):
    file = tmp_path / "maps.npz"
    zeros = np.zeros((400, 200, 200), np.float32)
    np.savez_compressed(file, names=np.array(["a"] * 400), base=zeros, base_score=np.zeros(400, np.float32))
    assert file.stat().st_size < 200_000
    with pytest.raises(ConfigError, match="its arrays are compressed"):
        load_maps(file)
    arrays = {"base": np.random.rand(2, 4, 4).astype("f4"), "base_score": np.zeros(2, "f4")}
    np.savez(file, names=np.array(["a", "b"]), unknown=zeros, **arrays)
    assert load_maps(file).maps.base.shape == (2, 4, 4)
