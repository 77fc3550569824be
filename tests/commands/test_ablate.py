"""`--ablate`: every combination in one pass has the files of its own command, and a table compares them."""

import csv
import json

import numpy as np
import pytest
import torch

from fdsl.store.checkpoint import save_checkpoint
from models.matching import memory_bank
from models.methods.fdsl import Fdsl
from tests.support.one_pass import files_of, run, test
from tests.support.predictions import BACKBONE_OPTIONS
from tests.support.run_config import heads_of
from utils.config import BackboneConfig, MethodConfig
from utils.errors import ConfigError

SHAPE = ["--win-size", "4", "--win-stride", "4"]
QUICK = ["--pictures", "0", "--image-score", "max"]
MUL = ["--winmode", "mul", *SHAPE]
WINDOWS = ["win-size=4", "win-stride=4"]
# What is ablated, and the commands that make the same runs one by one.
CASES = {
    "windows and nam": (
        ["method=fdsl,nearest", "winmode=nan,mul,onlywin", "use-nam=0,1", "win-weight=0.3,0.5", *WINDOWS],
        [
            *(["--method", "fdsl", "--use-nam", nam, "--winmode", "nan"] for nam in "01"),
            *(["--method", "fdsl", "--use-nam", nam, *MUL, "--win-weight", "0.3"] for nam in "01"),
            *(["--method", "fdsl", "--use-nam", nam, *MUL] for nam in "01"),
            *(["--method", "fdsl", "--use-nam", nam, *SHAPE, "--winmode", "onlywin"] for nam in "01"),
            ["--method", "nearest"],
            ["--method", "nearest", *MUL, "--win-weight", "0.3"],
            ["--method", "nearest", *MUL],
            ["--method", "nearest", *SHAPE, "--winmode", "onlywin"],
        ],
    ),
    "what is wanted of the backbone": (
        ["method=both,subspace,nearest", "index-memory=0,1,window", "winmode=mul", *WINDOWS],
        [
            *(["--method", "both", *MUL, "--index-memory", index] for index in ("0", "1", "window")),
            ["--method", "subspace", *MUL],
            *(["--method", "nearest", *MUL, "--index-memory", index] for index in ("0", "1", "window")),
        ],
    ),
    "several windows": (
        ["method=nearest", "winmode=mul", "win-size=4", "win-stride=2,4", "win-zip=3,4"],
        [
            ["--method", "nearest", *MUL, "--win-stride", stride, *resized]
            for stride in "24"
            for resized in ([], ["--win-zip", "3"])
        ],
    ),
}


def of_heads(command, checkpoint):
    trained = not {"nearest", "subspace", "method=nearest"} & set(command)
    return [*command, "--checkpoint", str(checkpoint)] if trained else command


@pytest.mark.parametrize("case", CASES)
def test_each_combination_has_the_files_of_its_own_command(case, datasets, backbone, checkpoint, tmp_path):
    ablated, alone = CASES[case]
    draws = ["--k-shot", "2", "--seed", "15"]
    flags = [*backbone, *QUICK, *draws]
    run(datasets[0], tmp_path / "together", flags, *of_heads(["--ablate", *ablated], checkpoint))
    for command in alone:
        run(datasets[0], tmp_path / "alone", flags, *of_heads(command, checkpoint))
    singly, together = files_of(tmp_path / "alone"), files_of(tmp_path / "together")
    tables = {name for name in together if "ablation" in name}
    assert {name for name in together if name not in tables} == set(singly)
    assert len([name for name in singly if name.endswith("maps.npz")]) == len(alone)
    assert {name: together[name] for name in singly} == singly
    assert tables == {f"fdsl/mvtec/ablation.{kind}" for kind in ("md", "csv", "json")}


def test_two_layouts_of_tiles_in_one_pass(datasets, backbone, tmp_path):
    flags = ["--method", "plus", *backbone, *QUICK]
    run(
        datasets[0],
        tmp_path / "together",
        flags,
        "--ablate",
        "tiles=1,2,3",
        "leave-out=,self-dissimilarity+top-k",
    )
    for tiles in "123":
        for without in ([], ["--leave-out", "self-dissimilarity", "top-k"]):
            run(datasets[0], tmp_path / "alone", flags, "--tiles", tiles, *without)
    together = files_of(tmp_path / "together")
    assert {name: part for name, part in together.items() if "ablation" not in name} == files_of(
        tmp_path / "alone"
    )


@pytest.mark.usefixtures("no_validation")
def test_methods_with_the_same_bank_match_once(datasets, backbone, checkpoint, tmp_path, monkeypatch):
    pairs, plain = [], memory_bank.nearest_of
    monkeypatch.setattr(
        *(memory_bank, "nearest_of"),
        lambda query, bank, align="mulmax": (
            pairs.append(query.shape[0] * bank.shape[0]) or plain(query, bank, align)
        ),
    )
    flags = [*backbone, *QUICK, "--checkpoint", str(checkpoint), "--winmode", "mul", *SHAPE]
    flags += ["--k-shot", "1", "2", "--seed", "14"]
    run(datasets[0], tmp_path, flags, "--ablate", "method=fdsl,nearest", "use-nam=0,1")
    images, blocks, references, patches, windows = 8, 2, 2, 64, 4 * 16
    assert sum(pairs) == images * blocks * references * (patches**2 + windows**2)


def test_references_turned_and_not_turned_are_no_one_bank(datasets, backbone, tmp_path):
    flags = ["--method", "nearest", *backbone, *QUICK, "--k-shot", "2"]
    run(datasets[0], tmp_path / "together", flags, "--ablate", "rotate-references=1,2", "align=mulmax")
    for turns in "12":
        run(datasets[0], tmp_path / "alone", flags, "--rotate-references", turns)
    together, alone = (files_of(tmp_path / name) for name in ("together", "alone"))
    assert {name: part for name, part in together.items() if "ablation" not in name} == alone


def test_a_report_of_heads_shows_the_discrepancy_alone_beside_them(datasets, backbone, checkpoint, tmp_path):
    flags = [*backbone, "--winmode", "nan", "--checkpoint", str(checkpoint), "--pictures", "1"]
    run(datasets[0], tmp_path, flags, "--ablate", "method=fdsl,nearest,subspace")
    reports = {path.parent.name: path.read_text() for path in tmp_path.rglob("report.html")}
    (nearest,) = (name for name in reports if "nearest" in name)
    own, beside = "Pixel scores of this run", f"Length of the discrepancy, without heads: {nearest}"
    assert all(own in text for text in reports.values()) and len(reports) == 3
    assert [name for name, text in reports.items() if beside in text] == ["nan"]
    (tmp_path / "fdsl/mvtec/1shot/seed14" / nearest / "metrics.json").unlink()
    again = tmp_path / "fdsl/mvtec/1shot/seed14/nan"
    where = ["--data-path", str(datasets[0]), "--results", str(tmp_path)]
    test.main(["--from-maps", str(again), *where, "--force"])
    assert beside not in (again / "report.html").read_text()


def test_an_image_is_encoded_once_for_each_backbone(datasets, backbone, tmp_path, images_encoded, logged):
    flags = ["--method", "nearest", "--seed", "14", "15", *QUICK]
    place = backbone.index("--layers")
    flags += [*backbone[:place], *backbone[place + 3 :]]
    run(datasets[0], tmp_path, flags, "--ablate", "layers=1,1+3", "align=mulmax,diff2")
    assert images_encoded() == 2 * (8 + 2)
    before = len(logged())
    run(datasets[0], tmp_path, flags, "--ablate", "layers=1,3,1+3", "align=mulmax,diff2")
    reported = logged()[before:]
    assert images_encoded() == 2 * (8 + 2) + 8 + 2 and reported.count("is finished: nothing to do") == 8
    assert reported.count("The backbone is untrained") == 1
    rows = json.loads((tmp_path / "fdsl/mvtec/ablation.json").read_text())["rows"]
    assert [row["layers"] for row in rows] == ["1", "1", "3", "3", "1+3", "1+3"]


def test_a_stopped_pass_goes_on_with_more_values(two_plates, backbone, tmp_path, monkeypatch):
    flags = ["--method", "nearest", *backbone, *QUICK, *SHAPE, "--seed", "14"]
    run(two_plates, tmp_path / "alone", flags, "--ablate", "winmode=nan,mul,onlywin", "align=mulmax,diff2")

    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fdsl.evaluation.single_pass.how_to_continue", stop)
        with pytest.raises(KeyboardInterrupt):
            run(two_plates, tmp_path / "together", flags, "--ablate", "winmode=mul,nan")
    assert not any(tmp_path.glob("together/**/metrics.json"))
    assert len(list(tmp_path.glob("together/**/.parts/*.npz"))) == 2
    run(two_plates, tmp_path / "together", flags, "--ablate", "winmode=nan,mul,onlywin", "align=mulmax,diff2")
    together, alone = (files_of(tmp_path / name) for name in ("together", "alone"))
    for found in (together, alone):
        del found["fdsl/mvtec/ablation.md"]  # it names the command
    assert together == alone


@pytest.fixture
def other_heads(tmp_path, tiny_backbone):
    torch.manual_seed(1)
    file = tmp_path / "fdsl" / "other.safetensors"
    trained = heads_of(
        BackboneConfig(**BACKBONE_OPTIONS), MethodConfig(), tiny_backbone.fingerprint, "folder"
    )
    save_checkpoint(file, Fdsl(32, 2).state_dict(), trained)
    return file


def test_the_table_compares_checkpoints_shots_and_seeds(
    datasets, backbone, checkpoint, other_heads, tmp_path, logged
):
    flags = [*backbone, *QUICK, "--winmode", "nan", "--k-shot", "1", "2", "--seed", "14", "15"]
    both = ["--checkpoint", str(checkpoint), str(other_heads), "--table", "heads"]
    run(datasets[0], tmp_path, flags, *both, "--ablate", "method=fdsl,nearest", "use-nam=1,0")
    folder = tmp_path / "fdsl" / "mvtec"
    values = json.loads((folder / "heads.json").read_text())
    rows, names = values["rows"], [(str(checkpoint), "fdsl"), (str(other_heads), "fdsl"), ("", "nearest")]
    assert len(rows) == 2 * (2 + 2 + 1) and all(row["seeds"] == [14, 15] for row in rows)
    assert {(row["checkpoint"], row["method"]) for row in rows} == set(names)
    first = rows[0]
    singly = [
        json.loads((tmp_path / one / "metrics.json").read_text())["mean"]["ap_px"] for one in rows[0]["runs"]
    ]
    assert first["ap_px_mean"] == pytest.approx(100 * np.mean(singly))
    assert first["ap_px_std"] == pytest.approx(100 * np.std(singly, ddof=1))
    assert first["ap_px_above_first"] is None
    for row in rows[1:]:
        assert row["ap_px_above_first"] == pytest.approx(row["ap_px_mean"] - first["ap_px_mean"])
        assert row["ap_px_low"] <= row["ap_px_above_first"] <= row["ap_px_high"]
    lines = list(csv.reader((folder / "heads.csv").open(encoding="utf-8-sig")))
    assert len(lines) == 11 and float(lines[1][lines[0].index("ap_px_mean")]) == first["ap_px_mean"]
    text = (folder / "heads.md").read_text()
    assert "UNTRAINED" in text and text.count("| nearest") == 4 and "10 combinations, 20 runs" in logged()


def test_a_table_says_which_rows_see_the_test_set(datasets, backbone, tmp_path):
    run(datasets[0], tmp_path, [*backbone, *QUICK], "--method", "nearest", "--ablate", "with-batch=0,1")
    rows = json.loads((tmp_path / "fdsl/mvtec/ablation.json").read_text())["rows"]
    assert [row["sees the test set"] for row in rows] == ["false", "true"]
    assert "sees the test set" in (tmp_path / "fdsl/mvtec/ablation.md").read_text()


def test_several_tables_share_their_runs(datasets, backbone, tmp_path, images_encoded):
    flags = ["--method", "nearest", *backbone, *QUICK, "--winmode", "mul", *SHAPE, "--align", "diff2"]
    run(
        *(datasets[0], tmp_path, flags, "--ablate", "winmode=mul,nan", "--ablate", "win-weight=0.5,0.1"),
        *("--ablate", "align=diff2,mulmax", "win-weight=0.5", "--table", "lfe", "weight", "alignment"),
    )
    folder = tmp_path / "fdsl" / "mvtec"
    tables = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("lfe", "weight", "alignment")
    }
    first = {tuple(table["rows"][0]["runs"]) for table in tables.values()}
    assert first == {
        ("fdsl/mvtec/1shot/seed14/" + path.name,) for path in folder.glob("1shot/*/nearest_*_mul*0.5_diff2*")
    }
    assert len(list(folder.glob("1shot/seed14/*/metrics.json"))) == 4
    assert images_encoded() == 9 * (1 + 4)  # whole, and in four windows


def test_shots_alone_make_a_table(datasets, backbone, tmp_path):
    run(
        datasets[0],
        tmp_path,
        ["--method", "nearest", *backbone, *QUICK],
        "--k-shot",
        "1",
        "2",
        "--table",
        "shots",
    )
    rows = json.loads((tmp_path / "fdsl/mvtec/shots.json").read_text())["rows"]
    assert [row["shots"] for row in rows] == ["1", "2"] and "checkpoint" not in rows[0]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ablate", "winmod=nan"], "--ablate winmod: there is no such setting; did you mean winmode?"),
        (["--ablate", "results=a,b"], "--ablate results: there is no such setting"),
        (["--ablate", "winmode"], "give NAME=VALUE,VALUE"),
        (["--ablate", "winmode="], "give NAME=VALUE,VALUE"),
        (["--ablate", "winmode=nan,mull"], "--ablate winmode=mull: winmode: invalid choice: 'mull'"),
        (["--ablate", "win-weight=0.5,2"], "win-weight: 2 is not a number from 0 to 1"),
        (["--ablate", "layers=1+x"], "layers: 'x' is not a whole number"),
        (["--ablate", "with-batch=2"], "--ablate with-batch=2: give 0"),
        (["--ablate", "use-nam=0,1", "use_nam=0"], "--ablate names use-nam twice"),
        (["--ablate", "use-nam=0,1", "--use-nam", "1"], "--ablate use-nam and --use-nam both say it"),
        (["--ablate", "seed=1,2"], "it has a flag of its own for several values, --seed 14 15"),
        (["--table", "x", "y"], "there are 1 tables: give --table as many names"),
        (["--ablate", "fd=abs", "--ablate", "fd=signed"], "there are 2 tables: give --table as many names"),
        (
            ["--ablate", "fd=abs", "--ablate", "fd=abs,none", "--fd", "abs"],
            "--ablate fd and --fd both say it",
        ),
        (["--ablate", "use-nam=0,1", "--table", "a/b"], "cannot be the name of a folder"),
        (["--from-maps", "x", "--ablate", "win-weight=0.3"], "has no effect with --from-maps"),
    ],
)
def test_what_cannot_be_is_one_sentence(flags, says, capsys):
    with pytest.raises(SystemExit) as ended:
        test.main(["--dataset", "mvtec", *flags])
    reported = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and reported.startswith("error: ")
        and says in reported
        and reported.count("\n") == 1
    )


def test_what_does_not_go_together_is_refused_before_anything_runs(datasets, backbone, tmp_path):
    flags = ["--method", "nearest", *backbone]
    with pytest.raises(ConfigError, match="^--ablate tiles=2 winmode=mul: --tiles does not go with local"):
        run(datasets[0], tmp_path, flags, "--ablate", "tiles=1,2", "winmode=nan,mul")
    with pytest.raises(ConfigError, match="^--ablate winmode=mul win-size=4 win-stride=5: --win-stride 5 is"):
        run(datasets[0], tmp_path, flags, "--ablate", "winmode=mul", "win-size=8,4", "win-stride=2,5")
    assert not any(tmp_path.rglob("*.json"))
