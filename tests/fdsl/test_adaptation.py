"""`--adapt`: defects drawn on the references teach method plus how much each map of its tiles counts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from data.synthetic import draw_defect
from fdsl import AnomalyDetector, ConfigError, WindowConfig
from fdsl.adaptation import adapt_to, draw_on
from fdsl.evaluation import upsample_maps
from fdsl.flags.combinations import of_no_use
from fdsl.scoring import NotFinite, Scorer
from fdsl.turning import show
from models.detector import Detector
from models.methods.plus import Plus
from models.methods.taught import regression
from tests.support.detectors import small_detector
from tests.support.photographs import texture
from utils.config import BackboneConfig, MethodConfig, as_stored, from_stored
from utils.tile_layout import AUTO_TILES

pytestmark = pytest.mark.usefixtures("one_thread")
TILES = WindowConfig("nan", tiles=2)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer drawn photographs than usual: enough here."""
    monkeypatch.setattr("fdsl.adaptation.DRAWN", 8)


def photographs(count, first=1):
    return [Image.fromarray(texture(number)) for number in range(first, first + count)]


def made(configs, adapt=True, windows=TILES, **more):
    return small_detector(configs, method="plus", adapt=adapt, windows=windows, image_size=64, **more)


def scorer_of(backbone, adapt=True):
    method = Plus(backbone.width, len(backbone.layers), MethodConfig(adapt=adapt))
    return Scorer(Detector(backbone, method, 64, TILES))


def taught(backbone, references=2, rotations=2, adapt=True):
    scorer = scorer_of(backbone, adapt)
    show(scorer, photographs(references), rotations)
    adapt_to(scorer, photographs(references))
    return scorer


def plain_regression(logarithms, defect, steps=300, rate=0.3):
    """Weights (M,) and offset of the logistic regression over (M,N), step by step of Adam."""
    mean, spread = logarithms.mean(1), logarithms.std(1, ddof=1)
    scaled = (logarithms - mean[:, None]) / spread[:, None]
    share = defect.mean()
    values = np.append(np.full(len(logarithms), -2.0), np.log(share / (1 - share)))
    first, second = np.zeros_like(values), np.zeros_like(values)
    for step in range(1, steps + 1):
        weights = np.log1p(np.exp(values[:-1]))
        wrong = 1 / (1 + np.exp(-(weights @ scaled + values[-1]))) - defect
        slope = np.append((scaled @ wrong) / len(defect) / (1 + np.exp(-values[:-1])), wrong.mean())
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        root = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        values = values - rate * first / (1 - 0.9**step) / root
    weights = np.log1p(np.exp(values[:-1])) / spread
    return weights, values[-1] - weights @ mean


def plain_heights(scorer, pixels):
    """Each block's map of a photograph's tiles (L,S,S), under the filter of 0.7 patches."""
    large = upsample_maps(scorer.tile_maps(pixels, "it")[:, 0].numpy(), scorer.detector.side)
    return np.stack([gaussian_filter(one.astype(float), 0.7, mode="nearest") for one in large])


def test_the_map_is_that_of_the_formulas(tiny_backbone):
    scorer, plain = taught(tiny_backbone), taught(tiny_backbone, adapt=False)
    layout, side = scorer.detector.layout, scorer.detector.side
    drawn = list(draw_on(photographs(2), 8 * max(layout.width, layout.height)))
    heights = np.stack([plain_heights(plain, plain.to_batch([one.photograph])) for one in drawn], 1)
    masks = np.stack([one.mask.numpy() for one in drawn])
    defect = masks.reshape(8, side, 7, side, 7).mean((2, 4))
    weights, offset = plain_regression(np.log(heights.reshape(2, -1)), defect.flatten())
    found = scorer.detector.method.taught
    assert found.weights.numpy() == pytest.approx(weights, rel=2e-2, abs=2e-3)
    assert float(found.offset) == pytest.approx(offset, rel=2e-2)
    pixels = scorer.to_batch([Image.fromarray(texture(9, defect=True))])
    odds = np.tensordot(found.weights.double().numpy(), np.log(plain_heights(plain, pixels)), 1)
    wanted = np.sqrt(plain(pixels, ["it"]).base[0] / (1 + np.exp(-odds - float(found.offset))))
    assert scorer(pixels, ["it"]).base[0] == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert scorer(pixels, ["it"]).base_score == plain(pixels, ["it"]).base_score


def test_no_weight_is_below_zero():
    generator = torch.Generator().manual_seed(1)
    defect = (torch.rand(4000, generator=generator) < 0.2).float()
    telling = defect + torch.randn(4000, generator=generator)
    weights, _ = regression(torch.stack([telling, -telling, torch.zeros(4000)]), defect)
    assert weights[0] > 0.5 and 0 <= weights[1] < 0.01 and weights.isfinite().all()


@pytest.mark.parametrize("references, rotations", [(1, 1), (3, 2)])
def test_a_saved_detector_gives_the_same_to_the_last_bit(tiny_configs, tmp_path, references, rotations):
    detector = made(tiny_configs)
    detector.remember(photographs(references), rotations=rotations)
    assert detector.scorer.detector.method.taught.weights.any()
    detector.save(tmp_path / "part.safetensors")
    loaded = AnomalyDetector.load(tmp_path / "part.safetensors", model_config=tiny_configs, device="cpu")
    for one, other in zip(*(each.predict(photographs(3, 7)) for each in (detector, loaded.another()))):
        assert np.array_equal(one.anomaly_map, other.anomaly_map) and one.score == other.score
    assert loaded.threshold == detector.threshold


def test_it_learns_the_same_again(tiny_backbone):
    with torch.inference_mode():
        first = taught(tiny_backbone).detector.method.state_dict()
    again = taught(tiny_backbone).detector.method.state_dict()
    assert first.keys() == again.keys() != set()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_other_references_begin_anew(tiny_backbone):
    scorer, fresh = taught(tiny_backbone, 1), taught(tiny_backbone)
    show(scorer, photographs(2), 2)
    assert not scorer.detector.method.taught.weights.any()
    adapt_to(scorer, photographs(2))
    pixels = fresh.to_batch(photographs(2, 7))
    assert np.array_equal(scorer(pixels, "ab").base, fresh(pixels, "ab").base)


def test_image_scores_and_thresholds_are_those_of_the_method_itself(tiny_configs):
    plain, adapted = made(tiny_configs, adapt=False), made(tiny_configs)
    for detector in (plain, adapted):
        detector.remember(photographs(1), rotations=2)
    one, other = (detector.predict(texture(9, defect=True)) for detector in (plain, adapted))
    assert one.score == other.score and plain.threshold.score == adapted.threshold.score
    assert plain.threshold.level != adapted.threshold.level
    assert not np.allclose(one.anomaly_map, other.anomaly_map)


def test_photographs_without_tiles_are_looked_at_as_ever(tiny_configs, tmp_path):
    windows, small = WindowConfig("nan", tiles=AUTO_TILES), texture(9, True, 30, 40)
    found = []
    for adapt in (False, True):
        detector = made(tiny_configs, adapt, windows)
        detector.remember([texture(1, False, 30, 40)])
        detector.save(tmp_path / "part.safetensors")
        loaded = AnomalyDetector.load(tmp_path / "part.safetensors", model_config=tiny_configs, device="cpu")
        found.append(loaded.predict(small).anomaly_map)
    assert detector.scorer.detector.layout is None and np.array_equal(*found)


def test_it_is_off_by_default_and_leaves_no_trace(tiny_configs, tmp_path):
    detector = made(tiny_configs, adapt=None)
    detector.remember(photographs(1))
    detector.save(tmp_path / "part.safetensors")
    assert detector.scorer.detector.method.taught is None
    assert not [name for name in load_file(tmp_path / "part.safetensors") if name.startswith("heads")]
    assert "adapt" not in as_stored(MethodConfig())
    assert not from_stored(MethodConfig, as_stored(MethodConfig())).adapt
    assert from_stored(MethodConfig, as_stored(MethodConfig(adapt=True))).adapt


def test_a_file_without_what_was_learnt_is_no_detector(tiny_configs, tmp_path):
    file = tmp_path / "part.safetensors"
    detector = made(tiny_configs)
    detector.remember(photographs(1))
    detector.save(file)
    with safe_open(file, "pt") as opened:
        passport = opened.metadata()
    tensors = {name: value for name, value in load_file(file).items() if not name.startswith("heads.")}
    save_file(tensors, file, passport)
    with pytest.raises(ConfigError, match="is not a whole detector"):
        AnomalyDetector.load(file, model_config=tiny_configs)
    changed = json.loads(passport["fdsl_detector"])
    changed["heads"] = "nearest"
    del changed["method"]["younger_parts"]
    save_file(tensors, file, {"fdsl_detector": json.dumps(changed)})
    with pytest.raises(ConfigError, match="--adapt does not go with --method nearest"):
        AnomalyDetector.load(file, model_config=tiny_configs)


@pytest.mark.parametrize("references", [1, 3, 20])
def test_defects_are_drawn_on_varied_references_and_always_alike(references):
    given = photographs(references)
    once, again = (list(draw_on(given, 48)) for _ in range(2))
    pictures = [np.asarray(one.photograph).tobytes() for one in once]
    assert pictures == [np.asarray(one.photograph).tobytes() for one in again]
    assert len(set(pictures)) == len(once) == 8
    assert all(one.photograph.size == (48, 48) and one.mask.shape == (48, 48) for one in once)
    assert all(0 < float(one.mask.mean()) < 0.5 for one in once)


def test_it_finds_drawn_defects_better_than_nothing_learnt():
    """Where one map tells a defect and another does not; on other photographs than it has learnt from."""
    generator, method = torch.Generator().manual_seed(5), Plus(32, 2, MethodConfig(adapt=True))
    good = torch.randint(90, 150, (3, 64, 64), generator=generator).to(torch.uint8)
    masks = torch.stack([draw_defect(good, good.flip(1), generator)[1] for _ in range(16)])[:, 0]
    small = torch.nn.functional.adaptive_avg_pool2d(masks, 16)
    telling = 0.2 + 0.3 * small + 0.05 * torch.rand(small.shape, generator=generator)
    tiles = torch.stack([telling, torch.rand(small.shape, generator=generator)])
    whole = torch.full((4, 8, 8, 8), 0.2)
    before = method.with_tiles(whole, tiles[:, 8:], 16)[0]
    method.adapt([tiles[:, number : number + 1] for number in range(8)], masks[:8], 16)
    after = method.with_tiles(whole, tiles[:, 8:], 16)[0]
    seen = (small[8:] > 0.5).numpy().flatten()
    one, other = (average_precision_score(seen, maps.flatten()) for maps in (before, after))
    assert other > one + 0.1, (one, other)


def test_what_is_not_finite_is_refused(tiny_backbone, monkeypatch):
    scorer = scorer_of(tiny_backbone)
    show(scorer, photographs(1), 1)
    monkeypatch.setattr(scorer.detector, "tile_maps", lambda images: torch.full((2, 1, 9, 9), torch.nan))
    with pytest.raises(NotFinite, match="a reference: its anomaly map is not finite"):
        adapt_to(scorer, photographs(1))


@pytest.mark.parametrize(
    "more, words",
    [
        ({"method": "nearest"}, "--adapt does not go with --method nearest: it is defined for plus."),
        ({"windows": WindowConfig("mul", 4, 4)}, "--adapt does not go with --winmode mul: .*leave one"),
        ({"windows": WindowConfig("nan")}, "give --tiles auto or N beside it"),
        ({"with_text": True}, "--adapt does not go with --with-text"),
    ],
)
def test_what_does_not_go_with_it(tiny_configs, more, words):
    given = {"method": "plus", "model": "ViT-tiny-test", "pretrained": "none", "model_config": tiny_configs}
    with pytest.raises(ConfigError, match=words):
        AnomalyDetector.from_backbone(**{**given, "adapt": True, "windows": TILES, **more})


def test_a_second_backbone_does_not_go_with_it():
    from fdsl.settings import refuse_beside_adapt

    with pytest.raises(ConfigError, match="--adapt does not go with --second-model"):
        refuse_beside_adapt("plus", MethodConfig(adapt=True), TILES, BackboneConfig())


def test_ablations_leave_it_out_where_it_has_no_use():
    assert "adapt" not in of_no_use({"method": "plus", "tiles": 2})
    assert "adapt" in of_no_use({"method": "plus"}) and "adapt" in of_no_use(
        {"method": "nearest", "tiles": 2}
    )


def test_mutual_scoring_goes_with_it(tiny_configs):
    maps = []
    for adapt in (False, True):
        detector = made(tiny_configs, adapt, with_batch=True)
        detector.remember(photographs(1), inspected=photographs(3, 7), false_alarm_rate=None)
        maps.append(detector.predict(photographs(1, 7))[0].anomaly_map)
    assert not np.allclose(*maps)
