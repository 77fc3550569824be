"""ONNX files that are no detector's, or were changed, are refused in one sentence."""

import json

import pytest
from PIL import Image

from utils.errors import ConfigError, DataError
from utils.files import facts_digest
from utils.image_statistics import PER_IMAGE

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

import onnx  # noqa: E402

from deploy import graph  # noqa: E402
from deploy.metadata import FIELDS  # noqa: E402

PHOTO = Image.new("RGB", (80, 60), (90, 120, 150))


FLOAT, WHOLE = 1, 7  # onnx.TensorProto


RIGHT = {
    "map": (FLOAT, [1, 2, 2], [0, 0, 0, 1]),
    "score": (FLOAT, [1], [0.5]),
    "base_score": (FLOAT, [1], [0.5]),
}


def small_graph(outputs, shape=("n", 3, 8, 8), name="pixels", **more):
    """A model of ours whose graph gives what `outputs` say: name -> (shape, values). `more`: metadata."""
    from onnx import TensorProto, helper

    makers = [
        helper.make_node("Constant", [], [output], value=helper.make_tensor(output, made, size, values))
        for output, (made, size, values) in outputs.items()
    ]
    gives = [helper.make_tensor_value_info(output, made, size) for output, (made, size, _) in outputs.items()]
    takes = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)]
    model = helper.make_model(
        helper.make_graph(makers, "g", takes, gives),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    facts = dict.fromkeys(("threshold", "map_threshold", "normal_mean", "normal_deviation"), "")
    facts |= {"heat_low": "0", "heat_high": "1"}
    facts |= {"grey_low": "", "grey_high": "", "tiles": "", "settings": "{}"}
    facts |= {"fdsl_format": graph.FORMAT, "image_size": "8", "reference_sizes": "[]"}
    facts |= {"reference_statistics": "[]", **more}
    facts["digest"] = facts_digest(facts)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return model


def test_a_small_graph_is_taken(tmp_path):
    onnx.save(small_graph(RIGHT), tmp_path / "small.onnx")
    assert graph.Graph(tmp_path / "small.onnx").predict(PHOTO, "1.png").score == 0.5


FACTS = [
    {"image_size": "9" * 30},
    {"threshold": "nan"},
    {"tiles": "[" * 100_000},
    {"settings": None},
    {"digest": None},
    {"digest": "\x1b[2J"},
    {"fdsl_format": "3\n\x1b[2J"},
    {"fdsl_format": "1" * 10_000},
]


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: json.dumps(facts)[:40])
def test_a_file_whose_metadata_was_changed_is_refused(tmp_path, facts):
    model = small_graph(RIGHT)
    entries = {entry.key: entry.value for entry in model.metadata_props} | facts
    del model.metadata_props[:]
    for key, value in entries.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ConfigError) as raised:
        graph.Graph(tmp_path / "odd.onnx")
    sentence = str(raised.value)
    assert "odd.onnx" in sentence and sentence.isprintable() and len(sentence) < 600


TILES = {"width": 8, "height": 8, "origins": [[0, 0]]}


FORGED = [
    *({name: value} for name in FIELDS for value in ("NaN", "1e400", "9" * 5000, "true", "x", "{}", "[[]")),
    *({name: value} for name in ("image_size", "heat_low") for value in ("", "-1e30", "[1]")),
    *({"reference_sizes": value} for value in ("[[0, 0]]", "[[1]]", '[["a", "b"]]', "[1]", "null")),
    *({"reference_statistics": value} for value in ("[[1, 2]]", "1", json.dumps([[1e308] * PER_IMAGE]))),
    *({"settings": value} for value in ("[]", "1", '{"a": 1e999}', '{"a":' * 500 + "1" + "}" * 500)),
    *({"tensors": value} for value in ("[" * 100_000, "1", '{"file": "../x", "digest": ""}')),
    *({"tiles": json.dumps(TILES | one)} for one in ({"width": 0}, {"height": 10**9}, {"origins": [[5, 0]]})),
    {"tiles": "[1]"},
    {"heat_low": "0.5", "heat_high": "0.5"},
]


@pytest.mark.parametrize("facts", FORGED, ids=lambda facts: json.dumps(facts)[:40])
def test_metadata_that_another_program_wrote_with_a_right_digest_is_refused(tmp_path, facts):
    shape = ("n", 2, 3, 8, 8) if "tiles" in facts else ("n", 3, 8, 8)
    onnx.save(small_graph(RIGHT, shape, **facts), tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match="its metadata is not whole") as raised:
        graph.Graph(tmp_path / "odd.onnx")
    assert str(raised.value).isprintable() and len(str(raised.value)) < 600


def test_tiles_that_the_graph_takes_are_read(tmp_path):
    onnx.save(small_graph(RIGHT, ("n", 2, 3, 8, 8), tiles=json.dumps(TILES)), tmp_path / "tiles.onnx")
    assert graph.Graph(tmp_path / "tiles.onnx").tiles == (8, 8, ((0, 0),))


@pytest.mark.parametrize(
    "model",
    [
        small_graph(RIGHT, shape=("n", 3, 9, 9)),
        small_graph(RIGHT, name="image"),
        small_graph({"score": RIGHT["score"], "base_score": RIGHT["score"]}),
        small_graph({**RIGHT, "map": (FLOAT, [1, 2, 3], [0] * 6)}),
        small_graph({**RIGHT, "map": (FLOAT, [1], [0])}),
        small_graph({**RIGHT, "map": (FLOAT, [1, 0, 0], [])}),
        small_graph({**RIGHT, "map": (WHOLE, [1, 2, 2], [0] * 4)}),
        small_graph({**RIGHT, "score": (FLOAT, [1, 2], [0, 0])}),
        small_graph({**RIGHT, "score": (FLOAT, [1], [float("nan")])}),
        small_graph({**RIGHT, "window_score": (FLOAT, [1, 2], [0, 0])}),
    ],
)
def test_a_graph_that_is_no_detectors_is_one_sentence(tmp_path, model):
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises((ConfigError, DataError)) as raised:
        graph.Graph(tmp_path / "odd.onnx").predict(PHOTO, "1.png")
    assert str(raised.value).isprintable() and "\n" not in str(raised.value)


def test_a_file_whose_texts_are_none_is_one_sentence_and_nothing_is_printed(tmp_path, capfd):
    content = small_graph(RIGHT).SerializeToString()
    (tmp_path / "odd.onnx").write_bytes(content.replace(b"Constant", b"Con\xfbtant"))
    with pytest.raises(ConfigError, match="is not a whole ONNX file") as raised:
        graph.Graph(tmp_path / "odd.onnx")
    assert str(raised.value).isprintable() and capfd.readouterr().out == ""
