"""predict.py --doctor: what is here, and what to do about what is not."""

import subprocess
import sys

import pytest

from fdsl.flags.predict_flags import parse
from fdsl.inspection.diagnostics import examine, packages
from models.backbones.backbone_registry import family_of
from models.backbones.weights_io import choose_weights
from tests.support.constants import ROOT
from tests.support.small_runs import environment

TINY = ["--model", "timm/test_vit", "--device", "cpu", "--precision", "fp32"]


def findings(*words):
    flags = parse(["--doctor", *words], "")
    return list(examine(flags.device, flags.precision, flags.given))


def found(*words):
    return {finding.what: finding for finding in findings(*words)}


def test_it_says_what_is_here():
    seen = found(*TINY, "--pretrained", "none", "--image-size", "64")
    assert seen["torch"].observed and not seen["torch"].stops
    assert seen["device"].observed.startswith("cpu") and "GPU" in seen["device"].cure
    assert seen["precision"].observed == "float32" and "random" in seen["weights of timm/test_vit"].observed
    milliseconds, _, what = seen["one photograph at 64 px"].observed.partition(" ")
    assert float(milliseconds.replace(",", "")) > 0 and what == "ms in the backbone"
    assert not any(finding.stops for finding in seen.values())


def test_weights_are_looked_for_in_the_caches(monkeypatch, tmp_path):
    asked = []

    def look(repository, name):
        asked.append((repository, name))
        return str(tmp_path / name) if name.endswith("safetensors") else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
    clip = "ViT-L-14-336-quickgelu"
    assert family_of("timm/test_vit").cached("timm/test_vit", "r160_in1k") == tmp_path / "model.safetensors"
    assert family_of(clip).cached(clip, "openai") == tmp_path / "open_clip_model.safetensors"
    assert [repository for repository, _ in asked] == [
        "timm/test_vit.r160_in1k",
        "timm/vit_large_patch14_clip_336.openai",
    ]
    assert choose_weights.first_in_cache("a/b", ["c.bin"]) is None


def test_missing_weights_have_a_cure_and_the_pass_is_timed_all_the_same(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    seen = found(*TINY, "--image-size", "64")
    assert "give --pretrained FILE" in seen["weights of timm/test_vit"].cure
    assert "ms in the backbone" in seen["one photograph at 64 px"].observed


def test_packages_beside_their_pins(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# comment\npytest==0.1\nno-such-package==1.2\nnumpy>=1\n")
    other, missing = packages(file)
    assert "tested with 0.1: pip install pytest==0.1" in other.line and not other.stops
    assert missing.line == "[stops] no-such-package: is missing, 1.2 is pinned"
    assert not any(one.stops for one in packages(ROOT / "requirements.txt"))
    assert "installed as a package" in next(packages(tmp_path / "nothing")).observed


@pytest.mark.parametrize(
    "flags, what, words",
    [
        (["--device", "77"], "device", "CUDA device"),
        (["--model", "timm/nothing_like_it"], "backbone", "is not known to timm"),
        (["--model", "timm/test_vit", "--image-size", "50"], "one photograph", "not a multiple"),
    ],
)
def test_what_stops_everything(flags, what, words):
    more = [] if what == "device" else ["--device", "cpu", "--pretrained", "none"]
    stops = [finding for finding in findings(*flags, *more) if finding.stops]
    assert len(stops) == 1 and words in stops[0].cure


@pytest.mark.slow
def test_the_command_ends_with_an_exit_code():
    flags = [*TINY, "--pretrained", "none", "--image-size", "64"]
    command = [sys.executable, str(ROOT / "predict.py"), "--doctor"]
    fine = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment(), timeout=120)
    assert fine.returncode == 0 and "[   ok] Python: " in fine.stdout
    stopped = subprocess.run(
        [*command, "--device", "77"], capture_output=True, text=True, env=environment(), timeout=120
    )
    assert stopped.returncode == 2 and "[stops] device: 77; " in stopped.stdout
