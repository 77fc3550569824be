"""The benchmarks run and write what they measured; what they measured is not judged here."""

import json
import subprocess
import sys

from small_runs import ROOT, environment

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
