"""Bad input, a table of it: one sentence that names the file and the cure, exit code 2, nothing
half-written."""

import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data import folder as data_folder
from data import mvtec, visa
from data.catalogue import run_script
from tests.support.broken_places import (
    GOOD,
    MASK,
    SPOT,
    Malicious,
    blocked,
    broken_run,
    changed_checkpoint,
    checkpoint_bytes,
    content,
    copied,
    damaged,
    entry,
    file_instead_of_folder,
    header,
    link_to_nowhere,
    meta,
    model_file,
    narrow,
    no_image_to_test,
    no_mask_at_all,
    no_reference_left,
    not_finite,
    pipe,
    refused,
    set_in,
    torch_file,
    train,
    weights_file,
)

pytestmark = pytest.mark.usefixtures("one_thread", "own_model_list")

IMAGES = [
    ("zero bytes", content(SPOT, lambda _: b""), [SPOT, "empty (0 bytes)"]),
    ("truncated", content(SPOT, lambda whole: whole[: len(whole) // 2]), [SPOT, "cannot be decoded"]),
    ("only a signature", content(SPOT, lambda whole: whole[:8]), [SPOT, "not an image"]),
    ("damaged pixels", content(SPOT, damaged), [SPOT, "cannot be decoded"]),
    (
        "text named .png",
        content(SPOT, lambda _: b"hello, I am a photograph\n"),
        [SPOT, "not an image of a known format"],
    ),
    ("a page named .png", content(GOOD, lambda _: b"<html><img src=x></html>"), [GOOD, "not an image"]),
    ("a link to nowhere", link_to_nowhere(SPOT), [SPOT, "cannot be found"]),
    ("a pipe", pipe(SPOT), [SPOT, "is not a file"]),
    ("pixels that are no numbers", not_finite(SPOT), [SPOT, "not finite"]),
    ("a mask of zero bytes", content(MASK, lambda _: b""), [MASK, "empty (0 bytes)"]),
    ("a truncated mask", content(MASK, lambda whole: whole[: len(whole) // 2]), [MASK, "cannot be decoded"]),
    ("a mask that is text", content(MASK, lambda _: b"mask"), [MASK, "not an image"]),
    ("a mask that links to nowhere", link_to_nowhere(MASK), [MASK, "cannot be found"]),
]

TEST_ONLY = [
    (
        "a reference of zero bytes",
        content("cup/train/good/000.png", lambda _: b""),
        ["--k-shot", "3"],
        ["cup/train/good/000.png", "empty"],
    ),
    (
        "more references than images",
        None,
        ["--k-shot", "4"],
        ["category cup", "has 3 normal", "4 references", "--k-shot"],
    ),
    ("no reference folder", no_reference_left, [], ["category cup", "has 0 normal"]),
    ("no test image", no_image_to_test, [], ["no image to test"]),
    (
        "an image above the limit",
        None,
        ["--max-pixels", "1000"],
        ["36x40 px is above the limit of 1,000", "--max-pixels"],
    ),
    ("no dataset", None, ["--data-path", "/nowhere/at all"], ["/nowhere/at all", "--data-path"]),
    ("a file as dataset", file_instead_of_folder, [], ["data: is not a folder"]),
    ("visa without its split file", None, ["--dataset", "visa"], ["split_csv/1cls.csv", "--split-csv"]),
    (
        "a folder without good images",
        lambda place: no_reference_left(place) or ["--data-path", str(place.data / "cup/test")],
        ["--dataset", "folder", "--k-shot", "9"],
        ["9 references"],
    ),
    # meta.json
    ("meta.json that is no JSON", meta("{'train': 1}"), [], ["meta.json", "not valid JSON", "data/mvtec.py"]),
    ("meta.json cut off", meta('{"train": {'), [], ["meta.json", "not valid JSON"]),
    ("meta.json nested too deep", meta("[" * 100_000), [], ["meta.json", "not valid JSON"]),
    ("meta.json of a list", meta("[]"), [], ["meta.json", "exactly the keys"]),
    (
        "meta.json with an is absolute",
        meta([entry("/etc/passwd")]),
        [],
        ["meta.json", "/etc/passwd is absolute"],
    ),
    (
        "meta.json that leaves the root",
        meta([entry("../secret.png")]),
        [],
        ["../secret.png leaves the dataset"],
    ),
    ("meta.json with a mask outside", meta([entry(mask_path="cup/../../m.png")]), [], ["leaves the dataset"]),
    ("meta.json with an unknown key", meta([entry(extra=1)]), [], ["meta.json", "exactly the keys"]),
    ("meta.json with a wrong type", meta([entry(anomaly="yes")]), [], ["'anomaly' must be 0 or 1"]),
    ("meta.json that lists twice", meta([entry(), entry()]), [], ["twice"]),
    (
        "meta.json older than the dataset",
        meta([entry("cup/test/spot/777.png")]),
        [],
        ["777.png", "cannot be found", "meta.json"],
    ),
    (
        "meta.json with a category that climbs",
        meta('{"train": {}, "test": {"../cup": []}}'),
        [],
        ["cannot name a category"],
    ),
    ("--meta that is not there", None, ["--meta", "nowhere.json"], ["nowhere.json", "--meta FILE"]),
    # checkpoints
    ("no checkpoint", lambda place: place.weights().unlink(), [], ["There is no checkpoint", "--checkpoint"]),
    (
        "an empty checkpoint",
        checkpoint_bytes(lambda _: b""),
        [],
        ["mvtec.safetensors is not a complete safetensors file"],
    ),
    (
        "half a checkpoint",
        checkpoint_bytes(lambda whole: whole[: len(whole) // 2]),
        [],
        ["not a complete safetensors file"],
    ),
    (
        "a header that lies about its size",
        checkpoint_bytes(lambda whole: (2**60).to_bytes(8, "little") + whole[8:]),
        [],
        ["not a complete safetensors file"],
    ),
    (
        "a header that lies about a tensor",
        header(lambda head: head["heads.0.layers.0.weight"].update(shape=[2**40])),
        [],
        ["not a complete safetensors file"],
    ),
    (
        "tensors that overlap",
        header(
            lambda head: head["heads.0.layers.0.weight"].update(
                data_offsets=head["heads.0.layers.0.bias"]["data_offsets"]
            )
        ),
        [],
        ["not a complete safetensors file"],
    ),
    (
        "metadata that is no JSON",
        header(lambda head: head["__metadata__"].update(fdsl="{")),
        [],
        ["not a complete safetensors file"],
    ),
    ("no metadata", header(lambda head: head.pop("__metadata__")), [], ["has no training configuration"]),
    ("another format", set_in("format", value=7), [], ["format 7"]),
    (
        "weights that are not finite",
        changed_checkpoint(lambda state, _: state["heads.0.layers.1.weight"].fill_(float("nan"))),
        [],
        ["not finite", "heads.0.layers.1.weight"],
    ),
    (
        "infinite weights",
        changed_checkpoint(lambda state, _: state["nam.conv1.bias"].fill_(float("inf"))),
        [],
        ["not finite"],
    ),
    (
        "variances below zero",
        changed_checkpoint(lambda state, _: state["heads.0.layers.0.running_var"].fill_(-1)),
        [],
        ["not finite", "the heads"],
    ),
    (
        "another shape",
        changed_checkpoint(lambda state, _: state.update({"heads.0.layers.1.weight": torch.zeros(7, 7)})),
        [],
        ["size mismatch for heads.0.layers.1.weight"],
    ),
    (
        "a part missing",
        changed_checkpoint(lambda state, _: state.pop("nam.conv2.bias")),
        [],
        ["Missing key(s)", "nam.conv2.bias"],
    ),
    (
        "a part too many",
        changed_checkpoint(lambda state, _: state.update({"heads.0.more": torch.zeros(1)})),
        [],
        ["Unexpected key(s)", "heads.0.more"],
    ),
    (
        "a head left out",
        changed_checkpoint(
            lambda state, _: [
                state.update({name.replace("heads.1", "heads.7"): state.pop(name)})
                for name in list(state)
                if name.startswith("heads.1")
            ]
        ),
        [],
        ["Missing key(s)", "heads.1."],
    ),
    (
        "weights that are whole numbers",
        changed_checkpoint(
            lambda state, _: state.update({"nam.conv2.bias": torch.zeros(2, dtype=torch.int32)})
        ),
        [],
        ["nam.conv2.bias", "floating point"],
    ),
    (
        "heads of another backbone",
        changed_checkpoint(narrow),
        [],
        ["width 16", "width 32", "backbone they were trained on"],
    ),
    (
        "another backbone's weights",
        set_in("fingerprint", value="0" * 16),
        [],
        ["are not those that", "--pretrained"],
    ),
    (
        "an image size that is text",
        set_in("backbone", "image_size", value="32"),
        [],
        ["mvtec.safetensors", "image_size"],
    ),
    (
        "an image size beyond reason",
        set_in("backbone", "image_size", value=10**9),
        [],
        ["image_size is 1000000000, which is not a whole number from 1 to 8192"],
    ),
    (
        "layers that are text",
        set_in("backbone", "layers", value=["1", "3"]),
        [],
        ["not a tuple of whole numbers"],
    ),
    (
        "a backbone without its fields",
        set_in("backbone", value={"model": "x"}),
        [],
        ["mvtec.safetensors", "pretrained is missing"],
    ),
    (
        "an unknown discrepancy",
        set_in("options", "fd", value="cube"),
        [],
        ["which is not one of abs, signed"],
    ),
    ("no options", set_in("options", value=None), [], ["mvtec.safetensors", "configuration"]),
    ("a malicious pickle", torch_file(lambda: {"trainable_RR": Malicious()}), [], ["their.pth was refused"]),
    ("a bare malicious pickle", torch_file(Malicious), [], ["their.pth was refused"]),
    (
        "a file of something else",
        torch_file(lambda: {"epoch": 3}),
        [],
        ["neither a checkpoint of train.py", "trainable_RR"],
    ),
    (
        "published heads that are none",
        torch_file(lambda: {"trainable_RR": {"clsList.0.proj.0.weight": torch.zeros(2)}}),
        [],
        ["their.pth holds no FDSL heads"],
    ),
    (
        "published heads of wild numbers",
        torch_file(lambda: {"trainable_RR": {f"clsList.{'9' * 99}.proj.0.weight": torch.zeros(2)}}),
        [],
        ["their.pth holds no FDSL heads"],
    ),
    # contradictions
    ("windows wider than the grid", None, ["--win-size", "9"], ["--win-size 9 does not fit a grid of 4"]),
    (
        "a stride above the window",
        None,
        ["--win-size", "2", "--win-stride", "3"],
        ["--win-stride 3 is larger than --win-size 2"],
    ),
    ("no references for heads that need them", None, ["--k-shot", "0"], ["--k-shot 0"]),
    (
        "other layers than the checkpoint's",
        None,
        ["--layers", "1", "2"],
        ["--layers 1 2 does not match the checkpoint"],
    ),
    ("another discrepancy than the checkpoint's", None, ["--fd", "signed"], ["--fd signed does not match"]),
    ("maps that are nowhere", None, ["--from-maps", "nowhere"], ["nowhere is not the folder of a test run"]),
    ("a run's config.json that is no JSON", broken_run("{"), [], ["run is not the folder of a test run"]),
    ("a run's config.json of a list", broken_run("[1]"), [], ["run is not the folder of a test run"]),
    (
        "a run's config.json without the rest",
        broken_run('{"windows": {}}'),
        [],
        ["run/config.json is not that of a test run"],
    ),
    (
        "a run's config.json that climbs",
        broken_run('{"windows": {}, "model_name": "../.."}'),
        [],
        ["run/config.json"],
    ),
    ("results that cannot be written", blocked("results"), [], ["blocked", "name another folder"]),
]

TRAIN_ONLY = [
    ("no mask at all", no_mask_at_all, [], ["no defective image with a mask"]),
    ("more references than images", None, ["--k-shot", "4"], ["4 references are wanted"]),
    (
        "an image above the limit",
        None,
        ["--max-pixels", "1000"],
        ["above the limit of 1,000 pixels", "--max-pixels"],
    ),
    (
        "an unknown model",
        None,
        ["--model", "ViT-tiny-tset"],
        ["--model ViT-tiny-tset is not known", "ViT-tiny-test"],
    ),
    ("a model that is no ViT", None, ["--model", "RN50"], ["not a Vision Transformer"]),
    ("no model folder", None, ["--model-config", "/nowhere"], ["--model-config /nowhere holds no"]),
    ("a model file that is no JSON", model_file("{"), [], ["--model-config"]),
    ("a model file without its parts", model_file('{"embed_dim": 3}'), [], ["Broken"]),
    (
        "blocks that are not there",
        None,
        ["--layers", "1", "99"],
        ["--layers 1 99: give distinct blocks between 1 and 3"],
    ),
    ("a block twice", None, ["--layers", "1", "1"], ["--layers 1 1: give distinct blocks"]),
    (
        "an image size that is no multiple",
        None,
        ["--image-size", "33"],
        ["--image-size 33 is not a multiple", "32"],
    ),
    (
        "a tag that is no file",
        None,
        ["--pretrained", "nowhere.safetensors"],
        ["--pretrained nowhere.safetensors is neither"],
    ),
    (
        "text as weights",
        weights_file(lambda file: file.write_text("x")),
        [],
        ["encoder.safetensors", "is not a plain weights file"],
    ),
    ("text as torch weights", weights_file(lambda file: file.write_text("x"), ".pt"), [], ["encoder.pt"]),
    (
        "a malicious pickle as weights",
        weights_file(lambda file: torch.save(Malicious(), file), ".pt"),
        [],
        ["encoder.pt", "safetensors"],
    ),
    (
        "half of the weights",
        weights_file(lambda file: save_file({"visual.proj": torch.zeros(2)}, file)),
        [],
        ["does not fill the image encoder"],
    ),
    ("a device that is not there", None, ["--device", "cuda:93"], ["--device cuda:93", "use --device cpu"]),
    ("a device of no kind", None, ["--device", "gpu"], ["--device gpu is not here", "use --device cpu"]),
    ("a precision for GPUs", None, ["--precision", "fp16"], ["--precision fp16", "bf16 or fp32"]),
    ("checkpoints that cannot be written", blocked("checkpoints"), [], ["blocked", "name another folder"]),
]

VALUES = [
    (name, flag, value)
    for name, flag, values in (
        ("train", "--epochs", ("0", "-1", "many", "1.5")),
        ("train", "--k-shot", ("0", "x")),
        ("train", "--batch-size", ("0", "-3")),
        ("train", "--learning-rate", ("0", "-1", "2", "nan", "inf")),
        ("train", "--seed", ("-1", "x")),
        ("train", "--save-every", ("0", "m", "-5", "1.5")),
        ("train", "--augmentation", ("blur",)),
        ("train", "--dataset", ("coco",)),
        ("train", "--layers", ("0", "x")),
        ("train", "--image-size", ("0", "9000", "-14")),
        ("train", "--workers", ("-1", "65")),
        ("train", "--precision", ("int8",)),
        ("train", "--model-name", ("a/b", "..", "")),
        ("train", "--max-pixels", ("0", "x")),
        ("train", "--use-nam", ("2", "yes")),
        ("train", "--fd", ("cube",)),
        ("train", "--unknown-flag", ("1",)),
        ("test", "--k-shot", ("-1", "x")),
        ("test", "--win-size", ("0",)),
        ("test", "--win-stride", ("0",)),
        ("test", "--win-weight", ("-0.1", "1.1", "nan")),
        ("test", "--winmode", ("half",)),
        ("test", "--metric-size", ("1", "9999", "x")),
        ("test", "--image-score", ("best",)),
        ("test", "--pictures", ("-1",)),
        ("test", "--index-memory", ("2",)),
        ("test", "--align", ("cosine",)),
        ("test", "--batch-size", ("0",)),
        ("test", "--max-pixels", ("-1",)),
    )
    for value in values
]


@pytest.fixture
def place(base, tmp_path):
    """A place that a case may break."""
    return copied(base, tmp_path / "place")


def check_case(monkeypatch, capsys, place, name, break_it, arguments, words):
    monkeypatch.setenv("FDSL_MALICIOUS", str(place.folder / "executed"))
    more = (break_it(place) if break_it else None) or []
    known = set(place.folder.rglob("*"))
    make = place.train if name == "train" else place.test
    given = [*more, *arguments]
    if "--from-maps" not in given:  # with which nothing is computed
        given = make("--no-resume", *given, *(["--force"] if name == "train" else []))
    reported = refused(monkeypatch, capsys, name, given)
    output = [line for line in reported.splitlines() if line.startswith("error: ")]
    assert len(output) == 1 and len(output[0]) < 700, reported
    for word in words:
        assert word in output[0], output[0]
    new = {path.name for path in place.folder.rglob("*")} - {path.name for path in known}
    assert not {name for name in new if name.endswith((".tmp", ".lock", ".png", ".npz"))}, new
    assert not (place.folder / "executed").exists()
    assert (
        not {"metrics.json", "scores.csv", "report.html", "mvtec.loss.csv", "mvtec.unfinished.safetensors"}
        & new
    )


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("break_it, words", [case[1:] for case in IMAGES], ids=[case[0] for case in IMAGES])
def test_bad_images_and_masks(monkeypatch, capsys, place, name, break_it, words):
    nowhere = "is a link to nowhere" if name == "train" else "cannot be found"
    check_case(
        monkeypatch,
        capsys,
        place,
        name,
        break_it,
        ["--augmentation", "none"] if name == "train" else [],
        [nowhere if word == "cannot be found" else word for word in words],
    )


@pytest.mark.parametrize(
    "break_it, arguments, words", [case[1:] for case in TEST_ONLY], ids=[case[0] for case in TEST_ONLY]
)
def test_bad_input_of_a_test_run(monkeypatch, capsys, place, break_it, arguments, words):
    check_case(monkeypatch, capsys, place, "test", break_it, arguments, words)


@pytest.mark.parametrize(
    "break_it, arguments, words", [case[1:] for case in TRAIN_ONLY], ids=[case[0] for case in TRAIN_ONLY]
)
def test_bad_input_of_a_training(monkeypatch, capsys, place, break_it, arguments, words):
    check_case(monkeypatch, capsys, place, "train", break_it, arguments, words)


@pytest.mark.parametrize("name, flag, value", VALUES)
def test_values_out_of_range_are_refused_when_they_are_parsed(
    monkeypatch, capsys, tmp_path, name, flag, value
):
    monkeypatch.chdir(tmp_path)
    arguments = [flag, value] if flag == "--dataset" else ["--dataset", "mvtec", flag, value]
    reported = refused(monkeypatch, capsys, name, arguments)
    assert re.search(rf"error: .*{flag}", reported) and not list(tmp_path.iterdir())


def test_a_needed_flag_left_out(monkeypatch, capsys):
    for name in ("train", "test"):
        assert "--dataset" in refused(monkeypatch, capsys, name, [])


def test_there_are_enough_cases():
    assert 2 * len(IMAGES) + len(TEST_ONLY) + len(TRAIN_ONLY) + len(VALUES) + len(SCRIPTS) >= 150


# The scripts of data/ ---------------------------------------------------------------------------------------

LINES = "object,split,label,image,mask\ncup,train,normal,cup/0.png,\n"
SCRIPTS = [
    ("visa", {"split_csv/1cls.csv": "object,split,image\n"}, "has no column label, mask"),
    ("visa", {"split_csv/1cls.csv": ""}, "has no column"),
    ("visa", {"split_csv/1cls.csv": "\0\0\0"}, "1cls.csv"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal\n"}, "line 3: has another number of fields"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,valid,normal,a.png,\n"}, "line 3: split is one of"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal,/etc/passwd,\n"}, "is absolute"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal,../a.png,\n"}, "leaves the dataset's root"),
    ("visa", {"split_csv/1cls.csv": LINES + "cup,train,normal,cup/0.png,\n"}, "twice"),
    ("visa", {"split_csv/1cls.csv": LINES}, "holds no image of"),
    ("visa", {}, "split_csv/1cls.csv"),
    ("mvtec", {}, "holds no folder good"),
    ("folder", {}, "holds no folder good"),
    ("folder", {"cup/other/0.png": ""}, "holds no folder good"),
]


@pytest.mark.parametrize("dataset, given, words", SCRIPTS)
def test_scripts_of_the_datasets_say_what_is_wrong(tmp_path, capsys, dataset, given, words):
    for name, text in given.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    if dataset == "folder":
        code = run_script(data_folder.LAYOUT, None, "", [str(tmp_path)])
    else:
        code = run_script({"visa": visa, "mvtec": mvtec}[dataset].LAYOUT, tmp_path, "", [str(tmp_path)])
    reported = capsys.readouterr().err
    assert (
        code == 2
        and words in reported
        and len(reported.splitlines()) == 1
        and sorted(tmp_path.rglob("*")) == before
    )


# Whole processes --------------------------------------------------------------------------------------------


def test_decompression_bombs_stay_out(place, tmp_path, monkeypatch, capsys):
    whole = bytearray((place.data / SPOT).read_bytes())
    whole[16:24] = struct.pack(">II", 20_000, 20_000)  # the size in the header, with its checksum
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    (place.data / SPOT).write_bytes(whole)
    reported = refused(monkeypatch, capsys, "test", place.test("--results", str(tmp_path)))
    assert (
        "20000x20000 px is above the limit of 100,000,000 pixels" in reported and "--max-pixels" in reported
    )


@pytest.mark.slow
def test_a_stranger_s_process_sees_one_sentence(place):
    """The whole way through a real process, with a name that needs quoting."""
    (place.data / "cup/test/good/a 'b'\nc.png").write_bytes(b"")
    ran = subprocess.run(
        [
            sys.executable,
            str(Path(train.__file__)),
            *place.train("--no-resume", "--force", "--augmentation", "none"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    reported = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert ran.returncode == 2 and "Traceback" not in ran.stderr and len(reported) == 1
    assert "a 'b'\\nc.png: is empty (0 bytes); copy it again or remove it" in reported[0]
    assert load_file(place.weights())
