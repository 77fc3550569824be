"""The Python API: inputs of every kind, methods, thresholds, saved detectors."""

import pickle
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import _get_current_function_mode

from data.images import open_image
from data.photographs import as_photograph, pixel_digest
from fdsl.api import AnomalyDetector, ConfigError, DataError, ModelError
from fdsl.detector_state import normal_scores_of, save_detector
from fdsl.store.checkpoint import load_checkpoint, save_checkpoint
from fdsl.store.detector_metadata import FORMAT_VERSION, DetectorMetadata
from models.backbones.open_clip import OpenClipBackbone
from models.methods.fdsl import Fdsl
from models.methods.nearest import nearest_distance
from models.methods.registry import METHODS
from tests.support.photographs import texture
from tests.support.run_config import heads_of
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.image_statistics import DIFFERENT, reason_of, statistics_of

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "model": "ViT-tiny-test",
    "pretrained": "none",
    "layers": (1, 3),
    "image_size": 64,
    "device": "cpu",
    "precision": "fp32",
}
LFE = WindowConfig("mul", 4, 3, 0.5)


@pytest.fixture(scope="module")
def configs(tiny_configs):
    return {**TINY, "model_config": tiny_configs}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_backbone):
    """Heads with random weights, as train.py would store them."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("checkpoint") / "visa.safetensors"
    encoder = {name: TINY[name] for name in ("model", "pretrained", "layers", "image_size")}
    save_checkpoint(
        file,
        Fdsl(32, 2).state_dict(),
        heads_of(BackboneConfig(**encoder), MethodConfig(), tiny_backbone.fingerprint, "visa"),
    )
    return file


@pytest.fixture(scope="module")
def nearest(configs):
    detector = AnomalyDetector.from_backbone(**configs)
    detector.fit([texture(1), texture(2), texture(3)])
    return detector


def from_checkpoint(checkpoint, tiny_configs, **more):
    return AnomalyDetector.from_checkpoint(
        checkpoint, model_config=tiny_configs, device="cpu", **{"precision": "fp32", **vars(LFE), **more}
    )


def test_the_common_case_finds_the_defect_and_passes_the_good(nearest):
    good, bad = nearest.predict([texture(8), texture(9, defect=True)])
    assert bad.score > good.score
    assert bad.is_anomalous and not good.is_anomalous
    assert bad.anomaly_map.shape == (60, 80) and bad.anomaly_map.dtype == np.float32
    row, column = np.unravel_index(bad.anomaly_map.argmax(), (60, 80))
    assert 24 <= row <= 52 and 42 <= column <= 74
    box = bad.boxes[0]
    assert box.x < 66 and box.x + box.width > 50 and box.y < 46 and box.y + box.height > 30
    assert good.boxes == []


def test_a_prediction_carries_the_statistics_that_its_reason_is_from(nearest):
    photographs = [as_photograph(texture(8)), Image.new("RGB", (80, 60))]
    found = nearest.predict(photographs)
    for one, image in zip(found, nearest.to_batch(photographs).whole.numpy()):
        assert np.array_equal(one.statistics, statistics_of(image))
        assert one.reason == reason_of(one.statistics, nearest.references.statistics)
    assert [bool(one.reason) for one in found] == [False, True]


@pytest.mark.parametrize("method", ["plus", "nearest"])
def test_a_picture_that_differs_nearly_everywhere_is_anomalous_below_the_threshold(configs, method):
    """Its score alone would pass it. The reason follows the normal images that are known."""
    detector = AnomalyDetector.from_backbone(**configs, method=method)
    detector.fit([texture(1), texture(2), texture(3)])
    dark = texture(8) // 5
    detector.set_threshold(detector.predict(dark).score * 1.01)
    assert [one.reason for one in detector.predict([dark, texture(8)])] == [DIFFERENT, ""]
    assert detector.predict(dark).is_anomalous
    found, normal = detector.predict(dark), detector.decision.normal
    further = replace(normal, map_median=2 * normal.map_median)
    detector.decision = replace(detector.decision, normal=further)
    assert detector.reason(found) == detector.predict(dark).reason == ""


def test_maps_that_are_no_distances_give_no_reason(checkpoint, tiny_configs):
    """Those of trained heads, of residuals of a subspace, and those fused with windows."""
    for more in ({"winmode": "nan"}, {"method": "subspace", "winmode": "nan"}, {"method": "nearest"}):
        detector = from_checkpoint(checkpoint, tiny_configs, **more)
        detector.fit([texture(1), texture(2), texture(3)])
        detector.set_threshold(1.0)
        assert detector.decision.normal is not None and not detector.predict(texture(8) // 5).reason


def test_an_unknown_option_is_named_with_the_nearest_one():
    with pytest.raises(TypeError, match="has no option imagesize; did you mean image_size?"):
        AnomalyDetector.from_backbone(imagesize=64)
    with pytest.raises(TypeError, match="has no option use_nam; "):
        AnomalyDetector.from_backbone(use_nam=0)
    with pytest.raises(ConfigError, match="align is 'best', which is not one of mulmax, diff2"):
        AnomalyDetector.from_backbone(align="best")
    assert {"use_nam", "leave_out"} <= set(signature(AnomalyDetector.from_checkpoint).parameters)
    assert "leave_out" in AnomalyDetector.from_backbone.__doc__


def test_every_kind_of_image_gives_the_same_scores(nearest, tmp_path):
    photo = texture(5, defect=True)
    file = tmp_path / "part.png"
    Image.fromarray(photo).save(file)
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    kinds = [
        file,
        str(file),
        Image.open(file),
        photo,
        tensor,
        tensor.float() / 255,
        Image.fromarray(photo).convert("RGBA"),
    ]
    scores = {nearest.predict(kind).score for kind in kinds}
    assert len(scores) == 1
    several = nearest.predict(kinds[:3])
    assert [found.score for found in several] == pytest.approx(list(scores) * 3, abs=1e-6)
    for stack in (np.stack([photo, photo]), torch.stack([tensor, tensor]), tmp_path, (k for k in kinds[:2])):
        assert isinstance(nearest.predict(stack), list)
    assert nearest.predict([]) == []


def test_grey_and_odd_modes_are_read_like_files(nearest, tmp_path):
    grey = texture(5)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert nearest.predict(grey).score == nearest.predict(tmp_path / "grey.png").score
    turned = Image.fromarray(texture(5))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert (
        nearest.predict(Image.open(tmp_path / "turned.jpg")).size
        == open_image(tmp_path / "turned.jpg").size
        == (60, 80)
    )


@pytest.mark.parametrize(
    "image, reported",
    [
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), "array"),
        (torch.full((3, 8, 8), 2.0), "0 to 1"),
        (torch.zeros(8, 8), "tensor"),
        (torch.full((3, 8, 8), torch.nan), "0 to 1"),
        ([3], "int"),
        (3, "int"),
        ("missing.png", "missing"),
    ],
)
def test_what_is_no_photograph_is_refused_in_words(nearest, image, reported):
    with pytest.raises(DataError, match=reported):
        nearest.predict(image)


@pytest.mark.parametrize("when", ["fitting", "predicting"])
def test_a_map_that_is_not_finite_is_never_called_good(checkpoint, tiny_configs, monkeypatch, when):
    """As float16 leaves one where it overflows."""
    detector = from_checkpoint(checkpoint, tiny_configs)
    encode = OpenClipBackbone.encode

    def overflowing(self, images, *more):
        found = encode(self, images, *more)
        found.tokens[0, 0, 0, 0] = torch.inf
        return found

    narrow = from_checkpoint(checkpoint, tiny_configs, precision="bf16")
    narrow.fit([texture(1), texture(2)], false_alarm_rate=None)
    if when == "predicting":
        detector.fit([texture(1), texture(2)])
    monkeypatch.setattr(OpenClipBackbone, "encode", overflowing)
    with pytest.raises(ModelError, match="not finite in float32; check the photograph"):
        detector.fit([texture(1), texture(2)]) if when == "fitting" else detector.predict([texture(8)])
    assert (detector.threshold is None) == (when == "fitting")
    if when == "predicting":
        with pytest.raises(
            ModelError,
            match="photograph 1 of 2: .* not finite in bfloat16; make the detector with --precision fp32",
        ):
            narrow.predict([texture(8), texture(9)])


def test_a_reference_given_twice_counts_once(configs, logged):
    """Held out against itself it would score nothing at all, and the threshold would be far too high."""
    detector = AnomalyDetector.from_backbone(**configs)
    detector.fit([texture(1), texture(2), texture(3)])
    wanted = detector.threshold
    detector.fit([texture(1), texture(2), texture(1), texture(3), texture(3)])
    assert detector.threshold == wanted and detector.config.references == 3
    assert "image 3 shows the same as image 1" in logged() and "image 5 shows the same as image 4" in logged()


def test_where_memory_is_short_fewer_windows_are_encoded_at_once(
    checkpoint, tiny_configs, monkeypatch, logged
):
    wanted = from_checkpoint(checkpoint, tiny_configs)
    encode = OpenClipBackbone.encode

    def small_memory(self, images, *more):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return encode(self, images, *more)

    found = from_checkpoint(checkpoint, tiny_configs)
    for detector in (wanted, found):
        if detector is found:
            monkeypatch.setattr(OpenClipBackbone, "encode", small_memory)
        detector.fit([texture(1)])
    photo = texture(9, defect=True)
    assert "9 windows at once: going on with 4" in logged() and "going on with 1 " in logged().replace(
        ".", " "
    )
    assert found.threshold.score == pytest.approx(wanted.threshold.score, abs=1e-5)
    lean = found.predict([photo, texture(8)])
    monkeypatch.undo()
    assert [one.score for one in lean] == pytest.approx(
        [one.score for one in wanted.predict([photo, texture(8)])], abs=1e-5
    )


def test_slips_are_answered_in_words(configs):
    with pytest.raises(ConfigError, match="--precision float32 is not one of auto, fp32"):
        AnomalyDetector.from_backbone(**{**configs, "precision": "float32"})
    with pytest.raises(TypeError, match="has no option windows; did you mean"):
        AnomalyDetector.from_backbone(**configs, windows={"winmode": "nan"})
    detector = AnomalyDetector.from_backbone(**configs)
    with pytest.raises(ModelError, match="fit.. before save"):
        detector.save("never.safetensors")
    with pytest.raises(ConfigError, match="rotations is 0"):
        detector.fit(texture(1), rotations=0)
    with pytest.raises(ConfigError, match="not a finite number"):
        detector.set_threshold("a")


def test_no_references_and_prediction_before_fitting_are_refused(configs):
    detector = AnomalyDetector.from_backbone(**configs)
    with pytest.raises(ModelError, match="fit"):
        detector.predict(texture(1))
    with pytest.raises(DataError, match="references: there is no photograph"):
        detector.fit([])


def test_nearest_distance_is_half_the_cosine_distance():
    tokens, normal = torch.nn.functional.normalize(torch.randn(2, 50, 16), dim=-1)
    expected = (1 - (tokens * normal).sum(-1)) / 2
    assert torch.allclose(nearest_distance((tokens - normal).abs()), expected, atol=1e-6)


def test_a_reference_itself_scores_nothing(nearest):
    assert nearest.predict(texture(1)).score == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_the_order_of_test_images_nor_their_batches_matter(
    checkpoint, tiny_configs, configs, method, precision
):
    encoder = {**configs, "precision": precision}
    if METHODS[method].needs_heads:
        detector = from_checkpoint(checkpoint, tiny_configs, method=method, precision=precision)
    else:
        detector = AnomalyDetector.from_backbone(method=method, **encoder)
    photos = [texture(seed, defect=seed == 3) for seed in range(3, 8)]
    if detector.method.needs_references:
        detector.fit([texture(1), texture(2)], rotations=2, false_alarm_rate=None)
    elif detector.takes_test_images:
        detector.fit(test_images=photos)
    alone = detector.predict(photos, batch_size=1)
    for size, order in ((2, [0, 1, 2, 3, 4]), (5, [0, 1, 2, 3, 4]), (2, [4, 2, 0, 3, 1])):
        together = detector.predict([photos[number] for number in order], batch_size=size)
        for number, found in zip(order, together):
            assert found.score == pytest.approx(alone[number].score, abs=1e-6)
            np.testing.assert_allclose(found.patch_map, alone[number].patch_map, rtol=0, atol=1e-6)


def test_rotations_recognise_a_rotated_part(configs):
    """Half of the patches of a rotated copy are in the memory bank: those find themselves."""
    generator = np.random.default_rng(0)
    part = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    rotated = np.rot90(part).copy()
    maps = []
    for rotations in (1, 4):
        detector = AnomalyDetector.from_backbone(method="nearest", **configs)
        detector.fit(part, rotations=rotations, false_alarm_rate=None)
        maps.append(detector.predict(rotated).maps.base)
    assert (maps[1] < 0.01 * maps[0]).mean() == 0.5


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].added_by])
@pytest.mark.parametrize("references", [1, 2])
def test_a_saved_detector_gives_the_same_scores_to_the_last_bit(
    checkpoint, tiny_configs, tmp_path, method, references
):
    detector = from_checkpoint(checkpoint, tiny_configs, method=method)
    detector.fit([texture(seed) for seed in range(references)], rotations=2, false_alarm_rate=0.05)
    photos = [texture(7), texture(8, defect=True), texture(9)]
    before = detector.predict(photos)
    detector.save(tmp_path / "part.safetensors")
    again = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    for old, new in zip(before, again.predict(photos)):
        assert (old.score, old.base_score, old.window_score, old.threshold, old.boxes) == (
            new.score,
            new.base_score,
            new.window_score,
            new.threshold,
            new.boxes,
        )
        assert np.array_equal(old.anomaly_map, new.anomaly_map)
        assert 0 <= new.anomaly_map.min() and new.anomaly_map.max() <= 1
    assert again.threshold == detector.threshold and again.heat_scale == detector.heat_scale
    again.calibrate(0.2)
    detector.calibrate(0.2)
    assert again.threshold == detector.threshold
    for name, saved in (("again", again), ("part", detector)):
        saved.save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "part.safetensors").read_bytes()


@pytest.mark.parametrize("index_memory", ["1", "window"])
def test_window_picks_are_saved_too(checkpoint, tiny_configs, tmp_path, monkeypatch, index_memory):
    monkeypatch.setattr("models.matching.candidates.PICKS", 2)
    windows = WindowConfig("mul", 4, 3, 0.5, index_memory=index_memory)
    detector = from_checkpoint(checkpoint, tiny_configs, **vars(windows))
    detector.fit([texture(1), texture(2)])
    detector.save(tmp_path / "part.safetensors")
    again = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    assert again.predict(texture(3)).score == detector.predict(texture(3)).score


def test_a_detector_of_a_gpu_goes_on_in_float32_on_a_cpu(checkpoint, tiny_configs, tmp_path):
    detector = from_checkpoint(checkpoint, tiny_configs)
    detector.fit([texture(1), texture(2)])
    narrow = {
        name: value.half() if name.endswith(".centred") else value
        for name, value in detector.tensors().items()
    }
    made = detector.config.detector
    made = replace(made, machine=replace(made.machine, precision="float16"))
    metadata = DetectorMetadata(FORMAT_VERSION, replace(detector.config, detector=made), None, ())
    save_detector(tmp_path / "gpu.safetensors", narrow, metadata)
    again = AnomalyDetector.load(tmp_path / "gpu.safetensors", device="cpu")
    assert again.backbone.dtype == torch.float32 and again.config.detector.machine.precision == "float32"
    assert again.predict(texture(3)).score == pytest.approx(detector.predict(texture(3)).score, abs=1e-3)


def test_another_backbone_is_refused(nearest, configs, tmp_path):
    nearest.save(tmp_path / "part.safetensors")
    detector = AnomalyDetector.from_backbone(**configs)
    weights = {
        f"visual.{name}": value.clone() for name, value in detector.backbone.visual.state_dict().items()
    }
    weights["visual.conv1.weight"] += 0.1
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="not those"):
        AnomalyDetector.load(
            tmp_path / "part.safetensors", pretrained=str(tmp_path / "other.pt"), device="cpu"
        )
    with pytest.raises(ConfigError, match="precision"):
        AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu", precision="bf16")


def test_files_that_are_no_detector_are_refused(checkpoint, nearest, tmp_path):
    with pytest.raises(ConfigError, match="no detector"):
        AnomalyDetector.load(tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="not a saved detector"):
        AnomalyDetector.load(checkpoint)
    nearest.save(tmp_path / "part.safetensors")
    content = (tmp_path / "part.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="not a complete"):
        AnomalyDetector.load(tmp_path / "cut.safetensors")


def test_a_detector_of_which_one_byte_has_changed_is_refused(nearest, tmp_path):
    file = tmp_path / "part.safetensors"
    nearest.save(file)
    whole = file.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    threshold = whole.index(repr(nearest.threshold.score).encode())
    for place in (threshold + 2, begin, (begin + len(whole)) // 2, len(whole) - 1):
        other = b"1" if whole[place : place + 1] == b"2" else b"2"
        file.write_bytes(whole[:place] + other + whole[place + 1 :])
        with pytest.raises(ConfigError, match="part.safetensors is damaged.*save the detector again"):
            AnomalyDetector.load(file, device="cpu")


def test_leaving_out_forgets_one_reference_with_its_copies_and_changes_nothing(checkpoint, tiny_configs):
    detector = from_checkpoint(checkpoint, tiny_configs, method="nearest")
    photos = sorted(map(as_photograph, map(texture, (1, 2, 3))), key=pixel_digest)  # as the bank holds them
    detector.fit(photos, rotations=2, false_alarm_rate=None)
    whole = detector.predict(photos[1])
    photo = detector.to_batch([as_photograph(photos[1])])
    held = detector.scorer.without(1, 3)(photo, ["held out"])
    fewer = from_checkpoint(checkpoint, tiny_configs, method="nearest")
    fewer.fit([photos[0], photos[2]], rotations=2, false_alarm_rate=None)
    expected = fewer.predict(photos[1])
    assert held.base_score[0] == pytest.approx(expected.base_score, abs=1e-5)
    assert held.window_score[0] == pytest.approx(expected.window_score, abs=1e-5)
    assert detector.predict(photos[1]).score == whole.score < held.base_score[0]


def test_thresholds_given_wished_learnt_and_none(nearest, configs):
    detector = AnomalyDetector.from_backbone(**configs)
    detector.fit(texture(1), false_alarm_rate=None)
    found = detector.predict(texture(3))
    assert found.is_anomalous is None and found.threshold is None and found.boxes
    with pytest.raises(ConfigError, match="No scores of normal images"):
        detector.calibrate(0.1)
    detector.set_threshold(found.score)
    assert detector.predict(texture(3)).is_anomalous is True
    detector.set_threshold(found.score + 1e-4)
    assert detector.predict(texture(3)).is_anomalous is False
    with pytest.raises(ConfigError, match="finite"):
        detector.set_threshold(float("nan"))
    photos = [texture(seed, seed % 2 == 1) for seed in range(10, 16)]
    labels = [seed % 2 == 1 for seed in range(10, 16)]
    detector.learn_threshold(photos, labels)
    assert [found.is_anomalous for found in detector.predict(photos)] == labels
    with pytest.raises(ConfigError, match="labels"):
        detector.learn_threshold(photos, labels[:2])
    for rate in (0, 1, -1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            nearest.calibrate(rate)


def test_contradictions_are_refused(checkpoint, tiny_configs, tmp_path):
    with pytest.raises(ConfigError, match="method"):
        from_checkpoint(checkpoint, tiny_configs, method="magic")
    with pytest.raises(ConfigError, match="image_score is .paper., which is not one of max, top1"):
        from_checkpoint(checkpoint, tiny_configs, image_score="paper")
    with pytest.raises(ConfigError, match="image-size"):
        from_checkpoint(checkpoint, tiny_configs, image_size=32)
    stored = load_checkpoint(checkpoint)
    save_checkpoint(
        tmp_path / "plain.safetensors",
        dict(stored.state),
        replace(stored.config, options=MethodConfig(fd="none")),
    )
    with pytest.raises(ConfigError, match="discrepancy"):
        from_checkpoint(tmp_path / "plain.safetensors", tiny_configs, method="both")


def test_heads_without_discrepancy_need_no_references(checkpoint, tiny_configs, tmp_path):
    stored = load_checkpoint(checkpoint)
    save_checkpoint(
        tmp_path / "plain.safetensors",
        dict(stored.state),
        replace(stored.config, options=MethodConfig(fd="none")),
    )
    detector = from_checkpoint(tmp_path / "plain.safetensors", tiny_configs)
    detector.fit([])
    assert detector.predict(texture(1)).is_anomalous is None
    detector.fit([texture(1), texture(2)])
    assert detector.predict(texture(1)).threshold is not None


def test_top1_is_steadier_than_the_maximum(configs):
    found = {}
    for image_score in ("max", "top1"):
        detector = AnomalyDetector.from_backbone(image_score=image_score, **{**configs, "image_size": 128})
        detector.fit(texture(1), false_alarm_rate=None)
        found[image_score] = detector.predict(texture(2, defect=True))
    patches = np.sort(found["top1"].patch_map.ravel())
    assert found["top1"].score == pytest.approx(patches[-3:].mean(), rel=1e-5)
    assert found["max"].score >= found["top1"].score


def test_a_saved_detector_says_of_which_kind_each_score_is(nearest):
    state = nearest.tensors()
    assert state["normal.kinds"].tolist() == nearest.decision.normal.kinds.tolist() == [0] * 3 + [4] * 3
    assert normal_scores_of(state).kinds.tolist() == [0] * 3 + [4] * 3


@pytest.mark.parametrize("method", ["fdsl", "both"])
def test_a_method_of_trained_heads_says_that_there_are_none(configs, method):
    with pytest.raises(ModelError, match="no trained heads"):
        AnomalyDetector.from_backbone(**configs, method=method)


@pytest.mark.parametrize("method", ["nearest", "plus", "subspace"])
def test_a_saved_detector_knows_its_tiles(configs, tmp_path, method):
    detector = AnomalyDetector.from_backbone(method=method, tiles=2, **configs)
    detector.fit([texture(1), texture(2)], rotations=2)
    photos = [texture(7), texture(8, defect=True)]
    detector.save(tmp_path / "part.safetensors")
    again = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    for old, new in zip(detector.predict(photos), again.predict(photos)):
        assert (old.score, old.threshold, old.boxes) == (new.score, new.threshold, new.boxes)
        assert np.array_equal(old.patch_map, new.patch_map) and len(
            old.patch_map
        ) == 2 * detector.backbone.grid(detector.image_size)


def test_a_default_device_of_somebody_else_changes_nothing(configs, tmp_path):
    def scores():
        detector = AnomalyDetector.from_backbone(method="plus", tiles=2, **configs)
        detector.fit([texture(1), texture(2)], rotations="auto")
        detector.save(tmp_path / "part.safetensors")
        again = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
        return [found.score for found in again.predict([texture(3), texture(4, defect=True)])]

    usual = scores()
    torch.set_default_device("meta")
    try:
        assert scores() == usual
    finally:
        torch.set_default_device(None)


def test_where_nobody_set_a_default_device_nothing_stands_between_pytorch_and_its_calls(configs, monkeypatch):
    detector = AnomalyDetector.from_backbone(method="nearest", **configs)
    detector.fit([texture(1)], false_alarm_rate=None)
    modes, begin = [], detector.scorer.begin

    def seen(*given):
        modes.append(_get_current_function_mode())
        return begin(*given)

    monkeypatch.setattr(detector.scorer, "begin", seen)
    detector.predict(texture(2))
    with torch.device("meta"):
        detector.predict(texture(2))
    assert modes[0] is None and modes[1].device.type == "cpu"


def test_a_detector_can_be_sent_to_another_process(configs):
    detector = AnomalyDetector.from_backbone(**configs)
    detector.fit([texture(1), texture(2)])
    again = pickle.loads(pickle.dumps(detector))
    for photo in (texture(3), texture(4, defect=True)):
        assert again.predict(photo).score == detector.predict(photo).score
    assert again.threshold == detector.threshold


@pytest.mark.parametrize("rate", [0, 1e-17, 1, 2, float("nan")])
def test_a_rate_that_nobody_can_promise_is_refused(nearest, rate):
    with pytest.raises(ConfigError, match="^false_alarm_rate is"):
        nearest.calibrate(rate)


@pytest.mark.parametrize("windows", [WindowConfig("nan", tiles=2), WindowConfig("nan"), LFE])
def test_another_detector_knows_the_same(configs, windows):
    detector = AnomalyDetector.from_backbone(**vars(windows), **configs)
    detector.fit([texture(1), texture(2)])
    photo = texture(3, defect=True)
    other = detector.another()
    assert other.predict(photo).score == detector.predict(photo).score
    assert np.array_equal(other.predict(photo).patch_map, detector.predict(photo).patch_map)


def test_a_detector_says_what_it_is_in_two_lines(configs):
    detector = AnomalyDetector.from_backbone(**configs, method="nearest")
    first, second = repr(detector).split("\n")
    assert first == "AnomalyDetector, method nearest, ViT-tiny-test at 64 px, no reference:"
    assert second == "  no threshold"
    detector.fit([texture(1), texture(2)], rotations=2)
    detector.set_threshold(0.25)
    first, second = repr(detector).split("\n")
    assert first.endswith("64 px, 2 reference(s) in 2 rotation(s):")
    assert second == "  threshold 0.25, given"
