"""How thresholds hold: from references alone, from calibration images, from the test images' own bulk.

    python benchmarks/thresholds.py mvtec=DIR visa=DIR --weights FILE FILE --model NAME --layers ...
    --image-size N --seeds 14 15 16 17 18 --shots 1 2 --cache DIR --json rows.json

Per product, backbone, number of references and seed: references are drawn as test.py draws them, the detector
is fitted with its defaults, and the test images are scored. Prints

- the priors of fdsl/thresholds/threshold_prior.py: offset and spread of normal images above what the left-out
  references score, over all products;
- how thresholds hold: the observed false-positive rate (mean over products and backbones, and the highest),
  and the recall at the threshold divided by the recall that the same scores reach at the target rate, where
  that is above 5 %. The prior of a product is that of the *other* products;
- calibration images: all training images that are no references; in how many products the observed
  false-positive rate lies within the 95 % interval of such rates (beta-binomial) for the target;
- the bulk: the normal test images and a tenth as many defective ones;
- how low scores are beside the lowest of a left-out reference: of test images, of near copies of a reference
  (as JPEG, and with noise of two grey levels), and of a camera's failing frames (benchmarks/frames.py).

Rows are added to --json as they come, and those that are there are not computed again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import betabinom

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.frames import failing
from benchmarks.judges import AnomalyDino, Ours, computed
from benchmarks.products import BATCH, Product, Row, grouped, products_parser, table
from data.images import open_image
from data.records import Record
from fdsl.thresholds.leave_one_out import calibration_scores
from fdsl.thresholds.threshold import (
    CALIBRATION,
    LEAVE_COPY_OUT,
    LEAVE_ONE_OUT,
    NormalScores,
    Prior,
    batch_threshold,
)
from models.methods.plus import Plus
from utils.command import run_command
from utils.image_statistics import MOST_DISTANCE, map_median
from utils.numbers import log_odds
from utils.views import Views

RATES = (0.01, 0.05)
CALIBRATION_RATE = 0.1  # the products have 9 to 39 calibration images
DEFECTS = 0.1  # of the batch whose bulk gives a threshold
LEAST_RECALL = 0.05
QUALITY, FRAME_NOISE = 75, 2  # of a near copy: of JPEG, and grey levels
LEAST_PRODUCTS = 3  # of which one is left out
PLACE = ("weights", "category")  # where each counts alike


@dataclass(frozen=True)
class Scored(Row):
    """known, peaks, kinds, map_median: what the references give (NormalScores). calibration: (image score,
    highest map value) of calibration images; the others of test images, of near copies of a reference and of
    failing frames, and their map's median."""

    rotated: bool
    known: list[float]
    peaks: list[float]
    kinds: list[int]
    map_median: float
    calibration: list[list[float]]
    normal: list[list[float]]
    defective: list[list[float]]
    near_copies: list[list[float]]
    failing: list[list[float]]

    def tested(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (column 0), highest map values (1) or medians (2) of normal and of defective test images."""
        return np.array(self.normal)[:, column], np.array(self.defective)[:, column]

    def left_out(self, values: Sequence[float]) -> float:
        """The mean log-odds of the left-out references, as a threshold with a prior takes them."""
        kinds = np.array(self.kinds)
        kind = LEAVE_COPY_OUT if LEAVE_COPY_OUT in kinds else LEAVE_ONE_OUT
        return float(log_odds(np.array(values))[kinds == kind].mean())

    def relative(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Of a kind of images: scores (n,), divided by the lowest one of a left-out reference, and medians
        (n,), divided by the references' own."""
        scores, _, medians = np.array(getattr(self, name)).T
        left_out = np.isin(self.kinds, (LEAVE_ONE_OUT, LEAVE_COPY_OUT))
        lowest = min(np.array(self.known)[left_out], default=np.nan)  # a single one may not be left out
        return scores / lowest, medians / self.map_median

    def scores(self, prior: Prior | None) -> NormalScores:
        known = (np.array(values) for values in (self.known, self.peaks, self.kinds))
        return NormalScores(*known, self.map_median, prior)


def measured(judge: Ours, product: Product, records: Sequence[Record]) -> dict[str, Any]:
    """The fields of one sample of references."""
    references = [product.root / record.image_path for record in records]
    judge.detector.fit(references, rotations=judge.rotations)
    config, known = judge.detector.config, judge.detector.decision.normal
    assert known is not None  # it was fitted with a target rate
    others = [record for record in product.train if record not in records]
    images = [open_image(product.root / record.image_path) for record in others]
    calibration = calibration_scores(judge.scorer, images, len(images), config.image_score)
    tested = scored(judge, product.views(judge.side, judge.layout))
    copies = near_copies(open_image(references[0]))
    frames = failing(open_image(product.root / product.records[0].image_path))
    return {
        "rotated": config.rotations > 1,
        "known": known.scores.tolist(),
        "peaks": known.peaks.tolist(),
        "kinds": known.kinds.tolist(),
        "map_median": known.map_median,
        "calibration": np.stack([calibration.scores, calibration.peaks], axis=1).tolist(),
        "normal": tested[~product.labels].tolist(),
        "defective": tested[product.labels].tolist(),
        "near_copies": scored(judge, judge.scorer.to_batch(copies)).tolist(),
        "failing": scored(judge, judge.scorer.to_batch(frames.values())).tolist(),
    }


def scored(judge: Ours, views: Views) -> np.ndarray:
    """n images -> image scores, highest map values and medians of maps (n,3)."""
    maps, scores = map(np.concatenate, zip(*map(judge, views.split(BATCH))))
    return np.stack([scores, maps.max((1, 2)), [map_median(one) for one in maps]], axis=1).astype(float)


def near_copies(photo: Image.Image) -> Iterator[Image.Image]:
    """An RGB photograph as JPEG, and as a next frame of a part at rest."""
    stored = BytesIO()
    photo.save(stored, "JPEG", quality=QUALITY)
    yield Image.open(stored).convert("RGB")
    noise = np.random.default_rng(0).normal(0, FRAME_NOISE, (photo.height, photo.width, 3))
    yield Image.fromarray((np.asarray(photo) + noise).round().clip(0, 255).astype(np.uint8))


def prior_of(rows: Sequence[Scored]) -> Prior:
    """Offset and spread over the rows' products and backbones, each of which counts alike."""
    found = []
    for column, name in enumerate(("known", "peaks")):
        gaps = [
            np.concatenate(
                [log_odds(row.tested(column)[0]) - row.left_out(getattr(row, name)) for row in own]
            )
            for own in grouped(rows, *PLACE).values()
        ]
        offset = float(np.mean([gap.mean() for gap in gaps]))
        found += [offset, float(np.sqrt(np.mean([((gap - offset) ** 2).mean() for gap in gaps])))]
    return Prior(*found)


def held(rows: Sequence[Scored], rate: float, way: str, column: int) -> list[str]:
    """How thresholds of one way hold: observed false-positive rates and recalls, and those at the target
    rate."""
    rates, ratios, missed = [], [], 0
    for (_, category), own in grouped(rows, *PLACE).items():
        prior = prior_of([row for row in rows if row.category != category])
        false, found, best = [], [], []
        for row in own:
            normal, defective = row.tested(column)
            limit = threshold_of(row, rate, way, column, prior)
            false.append((normal >= limit).mean())
            found.append((defective >= limit).mean())
            best.append((defective > np.quantile(normal, 1 - rate, method="higher")).mean())
        rates.append(np.mean(false))
        if np.mean(best) > LEAST_RECALL:
            ratios.append(min(1.0, np.mean(found) / np.mean(best)))
        missed += np.mean(best) >= 0.5 and np.mean(found) == 0
    ratio = f"{np.mean(ratios):.2f}" if ratios else "-"
    return [f"{100 * np.mean(rates):.1f} % ({100 * max(rates):.0f} %)", ratio, str(missed)]


def of_samples(rows: Sequence[Scored], rate: float) -> Sequence[float]:
    """The observed false-positive rates of image scores, a threshold from references alone: what half and
    95 % of the samples do not exceed, and the highest. The prior of a product is that of the others."""
    observed = []
    for row in rows:
        prior = prior_of([other for other in rows if other.category != row.category])
        limit = threshold_of(row, rate, "references", 0, prior)
        observed.append((row.tested(0)[0] >= limit).mean())
    return [float(level) for level in np.quantile(observed, [0.5, 0.95, 1], method="higher")]


def threshold_of(row: Scored, rate: float, way: str, column: int, prior: Prior) -> float:
    """The threshold of scores (column 0) or maps (1) by one way."""
    if way == "test images' bulk":
        normal, defective = np.array(row.normal), np.array(row.defective)
        count = round(DEFECTS / (1 - DEFECTS) * len(normal))
        order = np.random.default_rng(row.seed).permutation(len(defective))
        values = np.concatenate([normal, defective[order[:count]]])
        found = batch_threshold(*values.T[:2], rate)
    elif way == "calibration images":
        scores, peaks = np.array(row.calibration).T
        found = NormalScores(scores, peaks, np.full(len(scores), CALIBRATION), 0.0).threshold(rate)
    else:
        found = row.scores(prior).threshold(rate)
    return found.score if column == 0 else float(found.pixel_threshold or 0.0)


def within_interval(rows: Sequence[Scored], column: int) -> str:
    """In how many samples of references the observed false-positive rate of calibrated thresholds lies within
    the 95 % interval of what exchangeable images give."""
    inside = 0
    for row in rows:
        count, normal = len(row.calibration), row.tested(column)[0]
        rank = min(count, int(np.ceil((count + 1) * (1 - CALIBRATION_RATE) - 1e-9)))
        limit = np.sort(np.array(row.calibration)[:, column])[rank - 1]
        law = betabinom(len(normal), count + 1 - rank, rank)
        low, high = law.ppf([0.025, 0.975])
        inside += low <= (normal > limit).sum() <= high
    return f"{inside} of {len(rows)}"


def lowest_and_median(rows: Sequence[Scored], name: str) -> str:
    """Of the scores of a kind of images, relative to the references'."""
    ratios = np.concatenate([row.relative(name)[0] for row in rows])
    return f"{ratios.min():.2f}, {np.median(ratios):.2f}"


def highest_and_above(rows: Sequence[Scored], name: str) -> str:
    """Of the medians of a kind of images, relative to the references'."""
    ratios = np.concatenate([row.relative(name)[1] for row in rows])
    return f"{ratios.max():.2f}, {(ratios > MOST_DISTANCE).sum()} of {len(ratios)}"


def tables(rows: Sequence[Scored]) -> None:
    kinds = ["method", "rotated", "shots"]
    groups = {kind: (own, len({row.category for row in own})) for kind, own in grouped(rows, *kinds).items()}
    large = {kind: own for kind, (own, products) in groups.items() if products >= LEAST_PRODUCTS}
    table(
        "Priors: offset and spread of image scores and of highest map values, in log-odds.",
        [*kinds, "products", "offset", "spread", "map offset", "map spread"],
        [
            [*kind, products, *(f"{number:.2f}" for number in asdict(prior_of(own)).values())]
            for kind, (own, products) in groups.items()
        ],
    )
    ways = [(way, rate) for way in ("references", "test images' bulk") for rate in RATES]
    ways.append(("calibration images", CALIBRATION_RATE))
    table(
        "Observed false-positive rate, mean (highest) over products and backbones; recall divided by the "
        "recall at the target rate; places where no defect is found though half could be.",
        [*kinds, "threshold from", "of", "target", "observed", "recall ratio", "none found"],
        [
            [*kind, way, what, f"{rate:.0%}", *held(own, rate, way, column)]
            for kind, own in large.items()
            for way, rate in ways
            for column, what in enumerate(("image score", "map"))
        ],
    )
    table(
        f"References alone, target {RATES[0]:.0%}: observed false-positive rate of one sample of them.",
        [*kinds, "samples", "half at most", "95 % at most", "worst"],
        [
            [*kind, len(own), *(f"{rate:.0%}" for rate in of_samples(own, RATES[0]))]
            for kind, own in large.items()
        ],
    )
    kinds_of_images = ("normal", "defective", "near_copies", "failing")
    table(
        "Image scores divided by the lowest one of a left-out reference: lowest, median.",
        ["method", "shots", *kinds_of_images],
        [
            [*kind, *(lowest_and_median(own, name) for name in kinds_of_images)]
            for kind, own in grouped(rows, "method", "shots").items()
        ],
    )
    table(
        f"Medians of maps divided by the references' own: highest, above {MOST_DISTANCE:g}.",
        ["method", "product", *kinds_of_images],
        [
            [*kind, *(highest_and_above(own, name) for name in kinds_of_images)]
            for kind, own in grouped(rows, "method", "category").items()
        ],
    )
    table(
        f"Calibration images, target {CALIBRATION_RATE:.0%}: observed rates within their 95 % interval.",
        ["method", "shots", "product", "images", "scores", "maps"],
        [
            [*kind, len(own[0].calibration), *(within_interval(own, column) for column in (0, 1))]
            for kind, own in grouped(rows, "method", "shots", "category").items()
        ],
    )


def main(argv: list[str] | None = None) -> None:
    parser = products_parser(__doc__, [Plus.name], [14, 15, 16, 17, 18])
    args = parser.parse_args(argv)
    if AnomalyDino.name in args.methods:
        parser.error(f"{AnomalyDino.name} has no threshold")
    with torch.inference_mode():
        tables(list(computed(args, Scored, measured)))


if __name__ == "__main__":
    run_command(main)
