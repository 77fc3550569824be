"""The benchmarks run and write what they measured; what they measured is not judged here."""

import json
import subprocess
import sys

from small_runs import ROOT, environment
from utils.metrics import METRIC_NAMES

ROWS = {"plain": 2, "oracle": 1, "windows": 4, "training": 1, "memory": 1, "loading": 1, "ceiling": 1}


def test_the_speed_benchmark_measures_every_row(tiny_configs, tmp_path):
    file = tmp_path / "rows.json"
    ran = subprocess.run([sys.executable, str(ROOT / "benchmarks/run.py"), *ROWS, "--model", "ViT-tiny-test", "--model-config",
                          tiny_configs, "--layers", "1", "3", "--image-size", "64", "--win-size", "3", "--win-stride", "1",
                          "--device", "cpu", "--precision", "fp32", "--json", str(file)], capture_output=True, text=True,
                         cwd=tmp_path, env=environment(), timeout=300)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == sum(ROWS.values()) and all(row["value"] >= 0 for row in rows)
    assert all(row["what"] in ran.stdout for row in rows) and "bf16 in the CPU" in ran.stdout


def test_unknown_rows_are_refused(tmp_path):
    ran = subprocess.run([sys.executable, str(ROOT / "benchmarks/run.py"), "speed"], capture_output=True, text=True, cwd=tmp_path,
                         env=environment(), timeout=120)
    assert ran.returncode == 2 and "unknown row(s) speed" in ran.stderr


def test_compare_tells_what_a_run_loses_against_another(tmp_path):
    values = dict.fromkeys(METRIC_NAMES, 0.5)
    for name, categories in {"exact": {"bottle": values}, "fast": {"bottle": {**values, "ap_px": 0.4876, "f1_sp": None}}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"categories": categories, "mean": {}}))
    compare = [sys.executable, str(ROOT / "benchmarks/compare.py"), str(tmp_path / "exact")]
    ran = subprocess.run([*compare, str(tmp_path / "fast")], capture_output=True, text=True, env=environment(), timeout=120)
    exact, fast = ([cell.strip() for cell in line.split("|")[1:-1]] for line in ran.stdout.splitlines()[2:])
    assert exact == ["bottle", "exact", *["50.00"] * 7]
    wanted = dict.fromkeys(METRIC_NAMES, "+0.00") | {"ap_px": "-1.24", "f1_sp": "-"}
    assert fast == ["bottle", "fast", *wanted.values()]
    empty = subprocess.run([*compare, str(tmp_path)], capture_output=True, text=True, env=environment(), timeout=120)
    assert empty.returncode == 2 and "is not the folder of a finished test run" in empty.stderr
