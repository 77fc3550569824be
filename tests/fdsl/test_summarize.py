"""Across seeds: the table of finished runs is exact, mixes nothing, says what it is."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fdsl import summarize
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.run_name import name_of
from fdsl.metrics.exact import ALL_METRICS
from fdsl.report import published
from tests.support.constants import ROOT
from tests.support.run_config import a_config
from utils.errors import ConfigError
from utils.options import from_stored


def write_run(
    results: Path, seed: int, values=None, categories=published.CATEGORIES["mvtec"], run=None, **changes
) -> Path:
    """A finished run's two files; `values`: metric -> the fraction that every category has (default by the
    seed)."""
    config = a_config(seed, **changes)
    name = name_of(from_stored(RunConfig, config))
    folder = results / config["dataset"] / f"{config['k_shot']}shot" / f"seed{seed}" / (run or name)
    folder.mkdir(parents=True)
    values = values or {name: 0.5 + index / 100 + seed / 1000 for index, name in enumerate(ALL_METRICS)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.json").write_text(
        json.dumps({"categories": dict.fromkeys(categories, values), "mean": values})
    )
    return folder


def our_rows(results: Path) -> list:
    return [row for row in summarize.table_rows(summarize.find_runs(results)[0]) if not row.published]


def table_lines(text: str) -> list[list[str]]:
    """The cells of every line of the Markdown's tables."""
    lines = [line.replace("\\|", "!") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_mean_and_sample_deviation_over_seeds(tmp_path):
    rng = np.random.default_rng(5)
    scores = rng.random((4, len(ALL_METRICS)))
    for seed, row in zip((18, 3, 14, 100), scores):
        write_run(tmp_path, seed, dict(zip(ALL_METRICS, row.tolist())))
    (row,) = our_rows(tmp_path)
    assert row.seeds == [3, 14, 18, 100] and row.comparable and not row.warnings
    for name, column in zip(ALL_METRICS, 100 * scores.T):
        assert row.metrics[name] == pytest.approx((column.mean(), column.std(ddof=1)))


def test_the_mean_over_categories_comes_first(tmp_path):
    """Seeds 1 and 2 with categories 0.2/0.4 and 0.4/0.8: means 0.3 and 0.6."""
    for seed in (1, 2):
        folder = write_run(tmp_path, seed, categories=("a", "b"))
        metrics = {name: dict.fromkeys(ALL_METRICS, value * seed) for name, value in (("a", 0.2), ("b", 0.4))}
        (folder / "metrics.json").write_text(json.dumps({"categories": metrics, "mean": {}}))
    assert our_rows(tmp_path)[0].metrics["aupro"] == pytest.approx((45, 100 * np.std([0.3, 0.6], ddof=1)))


def test_the_three_files_and_stdout_agree(tmp_path, capsys):
    """Two seeds have a spread, one seed has none, and all formats hold the same numbers."""
    write_run(tmp_path, 14)
    write_run(tmp_path, 16)
    write_run(tmp_path, 14, k_shot=2)
    write_run(
        tmp_path,
        14,
        dataset="visa",
        checkpoint="fdsl/mvtec.safetensors",
        trained_on="mvtec",
        categories=published.CATEGORIES["visa"],
    )
    summarize.main([str(tmp_path)])
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text and "Warnings" not in text
    first = ALL_METRICS.index("auroc_px") + 3
    lines = [line for line in table_lines(text) if line[1] == "fdsl mul_13_2_0.5"]
    assert [line[2] for line in lines] == ["14 16", "14", "14"]
    assert lines[0][first] == "51.5 ± 0.1"
    assert lines[1][first] == "51.4" and "±" not in "".join(lines[1])

    rows = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["rows"]
    with open(tmp_path / "summary.csv", encoding="utf-8-sig", newline="") as file:
        flat = list(csv.DictReader(file))
    assert len(rows) == len(flat) == len(table_lines(text)) - 2 * 2  # two headers of two lines
    for row, line in zip(rows, flat):
        assert (row["dataset"], str(row["shots"]), row["method"]) == (
            line["dataset"],
            line["shots"],
            line["method"],
        )
        for name in ALL_METRICS:
            for part in (f"{name}_mean", f"{name}_std"):
                assert line[part] == ("" if row[part] is None else repr(row[part]))
    assert rows[0]["settings"]["windows.win_size"] == 13 and rows[0]["seeds"] == [14, 16]


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"machine__precision": "float32"}, "precision: float32"),
        ({"checkpoint_digest": "cd" * 32}, "checkpoint_digest: "),
        ({"backbone__pretrained": "other.safetensors"}, "weights: other.safetensors"),
        ({"options__align": "diff2"}, "mul_13_2_0.5_diff2"),
        ({"image_score": "top1"}, "mul_13_2_0.5_top1"),
        ({"metric_size": "full"}, "mul_13_2_0.5_atfull"),
        ({"windows__win_weight": 0.3}, "mul_13_2_0.3"),
        ({"categories": ("bottle", "tire")}, "categories: 2, with tire"),
    ],
)
def test_different_settings_never_share_a_row(tmp_path, change, reported):
    """Even when the folders are named alike, and the label says what differs."""
    write_run(tmp_path, 14, run="same")
    write_run(tmp_path, 15, run="same", **change)
    rows = our_rows(tmp_path)
    methods = {tuple(row.seeds): row.method for row in rows}
    assert len(rows) == len(set(methods.values())) == 2 and reported in methods[15,] and (14,) in methods


@pytest.mark.parametrize(
    "change",
    [
        {"machine__device": "cpu"},
        {"machine__torch": "2.12"},
        {"command": "another"},
        {"data_path": "/x"},
        {"meta": "m.json"},
        {"files": "other references"},
        {"checkpoint": "/elsewhere/visa.safetensors"},
        {"pictures": 0},
        {"windows__win_size": 5},
    ],
)
def test_what_does_not_change_a_result_does_not_split_a_row(tmp_path, change):
    """Neither where it ran, nor the size of windows where there are none."""
    write_run(tmp_path, 14, windows__winmode="nan")
    write_run(tmp_path, 15, **{"windows__winmode": "nan", **change})
    assert [row.seeds for row in our_rows(tmp_path)] == [[14, 15]]


def test_published_rows_stand_beside_ours(tmp_path):
    """Those of the shots that were run, with their source; the numbers are checked against the paper's table
    by hand."""
    write_run(tmp_path, 14, k_shot=4)
    text = summarize.markdown(tmp_path, summarize.table_rows(summarize.find_runs(tmp_path)[0]), {})
    lines = {line[1]: dict(zip(ALL_METRICS, line[3:])) for line in table_lines(text) if line[0] == "4"}
    assert lines["FDSL (published)"] == {
        "auroc_sp": "96.3 ± 0.3",
        "f1_sp": "96.0 ± 0.2",
        "ap_sp": "98.2 ± 0.2",
        "auroc_px": "97.2 ± 0.1",
        "f1_px": "61.0 ± 0.4",
        "ap_px": "62.9 ± 0.4",
        **dict.fromkeys(("aupro", "aupro_05", "segf1", "auspro", "auspro_05"), "-"),
    }
    assert (
        lines["WinCLIP+ (published)"]["aupro"] == "89.0 ± 0.8"
        and lines["WinCLIP+ (published)"]["ap_px"] == "-"
    )
    assert lines["APRIL-GAN (published)"]["ap_px"] == "54.5"
    assert len(lines) == 2 + len(published.RIVALS) == len(table_lines(text)) - 2
    for rival in published.RIVALS:
        assert rival.source in text and rival.quoted in text


def test_rows_that_see_the_test_set_say_so_in_a_column(tmp_path):
    write_run(tmp_path, 14)
    summarize.main([str(tmp_path)])
    assert "sees the test set" not in (tmp_path / "summary.md").read_text(encoding="utf-8")
    write_run(tmp_path, 14, options__with_batch=True)
    write_run(tmp_path, 14, k_shot=0, method="batch", windows__winmode="nan", image_score="max")
    summarize.main([str(tmp_path)])
    head, _, *lines = table_lines((tmp_path / "summary.md").read_text(encoding="utf-8"))
    place = head.index("sees the test set")
    reported = {line[1]: line[place] for line in lines}
    assert reported["fdsl batch"] == reported["fdsl mul_13_2_0.5_batch"] == "yes"
    assert reported["fdsl mul_13_2_0.5"] == "no" and reported["PatchCore (published)"] == "-"
    with open(tmp_path / "summary.csv", encoding="utf-8-sig", newline="") as file:
        flat = {line["method"]: line["sees_test_set"] for line in csv.DictReader(file)}
    assert flat["fdsl batch"] == "true" and flat["fdsl mul_13_2_0.5"] == "false" and flat["PatchCore"] == ""
    rows = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["rows"]
    assert {row["sees_test_set"] for row in rows} == {True, False, None}


def test_no_control_character_of_a_name_is_printed(tmp_path, capsys):
    write_run(tmp_path, 14, dataset="folder", trained_on="visa", categories=("cup\x1b[2J\x07",))
    summarize.main([str(tmp_path)])
    printed = "".join(capsys.readouterr())
    assert "14" in printed and "\x1b" not in printed and "\x07" not in printed


def test_no_published_rows_for_other_photographs(tmp_path):
    write_run(tmp_path, 14, dataset="folder", trained_on="visa", categories=("cup",))
    write_run(tmp_path, 14, k_shot=8)
    rows = summarize.table_rows(summarize.find_runs(tmp_path)[0])
    assert [(row.dataset, row.shots, row.published) for row in rows] == [
        ("mvtec", 8, False),
        ("folder", 1, False),
    ]
    assert "no published numbers" in rows[1].warnings[0] and not rows[1].comparable


def test_warnings_of_what_cannot_be_compared(tmp_path, caplog, capsys):
    write_run(tmp_path, 14, categories=published.CATEGORIES["mvtec"][1:])
    write_run(tmp_path, 14, k_shot=2, categories=(*published.CATEGORIES["mvtec"], "tire"))
    write_run(tmp_path, 14, k_shot=4, backbone__pretrained="none")
    write_run(
        tmp_path,
        14,
        dataset="visa",
        categories=published.CATEGORIES["visa"],
        image_score="max",
        metric_size=128,
        windows__winmode="nan",
        options__use_nam=False,
        backbone__image_size=448,
    )
    summarize.logger.addHandler(caplog.handler)
    try:
        summarize.main([str(tmp_path)])
    finally:
        summarize.logger.removeHandler(caplog.handler)
    few, foreign, untrained, other = (row.warnings for row in our_rows(tmp_path))
    assert "14 of MVTec AD's 15 categories; missing bottle" in few[0] and "not comparable" in few[0]
    assert "tire not of MVTec AD" in foreign[0]
    assert len(untrained) == 1 and "untrained" in untrained[0]
    for part in (
        "--image-size 448",
        "--winmode nan",
        "--use-nam 0",
        "--image-score max",
        "--metric-size 128",
        "heads trained on visa",
    ):
        assert part in other[0]
    assert [row.comparable for row in our_rows(tmp_path)] == [False, False, False, True]
    text = capsys.readouterr().out
    assert "UNTRAINED" in text
    assert all(
        reported[0] in text and reported[0] in caplog.text for reported in (few, foreign, untrained, other)
    )


def test_warnings_that_hold_for_all_rows_stand_there_once(tmp_path, capsys):
    write_run(tmp_path, 14, backbone__pretrained="none")
    write_run(tmp_path, 14, backbone__pretrained="none", image_score="max")
    write_run(tmp_path, 14, backbone__pretrained="none", image_score="top1", categories=("bottle",))
    summarize.main([str(tmp_path)])
    text = capsys.readouterr().out
    assert text.count("the backbone is untrained") == text.count("all rows that are not published: ") == 1
    assert text.count("- fdsl mul_13_2_0.5_top1, 1 shot(s): not comparable") == 1


def test_undefined_metrics_are_dashes_and_nulls(tmp_path, capsys):
    values = {**dict.fromkeys(ALL_METRICS, 0.5), "aupro": None}
    for seed, k_shot in ((14, 1), (15, 1), (14, 2)):
        write_run(tmp_path, seed, values, k_shot=k_shot)
    write_run(tmp_path, 15, k_shot=2)
    summarize.main([str(tmp_path)])
    one, two = our_rows(tmp_path)
    assert one.metrics["aupro"] is None and not one.warnings
    assert two.metrics["aupro"] == (pytest.approx(54.5), None) and "aupro" in two.warnings[0]
    line = next(line for line in table_lines(capsys.readouterr().out) if line[2] == "14 15")
    assert line[3 + ALL_METRICS.index("aupro")] == "-" and line[3] == "50.0 ± 0.0"
    assert json.loads((tmp_path / "summary.json").read_text())["rows"][0]["aupro_mean"] is None


BREAKS = {  # file, what is replaced in it (None: everything), by what (None: the file is removed)
    "no metrics": ("metrics.json", None, None),
    "no config": ("config.json", None, None),
    "cut metrics": ("metrics.json", None, '{"categories": {"bot'),
    "binary": ("config.json", None, "\x00\x01\ufffe"),
    "a list": ("config.json", None, "[1]"),
    "empty": ("metrics.json", None, "{}"),
    "text": ("metrics.json", "0.514", '"0.514"'),
    "NaN": ("metrics.json", "0.514", "NaN"),
    "per cent": ("metrics.json", "0.514", "51.4"),
    "metric missing": ("metrics.json", '"aupro"', '"pro"'),
    "seed as text": ("config.json", '"seed": 14', '"seed": "14"'),
    "no machine": ("config.json", '"machine"', '"box"'),
    "no digest": ("config.json", '"checkpoint_digest"', '"digest"'),
    "fields": ("config.json", '"win_size"', '"side"'),
}


@pytest.mark.parametrize("what", BREAKS)
def test_broken_runs_are_skipped_and_named(tmp_path, capsys, what):
    broken = write_run(tmp_path, 14)
    file, old, new = BREAKS[what]
    text = (broken / file).read_text()
    assert old is None or old in text
    (broken / file).write_text(new if old is None else text.replace(old, new)) if new else (
        broken / file
    ).unlink()
    with pytest.raises(ConfigError, match="holds no finished run.*seed14/mul_13_2_0.5"):
        summarize.main([str(tmp_path)])
    assert not (tmp_path / "summary.md").exists()
    write_run(tmp_path, 15)
    summarize.main([str(tmp_path)])
    assert [row.seeds for row in our_rows(tmp_path)] == [[15]]
    assert list(json.loads((tmp_path / "summary.json").read_text())["skipped"]) == [
        "mvtec/1shot/seed14/mul_13_2_0.5"
    ]
    assert "mvtec/1shot/seed14/mul_13_2_0.5" in capsys.readouterr().out


def test_a_copied_run_does_not_count_twice(tmp_path):
    folder = write_run(tmp_path, 14)
    shutil.copytree(folder, folder.with_name("removed.tmp"))
    shutil.copytree(folder, folder.with_name("zcopy"))
    runs, skipped = summarize.find_runs(tmp_path)
    assert len(runs) == 1
    assert skipped == {
        "mvtec/1shot/seed14/zcopy": "the same settings and seed as mvtec/1shot/seed14/mul_13_2_0.5"
    }


def test_names_cannot_break_the_table(tmp_path):
    write_run(tmp_path, 14, run="a|b", categories=("x\ny|z",), model_name="m|\n| c |")
    text = summarize.markdown(
        tmp_path, summarize.table_rows(summarize.find_runs(tmp_path)[0]), {"a|b\nc": "d\n## e"}
    )
    assert {len(line) for line in table_lines(text)} == {3 + len(ALL_METRICS)}
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        f"# {tmp_path}: mean over seeds",
        "## MVTec AD",
        "## Skipped runs",
    ]


def test_unusable_folders_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder, words in ((tmp_path / "file", "is not a folder"), (tmp_path, "holds no finished run")):
        with pytest.raises(ConfigError, match=words):
            summarize.main([str(folder)])
    write_run(tmp_path / "m", 14)
    with pytest.raises(ConfigError, match="cannot be written"):
        summarize.main([str(tmp_path / "m"), "--output", str(tmp_path / "file" / "sub")])


@pytest.mark.slow
def test_command_line(tmp_path):
    """Markdown on stdout and nothing else, also where only ASCII can be printed."""
    write_run(tmp_path / "m", 14)
    write_run(tmp_path / "m", 16)
    words = [sys.executable, "-m", "fdsl.summarize", str(tmp_path / "m"), "--output", str(tmp_path / "out")]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=ascii_only, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("# ") and "51.5 \\xb1 0.1" in done.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "summary.csv",
        "summary.json",
        "summary.md",
    }
    assert "±" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
