"""The benchmarks run and write what they measured; what they measured is not judged here."""

import json
import subprocess
import sys

from fdsl.metrics.exact import METRIC_NAMES
from tests.support.constants import ROOT
from tests.support.small_runs import environment

ROWS = {
    "plain": 2,
    "oracle": 1,
    "windows": 4,
    "training": 1,
    "memory": 1,
    "loading": 1,
    "ceiling": 1,
    "matching": 5,
}


def test_the_speed_benchmark_measures_every_row(tiny_configs, tmp_path):
    file = tmp_path / "rows.json"
    ran = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks/run.py"),
            *ROWS,
            "--model",
            "ViT-tiny-test",
            "--model-config",
            tiny_configs,
            "--layers",
            "1",
            "3",
            "--image-size",
            "64",
            "--win-size",
            "3",
            "--win-stride",
            "1",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--json",
            str(file),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == sum(ROWS.values()) and all(row["value"] >= 0 for row in rows)
    assert all(row["what"] in ran.stdout for row in rows) and "bf16 in the CPU" in ran.stdout


def test_unknown_rows_are_refused(tmp_path):
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/run.py"), "speed"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=120,
    )
    assert ran.returncode == 2 and "unknown row(s) speed" in ran.stderr


def test_several_runs_in_one_pass_are_measured(tiny_configs):
    tower = ["--model", "ViT-tiny-test", "--model-config", tiny_configs, "--layers", "1", "3"]
    looks = ["--image-size", "64", "--win-size", "4", "--win-stride", "4", "--windows", "2", "3"]
    header, _, *rows = run_benchmark("one_pass.py", "image", *tower, *looks, "--method", "fdsl")
    assert header[2:6] == ["reference", "one run", "15 runs", "ratio"]
    names = [["2 of 4", "3 of 4", "all 4 by a straight line"] for _ in range(2)]
    looks = [f"{look}, {name}" for look, part in zip(("own", "whole"), names) for name in part]
    assert [row[0] for row in rows[::2]] == ["none", *looks]


VALUES = dict.fromkeys(METRIC_NAMES, 0.5)


def write_run(folder, **changed):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(
        json.dumps({"categories": {"bottle": {**VALUES, **changed}}, "mean": {}})
    )


def compare(*runs):
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/compare.py"), *map(str, runs)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    return ran, [[cell.strip() for cell in line.split("|")[1:-1]] for line in ran.stdout.splitlines()[2:]]


def test_compare_tells_what_a_run_loses_against_another(tmp_path):
    write_run(tmp_path / "exact")
    write_run(tmp_path / "fast", ap_px=0.4876, f1_sp=None)
    _, (exact, fast) = compare(tmp_path / "exact", tmp_path / "fast")
    assert exact == ["bottle", "exact", *["50.00"] * 7]
    wanted = dict.fromkeys(METRIC_NAMES, "+0.00") | {"ap_px": "-1.24", "f1_sp": "-"}
    assert fast == ["bottle", "fast", *wanted.values()]
    empty, _ = compare(tmp_path / "exact", tmp_path)
    assert empty.returncode == 2 and "is not the folder of a finished test run" in empty.stderr


def test_compare_takes_several_runs_pair_by_pair(tmp_path):
    for seed, exact, fast in ((14, 0.60, 0.59), (15, 0.70, 0.68), (16, 0.50, 0.50)):
        write_run(tmp_path / f"seed{seed}/exact", ap_px=exact)
        write_run(tmp_path / f"seed{seed}/fast", ap_px=fast)
    _, (exact, fast) = compare(tmp_path / "seed*/exact", tmp_path / "seed*/fast")
    number = 2 + METRIC_NAMES.index("ap_px")
    assert exact[:2] == ["bottle", "exact"] and exact[number] == "60.00 ± 10.00"
    assert fast[1] == "fast" and fast[number] == "-1.00 ± 1.00"
    for other, words in (
        ("seed14/fast", "only the same ones can be compared"),
        ("seed*/slow", "No folder is called"),
        ("s*/*", "takes it in one"),
    ):
        ran, _ = compare(tmp_path / "seed*/exact", tmp_path / other)
        assert ran.returncode == 2 and words in ran.stderr and ran.stderr.count("\n") == 1


def run_benchmark(name, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert ran.returncode == 0, ran.stderr
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in ran.stdout.splitlines() if "|" in line
    ]


def test_thresholds_of_the_inspected_bulk_are_measured(datasets, backbone):
    data = ["--dataset", "mvtec", "--data-path", datasets[0], "--method", "nearest"]
    header, _, *rows = run_benchmark(
        "thresholds.py",
        *data,
        *backbone[:-2],
        "--tables",
        "batch",
        "--shots",
        1,
        "--seeds",
        1,
        "--defects",
        0.5,
    )
    assert header[:4] == ["category", "score", "k", "defects"] and len(header) == 6
    assert [row[:4] for row in rows] == [["plate", kind, "1", "50%"] for kind in ("max", "top1")]


def test_backbones_are_timed_beside_the_bare_tower():
    flags = ["--repeats", 1, "--device", "cpu", "--precision", "fp32"]
    header, _, *rows = run_benchmark("backbones.py", "timm/test_vit@64", *flags)
    assert header[2:] == ["bare tower, ms", "encode, ms", "image to map, ms", "encode / bare"]
    assert rows[0][:2] == ["timm/test_vit", "64 px"] and float(rows[0][5]) > 0
