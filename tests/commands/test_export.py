"""export.py: what onnxruntime says of a photograph is what the detector says; what cannot be is one
sentence."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import export
import predict
from fdsl.api import AnomalyDetector
from fdsl.export import export_detector, onnx_file
from fdsl.export.inspect_archive import write_archive
from tests.support.constants import REAL_BACKBONE
from tests.support.predictions import BACKBONE_OPTIONS, RUNTIME, rows
from utils.config import WindowConfig
from utils.errors import ConfigError, ModelError
from utils.lock import locked

onnxruntime = pytest.importorskip("onnxruntime", reason="export needs requirements-export.txt")
onnx = pytest.importorskip("onnx", reason="export needs requirements-export.txt")
pytest.importorskip("onnxscript", reason="export needs requirements-export.txt")
from data.images import photograph_to_array  # noqa: E402
from deploy import graph  # noqa: E402
from deploy import inspect_command as on_the_line  # noqa: E402
from utils.tile_layout import Crops  # noqa: E402

CPU = {"device": "cpu", "precision": "fp32"}


def photographs_of(place):
    return [place / "parts" / name for name in ("2.png", "10.png", "line b/x,1.png", "line b/deep/7.JPG")]


def resized(file, facts):
    """A photograph (1,[1+T,]3,S,S) uint8 as every program that runs the graph resizes it."""
    tiles = Crops(**json.loads(facts["tiles"])) if facts["tiles"] else None
    with Image.open(file) as photo:
        return photograph_to_array(photo.convert("RGB"), int(facts["image_size"]), tiles)[None]


def assert_same(file, detector, files):
    """onnxruntime gives the detector's map, scores and decision of photographs, alone and together."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    pixels = [resized(photo, facts) for photo in files]
    names = [output.name for output in session.get_outputs()]
    together = dict(zip(names, session.run(None, {"pixels": np.concatenate(pixels)})))
    for number, (photo, one) in enumerate(zip(files, pixels)):
        wanted, given = detector.predict(photo), dict(zip(names, session.run(None, {"pixels": one})))
        for found in (given, {name: value[number : number + 1] for name, value in together.items()}):
            np.testing.assert_allclose(found["map"][0], wanted.patch_map, rtol=0, atol=1e-4)
            assert abs(found["score"][0] - wanted.score) < 1e-4
            assert abs(found["base_score"][0] - wanted.base_score) < 1e-4
            assert ("window_score" in found) == (wanted.window_score is not None)
            assert graph.Graph(file).predict(Image.open(photo).convert("RGB"), "").reason == wanted.reason
            if facts["threshold"]:
                assert (float(found["score"][0]) >= float(facts["threshold"])) == wanted.is_anomalous
    return facts


@pytest.mark.parametrize(
    "method, windows, references",
    (
        pytest.param("subspace", WindowConfig("nan"), 2, id="subspace"),
        pytest.param("plus", WindowConfig("nan", tiles=2), 1, id="plus-tiles", marks=pytest.mark.slow),
        pytest.param("both", WindowConfig("mul", 4, 3), 4, id="both-windows", marks=pytest.mark.slow),
    ),
)
def test_onnxruntime_says_what_the_detector_says(
    place, checkpoint, tiny_configs, tmp_path, method, windows, references
):
    encoder = {**BACKBONE_OPTIONS, "model_config": tiny_configs, **CPU}
    if method == "both":
        made = AnomalyDetector.from_checkpoint(checkpoint, method=method, **vars(windows), **encoder)
    else:
        made = AnomalyDetector.from_backbone(method=method, **vars(windows), **encoder)
    good = [*sorted((place / "good").iterdir()), place / "parts" / "2.png"]
    made.fit(good[:references])
    made.save(tmp_path / "part.safetensors")
    file = tmp_path / "out" / "part.onnx"
    assert export.main(["--detector", str(tmp_path / "part.safetensors"), "--output", str(file)]) == 0
    written = sorted(entry.name for entry in file.parent.iterdir())
    assert written == ["inspect.pyz", "part.onnx", "serve.pyz"]
    facts = assert_same(file, made, photographs_of(place))
    assert (facts["method"], facts["fusion"]) == (method, windows.winmode)
    assert float(facts["threshold"]) == made.threshold.score
    assert float(facts["map_threshold"]) == made.threshold.pixel_threshold
    settings = json.loads(facts["settings"])
    assert settings["windows"]["win_size"] == windows.win_size and settings["references"] == references


@pytest.mark.slow
@pytest.mark.parametrize("windows", [WindowConfig("nan", tiles=2), WindowConfig("mul", 4, 4)])
def test_a_region_of_interest_is_in_the_graph(place, tiny_configs, tmp_path, windows):
    half = np.zeros((60, 80), np.uint8)
    half[:, :40] = 255
    Image.fromarray(half).save(tmp_path / "left.png")
    encoder = {**BACKBONE_OPTIONS, "model_config": tiny_configs, **vars(windows), **CPU}
    made = AnomalyDetector.from_backbone(roi=tmp_path / "left.png", **encoder)
    made.fit(place / "good", rotations=1)
    export_detector.export_detector(made, tmp_path / "part.onnx")
    assert_same(tmp_path / "part.onnx", made, photographs_of(place))
    half = made.grid // 2
    assert all((found.patch_map[:, half:] == 0).all() for found in made.predict(photographs_of(place)))


def test_what_a_killed_export_left_of_an_archive_is_removed(tmp_path):
    (tmp_path / ".inspect.pyz.08c62d8c.tmp").write_bytes(b"half")
    write_archive(tmp_path / "inspect.pyz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["inspect.pyz"]


def test_attention_and_gelu_are_one_operator_each(detector, tmp_path):
    export_detector.export_detector(AnomalyDetector.load(detector, device="cpu"), tmp_path / "part.onnx")
    nodes = onnx.load(tmp_path / "part.onnx").graph.node
    operators = [node.op_type for node in nodes]
    assert operators.count("MultiHeadAttention") == operators.count("Gelu") == max(BACKBONE_OPTIONS["layers"])
    assert not {"Softmax", "Erf", "ScatterElements"} & set(operators)


@pytest.mark.slow
def test_on_the_line_the_rows_are_those_of_predict(place, detector, tmp_path):
    """deploy/ within this process; tests/deploy/test_inspect_archive.py runs it alone."""
    export.main(["--detector", str(detector), "--output", str(tmp_path / "part.onnx")])
    given = str(place / "parts"), "--output"
    assert on_the_line.main([str(tmp_path / "part.onnx"), *given, str(tmp_path / "ours")]) == 0
    predict.main(["--detector", str(detector), "--input", *given, str(tmp_path / "theirs"), *RUNTIME])
    ours, theirs = (
        {row["image"]: row for row in rows(tmp_path / name / "scores.csv")} for name in ("ours", "theirs")
    )
    assert len(ours) == 4 and len({row["anomalous"] for row in ours.values()}) == 2
    for name, row in theirs.items():
        assert ours[name]["anomalous"] == row["anomalous"]
        assert abs(float(ours[name]["score"]) - float(row["score"])) < 1e-4


@pytest.mark.slow
def test_operators_of_the_standard_alone(place, detector, tmp_path):
    file = tmp_path / "part.onnx"
    export.main(["--detector", str(detector), "--output", str(file), "--operators", "onnx"])
    assert {node.domain for node in onnx.load(file).graph.node} == {""}
    facts = assert_same(file, AnomalyDetector.load(detector, device="cpu"), photographs_of(place))
    assert facts["operators"] == "onnx"


@pytest.mark.slow
def test_halved_weights_take_half_the_room(place, detector, tmp_path):
    file = tmp_path / "part.onnx"
    export.main(["--detector", str(detector), "--output", str(file), "--weights", "fp16"])
    kept = onnx.load(file).graph.initializer
    large = {one.data_type for one in kept if np.prod(one.dims) >= onnx_file.WORTH_HALVING}
    assert onnx.TensorProto.FLOAT16 in large and onnx.TensorProto.FLOAT not in large
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["weights"] == "float16"
    photo = photographs_of(place)[2]
    patch_map, score, *_ = session.run(None, {"pixels": resized(photo, facts)})
    wanted = AnomalyDetector.load(detector, device="cpu").predict(photo)
    np.testing.assert_allclose(patch_map[0], wanted.patch_map, rtol=0, atol=5e-3)
    assert abs(score[0] - wanted.score) < 5e-3


@pytest.mark.slow
def test_real_photographs_and_weights(shared, tmp_path):
    """DeiT-Tiny at 448 px on bottles: the same maps, scores and decisions."""
    made = AnomalyDetector.from_backbone(method="nearest", **REAL_BACKBONE, **CPU)
    bottle = shared / "data" / "mvtec" / "bottle"
    made.fit(sorted((bottle / "train" / "good").iterdir())[:2], false_alarm_rate=None)
    files = [sorted(kind.iterdir())[0] for kind in (bottle / "test").iterdir()]
    scores = [found.score for found in made.predict(files)]
    made.set_threshold(sum(scores) / len(scores))
    export_detector.export_detector(made, tmp_path / "bottle.onnx")
    assert_same(tmp_path / "bottle.onnx", made, files)


@pytest.fixture
def of_nothing(monkeypatch):
    """Tracing is left out: what is saved is a few bytes under the right names."""

    class Program:
        class model:
            metadata_props: dict = {}

            class graph:
                initializers: dict = {}

        def save(self, file, external_data):
            file.write_bytes(b"graph")
            if external_data:
                file.with_name(f"{file.name}.data").write_bytes(b"tensors")

    monkeypatch.setattr(onnx_file, "traced", lambda graph, standard: Program())
    monkeypatch.setattr(onnx_file, "difference", lambda file, graph: 0.0)


def test_beyond_two_gibibytes_tensors_lie_beside_the_graph(detector, place, tmp_path, monkeypatch, logged):
    monkeypatch.setattr(onnx_file, "LARGEST", -1)
    file, beside = tmp_path / "part.onnx", tmp_path / "part.onnx.data"
    export.main(["--detector", str(detector), "--output", str(file), "--device", "cpu"])
    assert {file.name for file in tmp_path.iterdir()} == {
        *("inspect.pyz", "serve.pyz"),
        *("part.onnx", "part.onnx.data"),
    }
    assert all(f"step {number} of 3: " in logged() for number in (1, 2, 3))
    assert "part.onnx.data, which belongs next to it" in logged()
    with Image.open(place / "good/1.png") as photo:
        found = graph.Graph(file).predict(photo.convert("RGB"), "1.png")
    assert found.score == pytest.approx(
        AnomalyDetector.load(detector).predict(place / "good/1.png").score, abs=1e-6
    )
    content = bytearray(beside.read_bytes())
    for place in (0, len(content) // 2, len(content) // 3, -1):  # as that of another export, of the same size
        changed = bytearray(content)
        changed[place] ^= 1
        beside.write_bytes(changed)
        with pytest.raises(ConfigError, match="part.onnx.data is not the tensors' file that belongs to"):
            graph.Graph(file)


def test_what_a_killed_export_left_is_removed(detector, tmp_path, of_nothing):
    left = tmp_path / ".part.onnx.a1b2c3d4.tmp"
    left.mkdir()
    (left / "part.onnx").write_bytes(b"half")
    (tmp_path / ".part.onnx.mine").write_bytes(b"mine")
    export.main(["--detector", str(detector), "--output", str(tmp_path / "part.onnx")])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".part.onnx.mine", "inspect.pyz"),
        *("part.onnx", "serve.pyz"),
    ]


def test_two_exports_to_one_file(detector, tmp_path, of_nothing):
    with (
        locked(tmp_path / ".part.onnx.lock", "it", "go"),
        pytest.raises(ConfigError, match="being written by"),
    ):
        export.main(["--detector", str(detector), "--output", str(tmp_path / "part.onnx")])


def test_a_device_that_is_not_there_is_one_sentence(detector, tmp_path):
    with pytest.raises(ConfigError, match="--device"):
        export.main(["--detector", str(detector), "--output", str(tmp_path / "a.onnx"), "--device", "x"])


def test_a_graph_that_says_something_else_is_not_written(detector, tmp_path, of_nothing, monkeypatch):
    file = tmp_path / "part.onnx"
    file.write_bytes(b"earlier")
    monkeypatch.setattr(onnx_file, "difference", lambda file, graph: 0.01)
    with pytest.raises(ModelError, match="differ by 1.0e-02 from the detector's.*nothing was written"):
        export.main(["--detector", str(detector), "--output", str(file)])
    assert file.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_what_torch_cannot_trace_is_one_sentence(detector, tmp_path, monkeypatch):
    def no_graph(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("Failed") from ValueError("a size\nis not known")

    monkeypatch.setattr("torch.onnx.export", no_graph)
    with pytest.raises(ModelError, match=r"cannot be written as a graph \(a size is not known\) by PyTorch"):
        export.main(["--detector", str(detector), "--output", str(tmp_path / "part.onnx")])
    assert not list(tmp_path.iterdir())


def test_few_patches_may_match_another_one_that_is_as_near():
    maps = torch.rand(2, 20, 20)
    other = maps + 1e-6
    other[1, 3, 4] += 0.2
    assert onnx_file.gap_of(maps, other) < 2e-6
    other[1, 5] += 0.2
    assert onnx_file.gap_of(maps, other) > 0.1
    other[0, 0, 0] = torch.nan
    assert onnx_file.gap_of(maps, other) == onnx_file.gap_of(maps[0, 0], other[0, 0]) == float("inf")
    assert onnx_file.gap_of(torch.zeros(2), torch.tensor([0, 0.01])) == pytest.approx(0.01)


def test_a_full_disk_leaves_nothing_behind(detector, tmp_path, of_nothing, monkeypatch):
    def full(file, graph):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_file, "difference", full)
    with pytest.raises(OSError) as raised:
        export.main(["--detector", str(detector), "--output", str(tmp_path / "part.onnx")])
    assert raised.value.filename == str(tmp_path / "part.onnx") and not list(tmp_path.iterdir())


def test_missing_packages_are_one_sentence(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match="^Export needs no_such_package: pip install -r requirements-ex"):
        export.main(["--detector", str(detector), "--output", str(tmp_path / "part.onnx")])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(place, tiny_configs, tmp_path):
    made = AnomalyDetector.from_backbone(method="batch", model_config=tiny_configs, **BACKBONE_OPTIONS, **CPU)
    made.fit(test_images=[place / "parts/2.png", place / "parts/10.png"])
    with pytest.raises(ModelError, match="compares the test images .* cannot be exported"):
        export_detector.export_detector(made, tmp_path / "part.onnx")
    assert not list(tmp_path.iterdir())


def test_a_detector_that_knows_nothing_is_refused(tiny_configs, tmp_path):
    made = AnomalyDetector.from_backbone(model_config=tiny_configs, **BACKBONE_OPTIONS, **CPU)
    with pytest.raises(ModelError, match="call fit"):
        export_detector.export_detector(made, tmp_path / "part.onnx")


@pytest.mark.parametrize("output, words", (("part", "does not end in .onnx"), ("part.onnx", "is a folder")))
def test_a_wrong_output_is_refused(detector, tmp_path, output, words, capsys):
    (tmp_path / "part.onnx").mkdir()
    with pytest.raises(SystemExit) as ended:
        export.main(["--detector", str(detector), "--output", str(tmp_path / output)])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_a_file_that_is_no_detector_is_refused(tmp_path):
    shutil.copyfile(__file__, tmp_path / "no.safetensors")
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        export.main(["--detector", str(tmp_path / "no.safetensors"), "--output", str(tmp_path / "a.onnx")])
