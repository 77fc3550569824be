"""Bad input, a table of it: one sentence that names the file and the cure, exit code 2, nothing half-written.

Below it, input that looks bad and is not: photographs and masks of every kind that the commands take.
"""

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data import folder as data_folder
from data import mvtec, visa
from data.prepare import run_script
from data.records import DataError
from models.backbone import ModelError
from models.fdsl import FDSL
from small_runs import Place, command, draw_dataset, one_thread  # noqa: F401 (one_thread is a fixture)
from utils import runtime, signals
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import ConfigError
from utils.files import csv_text

train, test = command("train"), command("test")
SPOT, GOOD, MASK = "cup/test/spot/000.png", "cup/test/good/000.png", "cup/ground_truth/spot/000_mask.png"


class OneCategory(Place):
    """A dataset of one category, small enough to be copied for every case."""

    def __init__(self, folder, base=None):
        super().__init__(folder)
        shutil.rmtree(self.data)
        draw_dataset(self.data, ("cup",), train=3, good=2, bad=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A place with a trained checkpoint."""
    base = OneCategory(tmp_path_factory.mktemp("base"))
    train.main(base.train("--epochs", "1"))
    return base


@pytest.fixture(autouse=True)
def own_model_list(monkeypatch):
    """open_clip keeps every folder of model files that it was ever given."""
    for name in ("_MODEL_CONFIG_PATHS", "_MODEL_CONFIGS"):
        monkeypatch.setattr(open_clip.factory, name, getattr(open_clip.factory, name).copy())


@pytest.fixture
def place(base, tmp_path):
    """A copy of it that a case may break."""
    own = object.__new__(OneCategory)
    own.folder, own.data, own.configs = tmp_path / "place", tmp_path / "place/data", tmp_path / "place/configs"
    shutil.copytree(base.folder, own.folder)
    shutil.rmtree(own.folder / "checkpoints")
    own.weights("checkpoints").parent.mkdir(parents=True)
    shutil.copy(base.weights(), own.weights())
    return own


# What is done to a place; each returns further arguments, or None --------------------------------------------------

def content(path, what):
    """Replaces a file of the dataset."""
    def break_it(place):
        file = place.data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(what(file.read_bytes() if file.exists() else b""))
    return break_it


def damaged(whole):
    """A PNG whose compressed pixels are noise."""
    return whole[:60] + bytes(range(256)) * 2 + whole[-12:]


def removed(path):
    return lambda place: (place.data / path).unlink()


def link_to_nowhere(path):
    def break_it(place):
        (place.data / path).unlink()
        (place.data / path).symlink_to("nowhere.png")
    return break_it


def pipe(path):
    def break_it(place):
        (place.data / path).unlink()
        os.mkfifo(place.data / path)
    return break_it


def not_finite(path):
    def break_it(place):
        Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(place.data / "nan.tiff")
        os.replace(place.data / "nan.tiff", place.data / path)
    return break_it


def no_reference_left(place):
    shutil.rmtree(place.data / "cup/train")


def no_image_to_test(place):
    shutil.rmtree(place.data / "cup/test")
    (place.data / "cup/test/good").mkdir(parents=True)


def no_mask_at_all(place):
    shutil.rmtree(place.data / "cup/ground_truth")


def file_instead_of_folder(place):
    shutil.rmtree(place.data)
    place.data.write_text("x")


def entry(path=SPOT, **changed):
    return {"img_path": path, "mask_path": MASK, "cls_name": "cup", "specie_name": "spot", "anomaly": 1, **changed}


def meta(what):
    """Writes meta.json: text, or the entries of the category cup's test part."""
    def break_it(place):
        good = [entry(f"cup/train/good/{n:03}.png", mask_path="", specie_name="good", anomaly=0) for n in range(3)]
        text = what if isinstance(what, str) else json.dumps({"train": {"cup": good}, "test": {"cup": what}})
        (place.data / "meta.json").write_text(text)
    return break_it


def changed_checkpoint(change):
    """Writes the checkpoint again after `change(state, config)`."""
    def break_it(place):
        found = load_checkpoint(place.weights())
        state, config = dict(found.state), json.loads(json.dumps(found.config))
        change(state, config)
        config.pop("format", None)
        save_checkpoint(place.weights(), state, config)
    return break_it


def checkpoint_bytes(what):
    def break_it(place):
        place.weights().write_bytes(what(place.weights().read_bytes()))
    return break_it


def set_in(*path, value):
    def change(_state, config):
        for name in path[:-1]:
            config = config[name]
        config[path[-1]] = value
    return changed_checkpoint(change)


def header(edit):
    """Edits the JSON header of the checkpoint's safetensors file."""
    def what(whole):
        size = int.from_bytes(whole[:8], "little")
        head = json.loads(whole[8:8 + size])
        edit(head)
        text = json.dumps(head).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + size:]
    return checkpoint_bytes(what)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["FDSL_MALICIOUS"])),)


def torch_file(content):
    """A .pth file in the checkpoint's place, named by the flag."""
    def break_it(place):
        torch.save(content(), place.folder / "their.pth")
        return ["--checkpoint", str(place.folder / "their.pth")]
    return break_it


def weights_file(what, suffix=".safetensors"):
    """A file for --pretrained."""
    def break_it(place):
        file = place.folder / f"tower{suffix}"
        what(file)
        return ["--pretrained", str(file)]
    return break_it


def model_file(text):
    def break_it(place):
        (place.configs / "ViT-tiny-test.json").unlink()
        (place.configs / "Broken.json").write_text(text)
        return ["--model", "Broken"]
    return break_it


def blocked(name):
    """A file where the run wants to make a folder."""
    def break_it(place):
        (place.folder / "blocked").write_text("x")
        return [f"--{name}", str(place.folder / "blocked/further")]
    return break_it


def broken_run(text):
    def break_it(place):
        (place.folder / "run").mkdir()
        (place.folder / "run/config.json").write_text(text)
        return ["--from-maps", str(place.folder / "run")]
    return break_it


def flags(*given):
    return lambda place: list(given)


def narrow(state, config):
    heads = FDSL(16, 2).state_dict()
    state.clear()
    state.update(heads)


IMAGES = [
    ("zero bytes", content(SPOT, lambda _: b""), [SPOT, "empty (0 bytes)"]),
    ("truncated", content(SPOT, lambda whole: whole[:len(whole) // 2]), [SPOT, "cannot be decoded"]),
    ("only a signature", content(SPOT, lambda whole: whole[:8]), [SPOT, "not an image"]),
    ("damaged pixels", content(SPOT, damaged), [SPOT, "cannot be decoded"]),
    ("text named .png", content(SPOT, lambda _: b"hello, I am a photograph\n"), [SPOT, "not an image of a known format"]),
    ("a page named .png", content(GOOD, lambda _: b"<html><img src=x></html>"), [GOOD, "not an image"]),
    ("a link to nowhere", link_to_nowhere(SPOT), [SPOT, "cannot be found"]),
    ("a pipe", pipe(SPOT), [SPOT, "is not a file"]),
    ("pixels that are no numbers", not_finite(SPOT), [SPOT, "not finite"]),
    ("a mask of zero bytes", content(MASK, lambda _: b""), [MASK, "empty (0 bytes)"]),
    ("a truncated mask", content(MASK, lambda whole: whole[:len(whole) // 2]), [MASK, "cannot be decoded"]),
    ("a mask that is text", content(MASK, lambda _: b"mask"), [MASK, "not an image"]),
    ("a mask that links to nowhere", link_to_nowhere(MASK), [MASK, "cannot be found"])]

TEST_ONLY = [
    ("a reference of zero bytes", content("cup/train/good/000.png", lambda _: b""), ["--k-shot", "3"],
     ["cup/train/good/000.png", "empty"]),
    ("more references than images", None, ["--k-shot", "4"], ["category cup", "has 3 normal", "4 references", "--k-shot"]),
    ("no reference folder", no_reference_left, [], ["category cup", "has 0 normal"]),
    ("no test image", no_image_to_test, [], ["no image to test"]),
    ("an image above the limit", None, ["--max-pixels", "1000"], ["36x40 px is above the limit of 1,000", "--max-pixels"]),
    ("no dataset", None, ["--data-path", "/nowhere/at all"], ["/nowhere/at all", "--data-path"]),
    ("a file as dataset", file_instead_of_folder, [], ["data: is not a folder"]),
    ("one category as dataset", lambda place: ["--data-path", str(place.data / "cup")], [], ["is one category", "folder above"]),
    ("visa without its split file", None, ["--dataset", "visa"], ["split_csv/1cls.csv", "--split-csv"]),
    ("a folder without good images", lambda place: no_reference_left(place) or ["--data-path", str(place.data / "cup/test")],
     ["--dataset", "folder", "--k-shot", "9"], ["9 references"]),
    # meta.json
    ("meta.json that is no JSON", meta("{'train': 1}"), [], ["meta.json", "not valid JSON", "data/mvtec.py"]),
    ("meta.json cut off", meta('{"train": {'), [], ["meta.json", "not valid JSON"]),
    ("meta.json nested too deep", meta("[" * 100_000), [], ["meta.json", "not valid JSON"]),
    ("meta.json of a list", meta("[]"), [], ["meta.json", "exactly the keys"]),
    ("meta.json with an absolute path", meta([entry("/etc/passwd")]), [], ["meta.json", "/etc/passwd is an absolute path"]),
    ("meta.json that leaves the root", meta([entry("../secret.png")]), [], ["../secret.png does not stay inside"]),
    ("meta.json with a mask outside", meta([entry(mask_path="cup/../../m.png")]), [], ["does not stay inside"]),
    ("meta.json with an unknown key", meta([entry(extra=1)]), [], ["meta.json", "exactly the keys"]),
    ("meta.json with a wrong type", meta([entry(anomaly="yes")]), [], ["'anomaly' must be 0 or 1"]),
    ("meta.json that lists twice", meta([entry(), entry()]), [], ["twice"]),
    ("meta.json older than the dataset", meta([entry("cup/test/spot/777.png")]), [], ["777.png", "cannot be found", "meta.json"]),
    ("meta.json with a category that climbs", meta('{"train": {}, "test": {"../cup": []}}'), [], ["cannot name a category"]),
    ("--meta that is not there", None, ["--meta", "nowhere.json"], ["nowhere.json", "--meta FILE"]),
    # checkpoints
    ("no checkpoint", lambda place: place.weights().unlink(), [], ["There is no checkpoint", "--checkpoint"]),
    ("an empty checkpoint", checkpoint_bytes(lambda _: b""), [], ["mvtec.safetensors is not a whole safetensors file"]),
    ("half a checkpoint", checkpoint_bytes(lambda whole: whole[:len(whole) // 2]), [], ["not a whole safetensors file"]),
    ("a header that lies about its size", checkpoint_bytes(lambda whole: (2**60).to_bytes(8, "little") + whole[8:]), [],
     ["not a whole safetensors file"]),
    ("a header that lies about a tensor", header(lambda head: head["heads.0.layers.0.weight"].update(shape=[2**40])), [],
     ["not a whole safetensors file"]),
    ("tensors that overlap", header(lambda head: head["heads.0.layers.0.weight"].update(
        data_offsets=head["heads.0.layers.0.bias"]["data_offsets"])), [], ["not a whole safetensors file"]),
    ("metadata that is no JSON", header(lambda head: head["__metadata__"].update(fdsl="{")), [], ["not a whole safetensors file"]),
    ("no metadata", header(lambda head: head.pop("__metadata__")), [], ["does not say how it was trained"]),
    ("another format", header(lambda head: head["__metadata__"].update(
        fdsl=head["__metadata__"]["fdsl"].replace('"format": 1', '"format": 7'))), [], ["format 7"]),
    ("weights that are not finite", changed_checkpoint(lambda state, _: state["heads.0.layers.1.weight"].fill_(float("nan"))), [],
     ["not finite", "heads.0.layers.1.weight"]),
    ("infinite weights", changed_checkpoint(lambda state, _: state["nam.conv1.bias"].fill_(float("inf"))), [], ["not finite"]),
    ("variances below zero", changed_checkpoint(lambda state, _: state["heads.0.layers.0.running_var"].fill_(-1)), [],
     ["variances below zero"]),
    ("another shape", changed_checkpoint(lambda state, _: state.update({"heads.0.layers.1.weight": torch.zeros(7, 7)})), [],
     ["another shape in 'heads.0.layers.1.weight'"]),
    ("a part missing", changed_checkpoint(lambda state, _: state.pop("nam.conv2.bias")), [], ["lacks 'nam.conv2.bias'"]),
    ("a part too many", changed_checkpoint(lambda state, _: state.update({"heads.0.more": torch.zeros(1)})), [],
     ["no part of the heads: 'heads.0.more'"]),
    ("a head left out", changed_checkpoint(lambda state, _: [state.update({name.replace("heads.1", "heads.7"): state.pop(name)})
                                                            for name in list(state) if name.startswith("heads.1")]), [],
     ["not numbered from 0"]),
    ("weights that are whole numbers", changed_checkpoint(lambda state, _: state.update(
        {"nam.conv2.bias": torch.zeros(2, dtype=torch.int32)})), [], ["kind of number"]),
    ("heads of another backbone", changed_checkpoint(narrow), [], ["width 16", "width 32", "backbone they were trained on"]),
    ("another backbone's weights", set_in("fingerprint", value="0" * 16), [], ["are not those that", "--pretrained"]),
    ("an image size that is text", set_in("backbone", "image_size", value="32"), [], ["mvtec.safetensors", "image_size"]),
    ("an image size beyond reason", set_in("backbone", "image_size", value=10**9), [], ["values that no training writes"]),
    ("layers that are text", set_in("backbone", "layers", value=["1", "3"]), [], ["values that no training writes"]),
    ("a backbone without its fields", set_in("backbone", value={"model": "x"}), [], ["mvtec.safetensors", "fields"]),
    ("an unknown discrepancy", set_in("method", "fd", value="cube"), [], ["values that no training writes"]),
    ("no method", set_in("method", value=None), [], ["mvtec.safetensors", "configuration"]),
    ("a malicious pickle", torch_file(lambda: {"trainable_RR": Malicious()}), [], ["their.pth was refused"]),
    ("a bare malicious pickle", torch_file(Malicious), [], ["their.pth was refused"]),
    ("a file of something else", torch_file(lambda: {"epoch": 3}), [], ["neither a checkpoint of train.py", "trainable_RR"]),
    ("published heads that are none", torch_file(lambda: {"trainable_RR": {"clsList.0.proj.0.weight": torch.zeros(2)}}), [],
     ["their.pth holds no FDSL heads"]),
    ("published heads of wild numbers", torch_file(lambda: {"trainable_RR": {f"clsList.{'9' * 99}.proj.0.weight": torch.zeros(2)}}),
     [], ["their.pth holds no FDSL heads"]),
    # contradictions
    ("windows wider than the grid", None, ["--win-size", "9"], ["--win-size 9 does not fit a grid of 4"]),
    ("a stride above the window", None, ["--win-size", "2", "--win-stride", "3"], ["--win-stride 3 is larger than --win-size 2"]),
    ("no references for heads that need them", None, ["--k-shot", "0"], ["--k-shot 0"]),
    ("other layers than the checkpoint's", None, ["--layers", "1", "2"], ["--layers 1 2 does not match the checkpoint"]),
    ("another discrepancy than the checkpoint's", None, ["--fd", "signed"], ["--fd signed does not match"]),
    ("maps that are nowhere", None, ["--from-maps", "nowhere"], ["nowhere is not the folder of a test run"]),
    ("a run's config.json that is no JSON", broken_run("{"), [], ["run is not the folder of a test run"]),
    ("a run's config.json of a list", broken_run("[1]"), [], ["run is not the folder of a test run"]),
    ("a run's config.json without the rest", broken_run('{"windows": {}}'), [], ["run/config.json is not that of a test run"]),
    ("a run's config.json that climbs", broken_run('{"windows": {}, "model_name": "../.."}'), [], ["run/config.json"]),
    ("results that cannot be written", blocked("results"), [], ["blocked", "name another folder"])]

TRAIN_ONLY = [
    ("no mask at all", no_mask_at_all, [], ["no defective image with a mask"]),
    ("more references than images", None, ["--k-shot", "4"], ["4 references are wanted"]),
    ("an image above the limit", None, ["--max-pixels", "1000"], ["above the limit of 1,000 pixels", "--max-pixels"]),
    ("an unknown model", None, ["--model", "ViT-tiny-tset"], ["--model ViT-tiny-tset is not known", "ViT-tiny-test"]),
    ("a model that is no ViT", None, ["--model", "RN50"], ["not a Vision Transformer"]),
    ("no model folder", None, ["--model-config", "/nowhere"], ["--model-config /nowhere holds no"]),
    ("a model file that is no JSON", model_file("{"), [], ["--model-config"]),
    ("a model file without its parts", model_file('{"embed_dim": 3}'), [], ["Broken"]),
    ("blocks that are not there", None, ["--layers", "1", "99"], ["--layers 1 99: give distinct blocks between 1 and 3"]),
    ("a block twice", None, ["--layers", "1", "1"], ["--layers 1 1: give distinct blocks"]),
    ("an image size that is no multiple", None, ["--image-size", "33"], ["--image-size 33 is not a multiple", "32"]),
    ("a tag that is no file", None, ["--pretrained", "nowhere.safetensors"], ["--pretrained nowhere.safetensors is neither"]),
    ("text as weights", weights_file(lambda file: file.write_text("x")), [], ["tower.safetensors", "is not a plain weights file"]),
    ("text as torch weights", weights_file(lambda file: file.write_text("x"), ".pt"), [], ["tower.pt"]),
    ("a malicious pickle as weights", weights_file(lambda file: torch.save(Malicious(), file), ".pt"), [], ["tower.pt", "safetensors"]),
    ("half of the weights", weights_file(lambda file: save_file({"visual.proj": torch.zeros(2)}, file)), [],
     ["does not fill the image tower"]),
    ("a device that is not there", None, ["--device", "cuda:93"], ["--device cuda:93", "use --device cpu"]),
    ("a device of no kind", None, ["--device", "gpu"], ["--device gpu is not here", "use --device cpu"]),
    ("a precision for GPUs", None, ["--precision", "fp16"], ["--precision fp16", "bf16 or fp32"]),
    ("checkpoints that cannot be written", blocked("checkpoints"), [], ["blocked", "name another folder"])]

VALUES = [(name, flag, value) for name, flag, values in (
    ("train", "--epochs", ("0", "-1", "many", "1.5")), ("train", "--k-shot", ("0", "x")), ("train", "--batch-size", ("0", "-3")),
    ("train", "--learning-rate", ("0", "-1", "2", "nan", "inf")), ("train", "--seed", ("-1", "x")),
    ("train", "--save-every", ("0", "m", "-5", "1.5")), ("train", "--augmentation", ("blur",)), ("train", "--dataset", ("coco",)),
    ("train", "--layers", ("0", "x")), ("train", "--image-size", ("0", "9000", "-14")), ("train", "--workers", ("-1", "65")),
    ("train", "--precision", ("int8",)), ("train", "--model-name", ("a/b", "..", "")), ("train", "--max-pixels", ("0", "x")),
    ("train", "--use-nam", ("2", "yes")), ("train", "--fd", ("cube",)), ("train", "--unknown-flag", ("1",)),
    ("test", "--k-shot", ("-1", "x")), ("test", "--win-size", ("0",)), ("test", "--win-stride", ("0",)),
    ("test", "--win-weight", ("-0.1", "1.1", "nan")), ("test", "--winmode", ("half",)), ("test", "--metric-size", ("1", "9999", "x")),
    ("test", "--image-score", ("best",)), ("test", "--pictures", ("-1",)), ("test", "--index-memory", ("2",)),
    ("test", "--align", ("cosine",)), ("test", "--batch-size", ("0",)), ("test", "--max-pixels", ("-1",))) for value in values]


def refused(monkeypatch, capsys, name, arguments):
    """What an entry point says on standard error when it ends with exit code 2."""
    monkeypatch.setattr(signals, "answer", lambda at_once=False: None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        runtime.run_command({"train": train, "test": test}[name].main, (DataError, ModelError, ConfigError))
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in told, told
    return told


def check_case(monkeypatch, capsys, place, name, break_it, arguments, words):
    monkeypatch.setenv("FDSL_MALICIOUS", str(place.folder / "executed"))
    more = (break_it(place) if break_it else None) or []
    known = {path for path in place.folder.rglob("*")}
    make = place.train if name == "train" else place.test
    told = refused(monkeypatch, capsys, name, make("--no-resume", *more, *arguments, *(["--force"] if name == "train" else [])))
    said = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and len(said[0]) < 700, told
    for word in words:
        assert word in said[0], said[0]
    new = {path.name for path in place.folder.rglob("*")} - {path.name for path in known}
    assert not {name for name in new if name.endswith((".tmp", ".lock", ".png", ".npz"))}, new
    assert not (place.folder / "executed").exists()
    assert not {"metrics.json", "scores.csv", "report.html", "mvtec.loss.csv", "mvtec.unfinished.safetensors"} & new


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("break_it, words", [case[1:] for case in IMAGES], ids=[case[0] for case in IMAGES])
def test_bad_images_and_masks(monkeypatch, capsys, place, name, break_it, words):
    check_case(monkeypatch, capsys, place, name, break_it, ["--augmentation", "none"] if name == "train" else [], words)


@pytest.mark.parametrize("break_it, arguments, words", [case[1:] for case in TEST_ONLY], ids=[case[0] for case in TEST_ONLY])
def test_bad_input_of_a_test_run(monkeypatch, capsys, place, break_it, arguments, words):
    check_case(monkeypatch, capsys, place, "test", break_it, arguments, words)


@pytest.mark.parametrize("break_it, arguments, words", [case[1:] for case in TRAIN_ONLY], ids=[case[0] for case in TRAIN_ONLY])
def test_bad_input_of_a_training(monkeypatch, capsys, place, break_it, arguments, words):
    check_case(monkeypatch, capsys, place, "train", break_it, arguments, words)


@pytest.mark.parametrize("name, flag, value", VALUES)
def test_values_out_of_range_are_refused_when_they_are_parsed(monkeypatch, capsys, tmp_path, name, flag, value):
    monkeypatch.chdir(tmp_path)
    arguments = [flag, value] if flag == "--dataset" else ["--dataset", "mvtec", flag, value]
    told = refused(monkeypatch, capsys, name, arguments)
    assert re.search(rf"error: .*{flag}", told) and not list(tmp_path.iterdir())


def test_a_needed_flag_left_out(monkeypatch, capsys):
    for name in ("train", "test"):
        assert "--dataset" in refused(monkeypatch, capsys, name, [])


def test_there_are_enough_cases():
    assert 2 * len(IMAGES) + len(TEST_ONLY) + len(TRAIN_ONLY) + len(VALUES) + len(SCRIPTS) >= 150


# The scripts of data/ --------------------------------------------------------------------------------------------------

LINES = "object,split,label,image,mask\ncup,train,normal,cup/0.png,\n"
SCRIPTS = [
    ("visa", {"split_csv/1cls.csv": "object,split,image\n"}, "has no column label, mask"),
    ("visa", {"split_csv/1cls.csv": ""}, "has no column"),
    ("visa", {"split_csv/1cls.csv": "\0\0\0"}, "1cls.csv"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal\n"}, "line 3: has another number of fields"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,valid,normal,a.png,\n"}, "line 3: split must be one of"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal,/etc/passwd,\n"}, "absolute path"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal,../a.png,\n"}, "stay inside"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal,cup/0.png,\n"}, "twice"),
    ("visa", {"split_csv/1cls.csv": LINES}, "holds none of the images"),
    ("visa", {}, "split_csv/1cls.csv"),
    ("mvtec", {}, "holds no category"),
    ("mvtec", {"train/good/0.png": ""}, "is one category"),
    ("folder", {}, "holds no folder good"),
    ("folder", {"cup/other/0.png": ""}, "holds no folder good")]


@pytest.mark.parametrize("dataset, given, words", SCRIPTS)
def test_scripts_of_the_datasets_say_what_is_wrong(tmp_path, capsys, dataset, given, words):
    for name, text in given.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    if dataset == "folder":
        code = data_folder.main([str(tmp_path)])
    else:
        code = run_script(dataset, {"visa": visa, "mvtec": mvtec}[dataset].scan, tmp_path, "", [str(tmp_path)])
    told = capsys.readouterr().err
    assert code == 2 and words in told and len(told.splitlines()) == 1 and sorted(tmp_path.rglob("*")) == before


# What looks bad and is taken -------------------------------------------------------------------------------------------

def pictures_of_every_kind(folder):
    """Writes good test images of every kind that is taken; their names."""
    generator = np.random.default_rng(3)
    colour = Image.fromarray(generator.integers(0, 255, (40, 36, 3), dtype=np.uint8))
    grey = Image.fromarray(generator.integers(0, 2**16, (40, 36), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {"cmyk.jpg": colour.convert("CMYK"), "sixteen.png": grey, "palette.png": colour.convert("P"),
            "bits.png": colour.convert("1"), "transparent.png": colour.convert("RGBA"), "one pixel.png": colour.crop((0, 0, 1, 1)),
            "sliver.png": colour.crop((0, 0, 36, 1)), "a 'quoted' \"name\".png": colour, "two\nlines.png": colour,
            "Prüfstück 検査 🔩.png": colour, "<img src=x onerror=alert(1)>.png": colour, "=1+1.png": colour, "-1.png": colour}
    for name, picture in made.items():
        picture.save(folder / name)
    colour.save(folder / "turned.jpg", exif=exif)
    colour.save(folder / "animated.gif", save_all=True, append_images=[colour.rotate(90), colour.rotate(180)], duration=9)
    return [*made, "turned.jpg", "animated.gif"]


def masks_of_every_kind(place):
    """Further defects, with masks of another size, all one, all zero, and of small numbers; one has no mask."""
    spot, truth = place.data / "cup/test/spot", place.data / "cup/ground_truth/spot"
    for number, mask in enumerate([np.full((9, 7), 255, np.uint8), np.full((40, 36), 255, np.uint8),
                                   np.zeros((40, 36), np.uint8), np.full((40, 36), 3, np.uint8)], start=10):
        shutil.copy(spot / "000.png", spot / f"{number:03}.png")
        Image.fromarray(mask).save(truth / f"{number:03}_mask.png")
    shutil.copy(spot / "001.png", spot / "020.png")
    return 5


def test_images_and_masks_of_every_kind_are_taken_and_none_is_left_out(place, tmp_path):
    names = pictures_of_every_kind(place.data / "cup/test/good")
    more = masks_of_every_kind(place)
    test.main(place.test("--results", str(tmp_path)))
    folder = place.run_folder(tmp_path)
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + len(names) + more
    assert {f"cup/test/good/{name}" for name in names} <= {row["image"] for row in rows}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x onerror" not in report


def test_the_same_dataset_can_be_trained_on(place, tmp_path):
    pictures_of_every_kind(place.data / "cup/test/good")
    masks_of_every_kind(place)
    for augmentation in ("mosaic", "crop"):
        train.main(place.train("--epochs", "1", "--augmentation", augmentation, "--checkpoints", str(tmp_path / augmentation)))
        assert load_checkpoint(tmp_path / augmentation / "m/mvtec.safetensors")


def test_cells_that_a_spreadsheet_would_run_are_neutralised():
    rows = list(csv.reader(csv_text(["name"], [["=1+1"], ["+1"], ["-1"], ["@x"], ["\tx"], ["plain"]]).splitlines()))
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain"]


def test_duplicates_of_references_are_named(place, tmp_path, capsys):
    for number in range(3):
        shutil.copy(place.data / f"cup/train/good/{number:03}.png", place.data / f"cup/test/good/1{number}.png")
    test.main(place.test("--k-shot", "2", "--pictures", "0", "--results", str(tmp_path)))
    told = capsys.readouterr().err
    assert told.count("the same file as the reference cup/train/good/") == 2
    train.main(place.train("--epochs", "1", "--k-shot", "2", "--checkpoints", str(tmp_path)))
    assert capsys.readouterr().err.count("the same file as the reference") == 2


def test_a_category_without_test_images_is_left_out_aloud(place, tmp_path, capsys):
    draw_dataset(place.data, ("bolt",), train=2, good=0, bad=0)
    (place.data / "bolt/test/good").mkdir(parents=True)
    test.main(place.test("--pictures", "0", "--results", str(tmp_path)))
    assert "category bolt has no test image and is left out" in capsys.readouterr().err
    assert list(json.loads((place.run_folder(tmp_path) / "metrics.json").read_text())["categories"]) == ["cup"]


def test_decompression_bombs_stay_out(place, tmp_path, monkeypatch, capsys):
    whole = bytearray((place.data / SPOT).read_bytes())
    whole[16:24] = struct.pack(">II", 20_000, 20_000)  # the size in the header, with its checksum
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    (place.data / SPOT).write_bytes(whole)
    told = refused(monkeypatch, capsys, "test", place.test("--results", str(tmp_path)))
    assert "20000x20000 px is above the limit of 100,000,000 pixels" in told and "--max-pixels" in told


def test_a_stranger_s_process_sees_one_sentence(place):
    """The whole way through a real process, with a name that needs quoting."""
    (place.data / "cup/test/good/a 'b'\nc.png").write_bytes(b"")
    ran = subprocess.run([sys.executable, str(Path(train.__file__)), *place.train("--no-resume", "--force", "--augmentation", "none")],
                         capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert ran.returncode == 2 and "Traceback" not in ran.stderr and len(said) == 1
    assert "a 'b'\\nc.png: is empty (0 bytes); copy it again or remove it" in said[0]
    assert load_file(place.weights())
