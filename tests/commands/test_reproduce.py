"""reproduce.sh: every seed, shot and dataset, and what it refuses."""

import pytest


@pytest.fixture
def reproduce(stubbed):
    """(run, calls) of reproduce.sh."""
    return stubbed("reproduce.sh")


def test_reproduce_runs_every_seed_shot_and_dataset(reproduce):
    run, calls = reproduce
    done = run(
        "net",
        "cpu",
        "--pretrained",
        "none",
        SEEDS="3\n 4",
        SHOTS="2",
        TRAIN_ARGS="--epochs 1",
        TEST_ARGS="--pictures 0 --results out",
    )
    assert done.returncode == 0, done.stderr
    common = "--model-name net --device cpu --use-nam 1 --pretrained none"
    windows = "--winmode mul --win-size 13 --win-stride 2 --win-weight 0.5"
    tests = [
        f"test --dataset {name} --data-path {path} {common} {windows} --seed 3 --k-shot 2 --seed 3 4 "
        "--k-shot 2 --pictures 0 --results out"
        for name, path in (("visa", "visa"), ("mvtec", "m v"))
    ]
    assert calls() == [
        f"train --dataset mvtec --data-path m v {common} --epochs 1",
        f"train --dataset visa --data-path visa {common} --epochs 1",
        *tests,
        "summarize out/net",
    ]
    assert "mvtec: 2 runs in one pass" in done.stderr


def test_reproduce_has_defaults_and_stops_at_a_failure(reproduce):
    run, calls = reproduce
    done = run(TEST_ARGS="--fail")
    assert done.returncode == 3
    assert len(calls()) == 3 and calls()[-1].startswith("test --dataset visa")
    assert "--seed 14 15 16 17 18 --k-shot 1 2 4 --fail" in calls()[-1]
    assert "visa: 15 runs in one pass" in done.stderr
    assert all("--model-name fdsl --device auto" in call for call in calls())


@pytest.mark.parametrize(
    "words, environment, reported",
    [
        (("a/b",), {}, "MODEL"),
        (("", "cpu"), {"SEEDS": "x"}, "SEEDS"),
        (("m", "gpu"), {}, "DEVICE"),
        (("m", "cpu", "64"), {}, "must be flags"),
        ((), {"SEEDS": "14 x"}, "SEEDS"),
        ((), {"SEEDS": "*"}, "SEEDS"),
        ((), {"SEEDS": " "}, "SEEDS"),
        ((), {"SHOTS": "0"}, "SHOTS"),
        ((), {"SHOTS": "1,2"}, "SHOTS"),
        ((), {"VISA_PATH": "nowhere"}, "VISA_PATH=DIR"),
    ],
)
def test_reproduce_answers_wrong_arguments_with_usage(reproduce, words, environment, reported):
    run, calls = reproduce
    done = run(*words, **environment)
    assert done.returncode == 2 and not calls()
    assert done.stderr.startswith("error: ") and reported in done.stderr.splitlines()[0]
    assert ("usage: bash reproduce.sh [MODEL DEVICE" in done.stderr) == ("VISA_PATH" not in reported)
