"""ablations.sh: which heads it trains, which tables it asks for, and what it refuses."""

import pytest

from fdsl.flags.evaluate_flags import parse


@pytest.fixture
def ablations(stubbed):
    """(run, calls) of ablations.sh."""
    return stubbed("ablations.sh")


def test_every_kind_of_ablation_on_both_datasets(ablations):
    run, calls = ablations
    done = run(
        "net", "0", "--precision", "fp32", SEEDS="3 4", SHOTS="2 4", TEST_ARGS="--pictures 0 --results out"
    )
    assert done.returncode == 0, done.stderr
    common = "--device 0 --use-nam 1"
    assert calls()[:6] == [
        f"train --dataset {dataset} --data-path {path} --model-name {name} {common}{fd} --precision fp32"
        for name, fd in (("net", ""), ("net-signed", " --fd signed"), ("net-none", " --fd none"))
        for dataset, path in (("mvtec", "m v"), ("visa", "visa"))
    ]
    tests = [call.split(" ")[1:] for call in calls()[6:]]
    assert len(tests) == 6 and "the tables: out/net/visa/*.md" in done.stderr
    for dataset, trained_on, part in (("visa", "mvtec", tests[:3]), ("mvtec", "visa", tests[3:])):
        part = [[word for word in words if word != "v"] for words in part]  # of the folder "m v"
        runs = [parse(words, "") for words in part]
        assert all(one.dataset == dataset and one.model_name == "net" for several in runs for one in several)
        tables = {one.table for several in runs for one in several}
        assert tables == {
            "nam",
            "lfe",
            "size",
            "stride",
            "weight",
            "alignment",
            "index",
            "discrepancy",
            "shots",
        }
        heads = list(dict.fromkeys(str(one.checkpoint) for one in runs[1]))
        assert heads == [
            f"checkpoints/{name}/{trained_on}.safetensors" for name in ("net", "net-signed", "net-none")
        ]
        assert {(one.k_shot, one.seed) for one in runs[2]} == {(2, 3), (4, 3), (2, 4), (4, 4)}
        firsts = {
            name: next(one for one in runs[0] if one.table == name)
            for name in tables - {"discrepancy", "shots"}
        }
        usual = {
            (one.use_nam, one.winmode, one.win_size, one.win_stride, one.win_weight)
            for one in firsts.values()
        }
        assert usual == {(1, "mul", 13, 2, 0.5)}


def test_some_kinds_with_other_values(ablations):
    run, calls = ablations
    done = run(KINDS="stride lfe", STRIDES="3 5", SIZES="5", SEEDS="1")
    assert done.returncode == 0, done.stderr
    assert [call.split(" ")[0] for call in calls()] == ["train", "train", "test", "test"]
    reported = "--ablate winmode=mul,nan,onlywin --ablate win-stride=3,5 --table lfe stride"
    assert (
        reported in calls()[-1]
        and "--win-size 5 --win-stride 3 --win-weight 0.5 --seed 1 --k-shot 1" in calls()[-1]
    )


def test_heads_that_are_named_are_not_looked_up_too(ablations):
    run, calls = ablations
    given = {"TEST_ARGS": "--checkpoints heads --pictures 0", "TRAIN_ARGS": "--k-shot=4 --epochs 2"}
    done = run(KINDS="discrepancy shots", **given)
    assert done.returncode == 0, done.stderr
    named, looked_up = [call.split(" ")[1:] for call in calls() if call.startswith("test ")][:2]
    assert "--checkpoints" not in named and "heads/fdsl-none/mvtec.safetensors" in named
    assert named[-2:] == ["--pictures", "0"] and "--checkpoints" in looked_up
    trained = [call for call in calls() if call.startswith("train ")]
    assert all(("--k-shot" in call) != ("--fd none" in call) and "--epochs 2" in call for call in trained)


@pytest.mark.parametrize(
    ("words", "environment", "reported"),
    [
        (("m", "cpu"), {"KINDS": "nam sizes"}, "KINDS must be some of nam lfe size"),
        (("m", "cpu"), {"SIZES": "a"}, "SIZES and STRIDES"),
        (("m", "cpu"), {"WEIGHTS": "0.5,0.3"}, "WEIGHTS"),
        (("m", "gpu"), {}, "DEVICE"),
        ((), {"MVTEC_PATH": "nowhere"}, "MVTEC_PATH=DIR"),
    ],
)
def test_wrong_arguments_are_answered_with_usage(ablations, words, environment, reported):
    run, calls = ablations
    done = run(*words, **environment)
    assert done.returncode == 2 and not calls()
    assert done.stderr.startswith("error: ") and reported in done.stderr.splitlines()[0]
