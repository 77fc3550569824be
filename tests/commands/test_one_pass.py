"""Several shots and seeds in one pass: the files of single runs, byte for byte, also when interrupted."""

import pytest
import torch

from fdsl.scoring import NotFinite, Scorer
from tests.support.one_pass import files_of, run, test
from utils.errors import ConfigError

RUNS = [(1, 14), (2, 14), (1, 15), (2, 15)]
BOTH = ["--k-shot", "1", "2", "--seed", "14", "15"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "nearest", "--rotate-references", "auto"],
        ["--method", "plus", "--tiles", "2"],
        ["--method", "nearest", "--winmode", "mul", "--win-size", "4", "--win-stride", "4"],
        ["--method", "fdsl", "--win-size", "4", "--win-stride", "4", "--index-memory", "window"],
        ["--method", "fdsl", "--win-size", "4", "--win-stride", "4", "--index-memory", "1"],
        ["--method", "fdsl", "--win-size", "4", "--win-stride", "4", "--window-memory", "image"],
        ["--method", "nearest", "--precision", "bf16", "--winmode", "mul", "--win-size", "4"],
        ["--method", "both", "--winmode", "nan", "--image-score", "max"],
        ["--method", "subspace"],
        ["--method", "batch"],
        ["--method", "nearest", "--with-text", "--image-score", "max"],
    ],
    ids=lambda flags: "-".join(flags[1::2]).replace("/", "_")[:40],
)
def test_it_gives_the_files_of_single_runs(flags, datasets, backbone, checkpoint, tmp_path):
    heads = ["--checkpoint", str(checkpoint)] if flags[1] in ("fdsl", "both") else []
    flags, k_shots = [*backbone, *flags, *heads], [] if flags[1] == "batch" else BOTH[:3]
    run(datasets[0], tmp_path / "together", flags, *k_shots, *BOTH[3:])
    for shots, seed in RUNS:
        k = ["--k-shot", str(shots)] if k_shots else []
        run(datasets[0], tmp_path / "alone", flags, *k, "--seed", str(seed))
    alone = files_of(tmp_path / "alone")
    assert len([name for name in alone if name.endswith("maps.npz")]) == (4 if k_shots else 2)
    assert files_of(tmp_path / "together") == alone


def test_each_test_image_is_encoded_once(datasets, backbone, tmp_path, images_encoded):
    run(datasets[0], tmp_path, ["--method", "nearest", *backbone], *BOTH)
    references = 2 * len({seed for _, seed in RUNS})  # two shots hold the one
    assert images_encoded() == 8 + references


def test_an_interrupted_pass_leaves_no_results_of_the_runs_before(datasets, backbone, tmp_path, monkeypatch):
    flags = ["--method", "nearest", *backbone, "--pictures", "0"]
    run(datasets[0], tmp_path, flags, *BOTH)
    logs = [file.read_text() for file in tmp_path.rglob("log.txt")]
    assert len(logs) == 4 and all(text.count("results in ") == 1 for text in logs), "a log for each run"
    monkeypatch.setattr(
        "fdsl.evaluation.single_pass.compute_category", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(datasets[0], tmp_path, flags, *BOTH, "--force")
    left = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"config.json", "references.txt", "log.txt"}


@pytest.mark.slow
def test_a_stopped_pass_goes_on_also_with_more_seeds(two_plates, backbone, tmp_path, monkeypatch):
    flags = ["--method", "nearest", *backbone]
    for shots, seed in RUNS:
        run(two_plates, tmp_path / "alone", flags, "--k-shot", str(shots), "--seed", str(seed))

    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fdsl.evaluation.single_pass.how_to_continue", stop)
        with pytest.raises(KeyboardInterrupt):
            run(two_plates, tmp_path / "together", flags, "--k-shot", "1", "2", "--seed", "14")
    run(two_plates, tmp_path / "together", flags, *BOTH)
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")


def test_banks_that_do_not_fit_take_several_passes(datasets, backbone, tmp_path, logged):
    flags = ["--method", "nearest", *backbone]
    run(datasets[0], tmp_path / "little", flags, *BOTH, "--memory", "0.00013")
    assert "more runs wait for another pass" in logged()
    run(datasets[0], tmp_path / "none", flags, *BOTH, "--memory", "0.00001")
    assert "each run encodes for itself" in logged()
    run(datasets[0], tmp_path / "much", flags, *BOTH)
    assert files_of(tmp_path / "little") == files_of(tmp_path / "much") == files_of(tmp_path / "none")


def test_finished_runs_are_not_computed_again(datasets, backbone, tmp_path, images_encoded, logged):
    flags = ["--method", "nearest", *backbone]
    run(datasets[0], tmp_path, flags, "--k-shot", "1", "--seed", "14")
    before = images_encoded()
    run(datasets[0], tmp_path, flags, *BOTH)
    between = images_encoded()
    assert between - before == 8 + 2 + 2
    run(datasets[0], tmp_path, flags, *BOTH)
    assert images_encoded() == between and logged().count("is finished: nothing to do") == 5


def test_values_that_overflow_in_one_run_leave_the_others_as_they_are(
    datasets, backbone, tmp_path, monkeypatch, logged
):
    plain = Scorer.__call__

    def scored(self, pixels, names, match=None):
        dtype = self.detector.backbone.dtype
        if dtype != torch.float32 and self.detector.memories.whole.photographs == 2:
            raise NotFinite(names[-1], dtype)
        return plain(self, pixels, names, match)

    monkeypatch.setattr(Scorer, "__call__", scored)
    flags = ["--method", "nearest", *backbone, "--precision", "bf16"]
    run(datasets[0], tmp_path / "together", flags, *BOTH)
    assert logged().count("The run is repeated in float32") == 2, "those of two shots"
    for shots, seed in RUNS:
        run(datasets[0], tmp_path / "alone", flags, "--k-shot", str(shots), "--seed", str(seed))
    together = files_of(tmp_path / "together")
    assert together == files_of(tmp_path / "alone")
    used = [part["machine"]["precision"] for name, part in together.items() if name.endswith("config.json")]
    assert sorted(used) == ["bfloat16", "bfloat16", "float32", "float32"]


def test_what_is_refused(datasets, backbone, tmp_path, capsys):
    with pytest.raises(SystemExit):
        test.main(["--from-maps", "x", "--seed", "1", "2"])
    assert "--seed has no effect with --from-maps" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--k-shot 0 leaves --method nearest nothing"):
        run(datasets[0], tmp_path, ["--method", "nearest", *backbone], "--k-shot", "1", "0")
    assert not any(tmp_path.rglob("metrics.json"))
