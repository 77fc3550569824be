"""The metrics against scikit-learn and against a plain PRO over all thresholds; long streams against the
exact mode."""

import json
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from data.masks import SaturatingRegion
from fdsl.metrics.exact import ALL_METRICS, PixelMetrics, SaturatedPro, image_metrics, mean_metrics
from fdsl.metrics.pixel_scores import region_areas
from tests.support.constants import SHARED

PIXEL_NAMES = ("auroc_px", "f1_px", "ap_px", "aupro")


def fed(scores, masks, **options):
    metrics = PixelMetrics(**options)
    for score, mask in zip(scores, masks):
        metrics.update(score, mask)
    return metrics


def evaluate(scores, masks, **options):
    return fed(scores, masks, **options).compute()


def sklearn_metrics(scores, labels):
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = np.divide(
        2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=precision + recall > 0
    )
    return {
        "auroc": roc_auc_score(labels, scores),
        "f1": f1.max(),
        "ap": average_precision_score(labels, scores),
    }


def plain_pro(scores, masks, limit=0.3):
    """Every distinct score as a threshold, one after the other, straight from the definition."""
    normal = np.concatenate([score[~mask] for score, mask in zip(scores, masks)])
    regions = []
    for score, mask in zip(scores, masks):
        labels = label(mask, connectivity=2)
        regions += [score[labels == number] for number in range(1, labels.max() + 1)]
    fpr, overlap = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([score.ravel() for score in scores]))[::-1]:
        fpr.append(np.mean(normal >= threshold))
        overlap.append(np.mean([np.mean(region >= threshold) for region in regions]))
    fpr, overlap = np.array(fpr), np.array(overlap)
    after = np.argmax(fpr > limit)
    share = (limit - fpr[after - 1]) / (fpr[after] - fpr[after - 1])
    at_limit = overlap[after - 1] + share * (overlap[after] - overlap[after - 1])
    return auc(np.append(fpr[:after], limit), np.append(overlap[:after], at_limit)) / limit


def plain_metrics(scores, masks):
    labels = np.concatenate([mask.ravel() for mask in masks])
    by_pixel = sklearn_metrics(np.concatenate([score.ravel() for score in scores]), labels)
    return {**{f"{name}_px": value for name, value in by_pixel.items()}, "aupro": plain_pro(scores, masks)}


def blobs(rng, count, size, share=0.08):
    """Masks of some irregular regions; the last quarter of them is good."""
    coarse = rng.random((count, 9, 9), dtype=np.float32)
    masks = np.stack([cv2.resize(each, (size, size), interpolation=cv2.INTER_CUBIC) for each in coarse])
    masks = masks > np.quantile(masks, 1 - share)
    masks[count - count // 4 :] = False
    return masks


def smooth_maps(rng, masks, grid=12, strength=0.4):
    """Maps as the detector gives them: a coarse noisy grid that knows something of the mask, upsampled
    bilinearly."""
    size = masks.shape[1:][::-1]
    hints = [
        cv2.resize(mask.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA) for mask in masks
    ]
    hints = np.stack(hints)
    coarse = rng.beta(2, 5, hints.shape).astype(np.float32) * 0.6 + strength * hints
    return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in coarse])


def make(kind, seed=0, count=8, size=24):
    rng = np.random.default_rng(seed)
    masks = blobs(rng, count, size)
    scores = smooth_maps(rng, masks)
    if kind == "random":
        scores = rng.random(masks.shape)
    elif kind == "perfect":
        scores = masks + rng.random(masks.shape) / 2
    elif kind == "inverted":
        scores = -scores
    elif kind == "tied":
        scores = np.round(scores * 12) / 12
    elif kind == "constant":
        scores = np.full(masks.shape, 0.25, np.float32)
    elif kind == "saturated":
        scores = np.clip((scores - 0.1) * 5, 0, 1)
    return scores, masks


KINDS = ("random", "perfect", "inverted", "tied", "constant", "saturated", "upsampled")


@pytest.mark.parametrize("kind", KINDS)
def test_equals_scikit_learn_and_plain_pro(kind):
    scores, masks = make(kind)
    if kind == "saturated":
        assert (scores == 0).sum() > 100 and (scores == 1).sum() > 100
    ours, plain = evaluate(scores, masks), plain_metrics(scores, masks)
    for name in PIXEL_NAMES:
        assert ours[name] == pytest.approx(plain[name], abs=1e-9), name
        assert isinstance(ours[name], float)
    predicted = scores >= ours["f1_threshold_px"]
    f1 = 2 * (predicted & masks).sum() / (predicted.sum() + masks.sum())
    assert f1 == pytest.approx(ours["f1_px"], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 7), st.floats(0.05, 0.9))
def test_any_small_maps(seed, steps, size, share):
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, steps, (size, size + 1)) / steps for _ in range(3)]
    masks = [rng.random((size, size + 1)) < share for _ in range(3)]
    masks[0].flat[:2] = True, False
    ours, plain = evaluate(scores, masks), plain_metrics(scores, masks)
    assert [ours[name] for name in PIXEL_NAMES] == pytest.approx(
        [plain[name] for name in PIXEL_NAMES], abs=1e-9
    )


def test_real_maps():
    if not SHARED.is_dir():
        pytest.skip("real maps: ../shared is not there")
    scores, masks = [], []
    for case in json.loads((SHARED / "golden/cases.json").read_text()):
        scores.append(np.load(SHARED / "golden" / case["file"])["fused_map"])
        mask = cv2.imread(str(SHARED / case["mask"]), cv2.IMREAD_GRAYSCALE) > 0
        masks.append(cv2.resize(mask.astype(np.uint8), (240, 240), interpolation=cv2.INTER_NEAREST) > 0)
    whole = evaluate(scores, masks)
    by_pixel = sklearn_metrics(np.stack(scores).ravel(), np.stack(masks).ravel())
    assert [whole[f"{name}_px"] for name in by_pixel] == pytest.approx(list(by_pixel.values()), abs=1e-6)
    scores, masks = [score[::4, ::4] for score in scores], [mask[::4, ::4] for mask in masks]
    assert evaluate(scores, masks)["aupro"] == pytest.approx(plain_pro(scores, masks), abs=1e-9)


def test_pro_by_hand():
    """Nine normal pixels, two regions (one of them two pixels that touch at a corner), worked out on
    paper."""
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    scores = np.array([[9, 8, 0, 0], [0, 5, 0, 0], [0, 0, 7, 3]]) / 10
    # descending: region A half (FPR 0), false alarms 1/9 and 2/9, A whole, B whole, then seven normal pixels
    # tied at 0
    by_hand = (2 / 9 * 0.25 + (0.3 - 2 / 9) * 1.0) / 0.3
    assert evaluate([scores], [mask])["aupro"] == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.4, 0.6, 0.95])
def test_regions_are_those_of_skimage(share):
    mask = np.random.default_rng(1).random((97, 61)) < share
    labels = label(mask, connectivity=2)[mask]
    assert np.array_equal(region_areas(mask), np.bincount(labels)[labels])


@pytest.mark.parametrize("memory_pixels", [1 << 26, 1 << 12])
def test_monotone_rescaling_changes_nothing(memory_pixels):
    scores, masks = make("upsampled", count=16, size=96)
    scores = np.round(scores.astype(np.float64), 5) + 1e-3  # distinct scores stay distinct below
    plain = evaluate(scores, masks, memory_pixels=memory_pixels)
    for rescaled in (scores**5, 0.5 + 0.001 * scores, np.log(scores), 1e9 * scores - 7):
        ours = evaluate(rescaled, masks, memory_pixels=memory_pixels)
        assert [ours[name] for name in PIXEL_NAMES] == [plain[name] for name in PIXEL_NAMES]


def test_float32_scores_are_ranked_as_they_are():
    """What float32 cannot tell apart is a tie for us and for scikit-learn alike."""
    scores, masks = make("upsampled")
    squeezed = (0.5 + 1e-5 * scores).astype(np.float32)
    assert np.unique(squeezed).size < np.unique(scores).size / 2
    ours, plain = evaluate(squeezed, masks), plain_metrics(squeezed, masks)
    assert [ours[name] for name in PIXEL_NAMES] == pytest.approx(
        [plain[name] for name in PIXEL_NAMES], abs=1e-9
    )


def test_order_sizes_and_number_types():
    scores, masks = make("upsampled")
    whole = evaluate(scores, masks)
    assert evaluate(scores[::-1], masks[::-1]) == pytest.approx(whole, abs=1e-12)
    assert evaluate(scores.astype(np.float64), masks) == pytest.approx(whole, abs=1e-12)
    fortran = [np.asfortranarray(score) for score in scores], [np.asfortranarray(mask) for mask in masks]
    assert evaluate(*fortran) == pytest.approx(whole, abs=1e-12)
    mixed = [scores[0], scores[1][:11, :17], make("tied", size=40)[0][0]]
    mixed_masks = [masks[0], masks[1][:11, :17], make("tied", size=40)[1][0]]
    ours, plain = evaluate(mixed, mixed_masks), plain_metrics(mixed, mixed_masks)
    assert [ours[name] for name in PIXEL_NAMES] == pytest.approx(
        [plain[name] for name in PIXEL_NAMES], abs=1e-9
    )


@pytest.mark.parametrize("memory_pixels", [1 << 26, 1 << 12])
def test_compute_may_be_called_on_the_way_and_nothing_is_aliased(memory_pixels):
    scores, masks = make("upsampled", size=64)
    metrics = PixelMetrics(memory_pixels)
    buffer, flags = np.empty_like(scores[0]), np.empty_like(masks[0])
    for score, mask in zip(scores, masks):
        buffer[:], flags[:] = score, mask
        metrics.update(buffer, flags)
        metrics.compute()
    assert np.array_equal(buffer, scores[-1])
    assert metrics.compute() == pytest.approx(evaluate(scores, masks), abs=1e-4)


def test_not_defined_is_none():
    scores, masks = make("upsampled")
    assert set(PixelMetrics().compute().values()) == {None}
    for memory_pixels in (1 << 26, 100):
        for one_kind in (np.zeros_like(masks), np.ones_like(masks)):
            found = evaluate(scores, one_kind, memory_pixels=memory_pixels)
            assert found == dict.fromkeys((*PIXEL_NAMES, "aupro_05", "f1_threshold_px"))
    undefined = dict.fromkeys(("auroc_sp", "f1_sp", "ap_sp", "f1_threshold_sp"))
    for labels in ([], [False, False], [True, True]):
        assert image_metrics(np.ones(len(labels)), np.array(labels, bool)) == undefined


@pytest.fixture(scope="module")
def streams():
    """Maps and masks of long streams by name; each is cut into dozens of blocks and joined on two tiers."""
    return {name: (scores, masks) for name, scores, masks in draw_streams()}


def draw_streams():
    rng = np.random.default_rng(5)
    masks = blobs(rng, 40, 320, share=0.05)
    scores = smooth_maps(rng, masks, grid=28)
    yield "ordinary", scores, masks
    yield "good first", scores[::-1], masks[::-1]
    order = np.argsort(scores, axis=None)
    ascending = scores.flat[order].reshape(scores.shape), masks.flat[order].reshape(masks.shape)
    yield "ascending", *ascending
    yield "descending", ascending[0][::-1, ::-1, ::-1], ascending[1][::-1, ::-1, ::-1]
    constant_first = scores.copy()
    constant_first[:15] = 0.5
    yield "constant first", constant_first, masks
    narrow_later = scores.astype(np.float64)
    narrow_later[4:] = 0.5 + 1e-9 * narrow_later[4:]
    yield "narrow later", narrow_later, masks
    yield "saturated", np.clip((scores - 0.2) * 5, 0, 1), masks
    yield "tied", np.round(scores * 50) / 50, masks
    rare = np.zeros_like(masks)
    rare[::7, 100:103, 200:240] = True
    yield "rare", scores + rare * rng.random(scores.shape, dtype=np.float32) / 2, rare
    one_pixel = masks.copy()
    one_pixel[1::2] = False
    one_pixel[1::2, 50, 50] = True
    yield "one-pixel regions", scores, one_pixel
    yield "mostly anomalous", -scores, ~masks


STREAMS = "ordinary,good first,ascending,descending,constant first,narrow later,saturated,tied,rare"
STREAMS += ",one-pixel regions,mostly anomalous"


@pytest.mark.parametrize("name", STREAMS.split(","))
def test_long_streams_agree_with_the_exact_mode(streams, name):
    scores, masks = streams[name]
    exact, kept = evaluate(scores, masks), evaluate(scores, masks, memory_pixels=1 << 17)
    assert kept != exact  # the short cut was taken
    for metric in PIXEL_NAMES:
        assert kept[metric] == pytest.approx(exact[metric], abs=2e-5), metric  # 1e-4 is promised


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream():
    rng = np.random.default_rng(0)
    scores, mask = rng.random((512, 512), dtype=np.float32), np.zeros((512, 512), bool)
    mask[50:90, 60:150] = True
    metrics, peaks = PixelMetrics(memory_pixels=1 << 19), []
    tracemalloc.start()
    for count in range(1, 401):
        metrics.update(scores, mask)
        if count in (100, 400):
            metrics.compute()
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
    tracemalloc.stop()
    assert peaks[1] < 200 and peaks[1] < 2 * peaks[0], peaks  # the 400 maps are 400 MiB


@pytest.mark.parametrize("steps", [None, 6])
def test_image_metrics_equal_scikit_learn(steps):
    rng = np.random.default_rng(3)
    labels = rng.random(83) < 0.75
    scores = rng.random(83) + 0.3 * labels
    scores = scores if steps is None else np.round(scores * steps) / steps
    ours, plain = image_metrics(scores, labels), sklearn_metrics(scores, labels)
    assert [ours[f"{name}_sp"] for name in plain] == pytest.approx(list(plain.values()), abs=1e-12)
    predicted = scores >= ours["f1_threshold_sp"]
    assert 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum()) == pytest.approx(ours["f1_sp"])


def test_mean_leaves_out_what_is_not_defined():
    one = dict.fromkeys(ALL_METRICS, 0.5) | {"aupro": None, "f1_px": None}
    two = dict.fromkeys(ALL_METRICS, 1.0) | {"aupro": None, "f1_threshold_px": 3.0}
    mean = mean_metrics({"one": one, "two": two})
    assert mean == dict.fromkeys(ALL_METRICS, 0.75) | {"aupro": None, "f1_px": 1.0}
    assert mean_metrics({}) == dict.fromkeys(ALL_METRICS)


@given(seed=st.integers(0, 10**6), threshold=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_f1_at_a_threshold_and_pro_up_to_another_limit(seed, threshold):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 20, (3, 12, 12)).astype(np.float32) / 19
    masks = np.zeros(scores.shape, bool)
    masks[:2, 2:5, 3:9] = True
    for memory in (10**6, 50):  # exact, and by rank
        metrics = fed(scores, masks, memory_pixels=memory)
        predicted = scores >= threshold
        wanted = 2 * (predicted & masks).sum() / (predicted.sum() + masks.sum())
        assert metrics.f1_at(threshold) == pytest.approx(wanted, abs=1e-9 if memory > 50 else 0.02)
        wanted = plain_pro(scores, masks, 0.05)
        assert metrics.compute()["aupro_05"] == pytest.approx(wanted, abs=1e-9 if memory > 50 else 0.02)
    assert PixelMetrics().f1_at(0.5) is None and PixelMetrics().compute()["aupro_05"] is None


def plain_saturated_pro(scores, regions, limit):
    """Every distinct score as a threshold: of each region the share of its saturation that is found, at most
    one; `regions`: of each image (mask, saturation in pixels)."""
    normal = np.concatenate(
        [
            score[~np.any([mask for mask, _ in own], 0)] if own else score.ravel()
            for score, own in zip(scores, regions)
        ]
    )
    fpr, overlap = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([score.ravel() for score in scores]))[::-1]:
        fpr.append(np.mean(normal >= threshold))
        found = [
            min((score[mask] >= threshold).sum() / saturation, 1)
            for score, own in zip(scores, regions)
            for mask, saturation in own
        ]
        overlap.append(np.mean(found))
    grid = np.append(np.array(fpr)[np.array(fpr) <= limit], limit)
    after = np.argmax(np.array(fpr) > limit)
    share = (limit - fpr[after - 1]) / (fpr[after] - fpr[after - 1])
    at_limit = overlap[after - 1] + share * (overlap[after] - overlap[after - 1])
    return auc(grid, np.append(overlap[:after], at_limit)) / limit


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.sampled_from([0.05, 0.3]))
def test_saturated_pro_is_that_of_its_definition(seed, steps, limit):
    """Regions overlap, and scores are tied; exact, and by rank."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, steps, (3, 9, 11)) / steps
    masks = [[rng.random((9, 11)) < 0.2 for _ in range(count)] for count in (2, 1, 0)]
    masks[0][0][0, 0] = True
    wanted = [[(mask, rng.integers(1, mask.sum() + 1)) for mask in own if mask.any()] for own in masks]
    for memory in (10**6, 60):
        found = SaturatedPro(memory)
        for score, own in zip(scores, wanted):
            found.update(score, [SaturatingRegion(mask, pixels / mask.sum()) for mask, pixels in own])
        exact = plain_saturated_pro(scores, wanted, limit)
        assert found.pro(limit) == pytest.approx(exact, abs=1e-9 if memory > 60 else 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_regions_that_saturate_at_their_area_give_pro(kind):
    scores, masks = make(kind)
    metrics, saturated = PixelMetrics(), SaturatedPro()
    for score, mask in zip(scores, masks):
        metrics.update(score, mask)
        labels = label(mask, connectivity=2)
        regions = [SaturatingRegion(labels == number, 1.0) for number in range(1, labels.max() + 1)]
        saturated.update(score, regions)
    pros = metrics.compute()
    for limit, name in ((0.05, "aupro_05"), (0.3, "aupro")):
        assert saturated.pro(limit) == pytest.approx(pros[name], abs=1e-12)


def test_saturated_pro_is_not_defined_without_regions_or_normal_pixels():
    scores, every = np.arange(6.0).reshape(2, 3), SaturatingRegion(np.ones((2, 3), bool), 0.5)
    found = SaturatedPro()
    assert found.pro(0.3) is None
    found.update(scores)
    assert found.pro(0.3) is None
    found.update(scores, [SaturatingRegion(np.zeros((2, 3), bool), 1.0)])  # it is gone at this size
    assert found.pro(0.3) is None
    alone = SaturatedPro()
    alone.update(scores, [every])
    assert alone.pro(0.3) is None
    found.update(scores + 10, [every])
    assert found.pro(0.3) == pytest.approx(1)
