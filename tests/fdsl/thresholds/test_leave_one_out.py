"""Scores of a single reference with local windows: they take little time, and equal those of all copies where
windows add nothing."""

import numpy as np
import pytest
from PIL import Image

from fdsl.api import AnomalyDetector
from fdsl.thresholds import leave_one_out
from fdsl.thresholds.threshold import AUGMENTED, LEAVE_COPY_OUT, LEAVE_ONE_OUT
from tests.support.predictions import BACKBONE_OPTIONS
from utils.config import WindowConfig


@pytest.fixture
def photographs():
    noise = np.random.default_rng(2)
    return [Image.fromarray(noise.integers(0, 256, (70, 64, 3), dtype=np.uint8)) for _ in range(2)]


def detector(tiny_configs, windows, **more):
    return AnomalyDetector.from_backbone(
        **vars(windows), model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS, **more
    )


@pytest.mark.parametrize(
    "references, rotations, kinds",
    [
        (1, 2, [LEAVE_COPY_OUT]),
        (2, 2, [LEAVE_COPY_OUT] * 2),
        (3, 2, [LEAVE_ONE_OUT] * 3 + [LEAVE_COPY_OUT] * 3),
        (4, 2, [LEAVE_ONE_OUT] * 4),
        (2, 1, [LEAVE_ONE_OUT] * 2),
        (4, 1, ([LEAVE_ONE_OUT] + [AUGMENTED] * 4) * 4),
    ],
)
def test_how_references_are_left_out(tiny_configs, references, rotations, kinds):
    noise = np.random.default_rng(3)
    photographs = [noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(references)]
    one = detector(tiny_configs, WindowConfig("nan"), method="plus")
    one.fit(photographs, rotations=rotations)
    normal = one.decision.normal
    assert normal.kinds.tolist() == kinds and (normal.prior is None) == (AUGMENTED in kinds)


def test_with_a_region_of_interest_references_are_left_out_likewise(tiny_configs):
    noise = np.random.default_rng(3)
    photographs = [noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    one = detector(tiny_configs, WindowConfig("nan"), method="plus")
    mask = np.zeros((one.image_size,) * 2, np.uint8)
    mask[: one.image_size // 2] = 255
    one.restrict(mask)
    one.fit(photographs, rotations=2)
    assert one.decision.normal.prior is not None
    assert one.decision.normal.kinds.tolist() == [LEAVE_COPY_OUT] * 2


def test_windows_that_count_for_nothing_change_no_score(tiny_configs, photographs, monkeypatch):
    monkeypatch.setattr("fdsl.thresholds.leave_one_out.OF_A_PHOTOGRAPH", 4.0)
    monkeypatch.setattr("fdsl.thresholds.threshold_prior.PRIORS", {})  # they count for whole images alone
    none, some = (
        detector(tiny_configs, one) for one in (WindowConfig("nan"), WindowConfig("mul", 4, 2, 0.0))
    )
    for one in (none, some):
        one.fit(photographs[:1])
    windowed, whole = some.decision.normal, none.decision.normal
    assert len(windowed.scores) == 16
    assert windowed.kinds.tolist() == whole.kinds.tolist()
    assert windowed.scores == pytest.approx(whole.scores, abs=1e-6)
    assert windowed.peaks == pytest.approx(whole.peaks, abs=1e-6)
    assert some.threshold.score == pytest.approx(none.threshold.score, abs=1e-5)


def all_copies(scorer, photograph, rotations, image_score):
    batches = leave_one_out.held_out_batches(scorer, [photograph], rotations)
    return leave_one_out._scored(batches, scorer.detector.settings, image_score)


def test_the_first_copy_is_scored_with_windows(tiny_configs, photographs, monkeypatch):
    windows = WindowConfig("onlywin", 4, 2)
    few = detector(tiny_configs, windows)
    few.fit(photographs[:1])
    monkeypatch.setattr(leave_one_out, "_scores_of_one", all_copies)
    many = detector(tiny_configs, windows)
    many.fit(photographs[:1])
    two, sixteen = few.decision.normal, many.decision.normal
    firsts = [int(np.flatnonzero(sixteen.kinds == kind)[0]) for kind in two.kinds[:2]]
    assert len(two.kinds) == 2 and len(sixteen.kinds) == 16
    assert two.scores == pytest.approx(sixteen.scores[firsts], abs=1e-6)


@pytest.mark.parametrize("method", ["nearest", "plus", "subspace"])
def test_the_start_takes_no_longer_than_three_photographs(
    tiny_configs, photographs, method, monkeypatch, logged
):
    monkeypatch.setattr("utils.console.PLAIN_PROGRESS_SECONDS", 0.0)
    made = detector(tiny_configs, WindowConfig("mul", 4, 1), method=method)
    patches, encode = [], made.backbone.encode

    def counted(images, want=frozenset(), side=None):
        patches.append(len(images) * (side or images.shape[-1]) ** 2 // 64)
        return encode(images, want, side)

    monkeypatch.setattr(made.backbone, "encode", counted)
    made.fit(photographs[:1], rotations=1)
    start = sum(patches)
    patches.clear()
    made.predict(photographs[1:])
    scales = 8 * 64 * bool(made.scorer.detector.method.scales)  # whole images alone
    assert 2 * sum(patches) < start <= 3 * sum(patches) + scales
    assert "the threshold, from the references: 1 of 2" in logged()
