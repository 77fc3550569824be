"""The benchmarks run and write what they measured; what they measured is not judged here."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.support.constants import ROOT
from tests.support.pretended_cuda import TORCH
from tests.support.small_runs import environment

pytestmark = pytest.mark.slow

ROWS = {"plain": 2, "windows": 4, "training": 1, "memory": 1, "matching": 5, "host": 4}


def test_the_speed_benchmark_measures_every_row(tiny_configs, tmp_path):
    file = tmp_path / "rows.json"
    ran = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks/speed.py"),
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
        [sys.executable, str(ROOT / "benchmarks/speed.py"), "speed"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=120,
    )
    assert ran.returncode == 2 and "unknown row(s) speed" in ran.stderr


def printed_by(name, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def run_benchmark(name, *arguments):
    lines = printed_by(name, *arguments).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]


def test_thresholds_are_measured(datasets, backbone, tmp_path):
    file = tmp_path / "rows.json"
    words = [
        "thresholds.py",
        f"mvtec={datasets[0]}",
        *backbone,
        "--cache",
        tmp_path / "cache",
        "--json",
        file,
    ]
    words += ["--seeds", "0", "1", "--shots", "1", "2", "--images", "6"]
    printed = printed_by(*words)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["shots"], row["seed"], row["rotated"]) for row in rows][:2] == [(1, 0, True), (1, 1, True)]
    assert len(rows) == 4 and all(row["known"] and row["calibration"] and row["normal"] for row in rows)
    assert "| plus" in printed and "map offset" in printed and "within their 95 % interval" in printed
    assert "| plus" in printed.partition("divided by the lowest one of a left-out reference")[2]
    assert "| plus" in printed.partition("Medians of maps divided by the references' own")[2]
    for row in rows:
        lowest = {name: min(score for score, _, _ in row[name]) for name in ("near_copies", "failing")}
        assert lowest["near_copies"] < min(lowest["failing"], *row["known"])
    assert printed_by(*words) == printed and len(file.read_text().splitlines()) == 4


def test_backbones_are_timed_next_to_the_bare_encoder():
    flags = ["--repeats", 1, "--device", "cpu", "--precision", "fp32"]
    header, _, *rows = run_benchmark("backbones.py", "timm/test_vit@64", *flags)
    works = ["bare encoder, ms", "encode, ms", "image to map, ms", "by default, ms"]
    assert header[2:] == [*works, "encode / bare", "default / bare"]
    assert rows[0][:2] == ["timm/test_vit", "64 px"] and float(rows[0][6]) > 0 < float(rows[0][7])


def test_processes_and_runs_in_one_pass_are_timed(datasets, tiny_configs):
    encoder = ["--model", "ViT-tiny-test", "--model-config", tiny_configs, "--pretrained", "none"]
    words = ["--data", datasets[0], "--most", 4, *encoder, "--layers", 1, 3, "--image-size", 64]
    printed = printed_by("scale.py", "runs", *words, "--method", "subspace").splitlines()
    assert [line.split(" run(s), ")[0] for line in printed[:2]] == ["1", "15"]
    assert "x by the clock" in printed[2]
    printed = printed_by("scale.py", "speed", *words, "--only", "predict").splitlines()
    took = [
        f"predict.py, {number} process(es){idle}" for number in (1, 2) for idle in ("", ", to start and end")
    ]
    ratios = ["predict.py", "predict.py without start and end"]
    assert [line.split(": ")[0] for line in printed] == ["the detector", *took, *ratios]


def test_an_exported_detector_is_compared_with_pytorch(datasets, backbone):
    few = ["--methods", "nearest", "--references", 1, "--photographs", 2]
    encoder = backbone[: backbone.index("--device")]
    words = ["exported.py", "agreement", "--data", datasets[0] / "plate", *encoder, *few]
    header, _, row = run_benchmark(*words)
    _, _, halved = run_benchmark(*words, "--halved")
    assert header[3:] == ["computed by", "map", "score", "other decisions", "AUROC", "change"]
    assert row[:4] == ["nearest", "", "1", "onnxruntime fp32"] and halved[3] == "onnxruntime fp16 weights"
    assert float(row[4]) < 1e-5 < float(halved[4]) < 0.05 and row[6] == halved[6] == "0"


def test_methods_are_judged_and_an_interrupted_run_goes_on(datasets, backbone, checkpoint, tmp_path):
    file, methods = tmp_path / "rows.json", ["plus", "nearest", "plus:leave_out=top-k,rotations=1"]
    words = ["judgement.py", f"mvtec={datasets[0]}", *backbone, "--cache", tmp_path / "cache", "--json", file]
    words += ["--images", 4, "--seeds", 1, 2, "--methods", *methods, "--checkpoint", checkpoint]
    methods.append("fdsl")
    printed = printed_by(*words)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["category"], row["seed"], row["method"]) for row in rows] == [
        ("plate", seed, method) for seed in (1, 2) for method in methods
    ]
    for row in rows:
        assert all(0 <= value <= 100 for value in row["metrics"].values()) and row["seconds"] > 0
    assert len({json.dumps(row["metrics"]) for row in rows}) > 1
    parts = [part.splitlines() for part in printed.split("\n\n") if part.startswith("|")]
    means, gains = ([[cell.strip() for cell in line.split("|")[1:-1]] for line in part] for part in parts)
    assert means[0] == ["references", "backbone", "product", *methods]
    assert [line[1:3] for line in means[2:]] == [["none", "plate"], ["all", "mean"], ["all", "ms an image"]]
    mean = np.mean([row["metrics"]["auroc_sp"] for row in rows if row["method"] == "nearest"])
    assert means[2][4].startswith(f"{mean:.1f},")
    assert [line[:2] for line in gains[2:]] == [[method, "1"] for method in methods[1:]]

    lines = file.read_text().splitlines(keepends=True)
    kept = {**rows[0], "metrics": dict.fromkeys(rows[0]["metrics"], 42.0)}
    file.write_text(json.dumps(kept) + "\n" + "".join(lines[1:3]) + lines[3][:50])
    resumed = printed_by(*words)
    again = [json.loads(line) for line in file.read_text().splitlines() if line != lines[3][:50]]
    assert again[0] == kept and again[1:3] == rows[1:3], "rows that are there are taken as they are"
    assert [row["metrics"] for row in again[3:]] == [row["metrics"] for row in rows[3:]]
    shutil.rmtree(tmp_path / "cache")
    assert printed_by(*words) == resumed and not (tmp_path / "cache").exists(), "nothing is encoded any more"


def test_the_row_of_anomalib_says_what_it_needs(datasets, backbone, tmp_path):
    (tmp_path / "anomalib").mkdir()
    (tmp_path / "anomalib/__init__.py").write_text("raise ImportError('no anomalib')")
    words = [f"mvtec={datasets[0]}", *backbone, "--cache", tmp_path / "cache", "--methods", "anomalydino"]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/judgement.py"), *map(str, words)],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        timeout=300,
    )
    assert ran.returncode == 2 and "pip install --no-deps anomalib" in ran.stderr


@pytest.mark.skipif(
    not torch.__version__.startswith(f"{TORCH}."),
    reason=f"the pretended device rests on private names of PyTorch {TORCH}",
)
def test_the_gpu_benchmark_runs_to_its_end_on_a_pretended_device(tiny_configs, tmp_path):
    file, runs = tmp_path / "rows.json", ["fdsl whole, K=1", "fdsl 13/2, K=1"]
    words = [sys.executable, str(ROOT / "tests/drivers/pretended_benchmark.py"), "--json", str(file)]
    words += ["--model", "ViT-tiny-test", "--model-config", tiny_configs, "--layers", "1", "2", "3"]
    words += ["--image-size", "64", "--win-size", "4", "--repeats", "1", "--batch", "2", "--runs", *runs]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=900)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(file.read_text())
    assert len(found["checks"]) == 21 and all(right for _, right in found["checks"])
    assert [row["run"] for row in found["rows"]] == runs
    assert all(
        min(row["milliseconds"], row["bare"], row["product"], row["peak_gib"]) > 0 for row in found["rows"]
    )
    assert all(name in ran.stdout for name in runs)
