"""ONNX files that are no detector's, or were changed, are refused in one sentence."""

import json

import pytest
from PIL import Image

from utils.errors import ConfigError, DataError
from utils.image_statistics import PER_IMAGE
from utils.onnx_bytes import seal

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")


from deploy import graph  # noqa: E402
from deploy.metadata import FIELDS  # noqa: E402

PHOTO = Image.new("RGB", (80, 60), (90, 120, 150))


FLOAT, WHOLE, TEXT = 1, 7, 8  # onnx.TensorProto


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
    facts = dict.fromkeys(("threshold", "map_threshold", "normal_mean", "normal_deviation", "map_median"), "")
    facts |= {"heat_low": "0", "heat_high": "1"}
    facts |= {"grey_low": "", "grey_high": "", "tiles": "", "settings": "{}"}
    facts |= {"fdsl_format": graph.FORMAT, "image_size": "8", "reference_sizes": "[]"}
    facts |= {"reference_statistics": "[]", **more}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return model


def save(model, file):
    """Writes a model as export.py does."""
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    seal(file)


def test_a_small_graph_is_taken(tmp_path):
    save(small_graph(RIGHT), tmp_path / "small.onnx")
    assert graph.Graph(tmp_path / "small.onnx").predict(PHOTO, "1.png").score == 0.5


FACTS = [
    {"image_size": "9" * 30},
    {"threshold": "nan"},
    {"map_median": "-1"},
    {"tiles": "[" * 100_000},
    {"settings": None},
    {"fdsl_format": None},
    {"fdsl_format": "3\n\x1b[2J"},
    {"fdsl_format": "1" * 10_000},
]


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: json.dumps(facts)[:40])
def test_a_file_with_other_metadata_is_refused(tmp_path, facts):
    model = small_graph(RIGHT)
    entries = {entry.key: entry.value for entry in model.metadata_props} | facts
    del model.metadata_props[:]
    for key, value in entries.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    save(model, tmp_path / "odd.onnx")
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
def test_metadata_that_another_program_wrote_is_refused(tmp_path, facts):
    shape = ("n", 2, 3, 8, 8) if "tiles" in facts else ("n", 3, 8, 8)
    save(small_graph(RIGHT, shape, **facts), tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match="its metadata is not whole") as raised:
        graph.Graph(tmp_path / "odd.onnx")
    assert str(raised.value).isprintable() and len(str(raised.value)) < 600


def test_tiles_that_the_graph_takes_are_read(tmp_path):
    save(small_graph(RIGHT, ("n", 2, 3, 8, 8), tiles=json.dumps(TILES)), tmp_path / "tiles.onnx")
    assert graph.Graph(tmp_path / "tiles.onnx").tiles == (8, 8, ((0, 0),))


def with_a_loop():
    """A model whose score is that of a loop without an end."""
    from onnx import TensorProto, helper

    model = small_graph(RIGHT)
    (score,) = (node for node in model.graph.node if node.output == ["score"])
    score.output[0] = "first"
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "sum"], ["next"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("sum", FLOAT, [1])],
        [value("on", TensorProto.BOOL, []), value("next", FLOAT, [1])],
    )
    truth = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.node.append(helper.make_node("Constant", [], ["yes"], value=truth))
    model.graph.node.append(helper.make_node("Loop", ["", "yes", "first"], ["score"], body=body))
    return model


def with_a_function():
    """A model with a function, of which onnxruntime would write out every call."""
    from onnx import helper

    model, opset = small_graph(RIGHT), [helper.make_opsetid("", 18)]
    same = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [same], opset))
    return model


@pytest.mark.parametrize("place", [40, -40, -1], ids=["its graph", "its metadata", "the checksum"])
def test_a_file_of_which_a_byte_was_changed_is_refused(tmp_path, place):
    save(small_graph(RIGHT), tmp_path / "part.onnx")
    content = bytearray((tmp_path / "part.onnx").read_bytes())
    content[place] ^= 1
    (tmp_path / "part.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match="part.onnx is damaged: its content is not what was written"):
        graph.Graph(tmp_path / "part.onnx")


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
        small_graph({**RIGHT, "score": (FLOAT, [], [0.5])}),
        small_graph({**RIGHT, "score": (TEXT, [1], [b"x"])}),
        small_graph({**RIGHT, "map": (FLOAT, [0, 2, 2], [])}),
        small_graph({**RIGHT, "map": (FLOAT, [2, 2, 2], [0] * 8)}),
        small_graph({**RIGHT, "map": (FLOAT, [1, 9000, 1], [0] * 9000)}),
        with_a_loop(),
        with_a_function(),
        small_graph(RIGHT).SerializeToString()[:-40],
        b"no graph" * 100,
        b"\xff" * 1000,
    ],
)
def test_a_graph_that_is_no_detectors_is_one_sentence(tmp_path, model):
    save(model, tmp_path / "odd.onnx")
    with pytest.raises((ConfigError, DataError)) as raised:
        graph.Graph(tmp_path / "odd.onnx").predict(PHOTO, "1.png")
    assert str(raised.value).isprintable() and "\n" not in str(raised.value)


def test_a_file_whose_texts_are_none_is_one_sentence_and_nothing_is_printed(tmp_path, capfd):
    save(small_graph(RIGHT).SerializeToString().replace(b"Constant", b"Con\xfbtant"), tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match="is not a whole ONNX file") as raised:
        graph.Graph(tmp_path / "odd.onnx")
    assert str(raised.value).isprintable() and capfd.readouterr().out == ""
