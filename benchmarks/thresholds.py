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
- the bulk: the normal test images and a tenth as many defective ones.

Rows are added to --json as they come, and those that are there are not computed again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import betabinom
from tabulate import tabulate

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.judges import Ours, encoded_backbone
from benchmarks.products import (
    BATCH,
    Product,
    backbones_of,
    catalogues,
    products_parser,
    read_rows,
    write_row,
)
from data.images import open_image
from data.records import draw_references
from fdsl.thresholds.leave_one_out import calibration_scores, normal_scores
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
from utils.numbers import log_odds

RATES = (0.01, 0.05)
CALIBRATION_RATE = 0.1  # the products have 9 to 39 calibration images
DEFECTS = 0.1  # of the batch whose bulk gives a threshold
LEAST_RECALL = 0.05
LEAST_PRODUCTS = 3  # of which one is left out


@dataclass(frozen=True)
class Row:
    """One sample of references. known, peaks, kinds: what they say (NormalScores). calibration, normal,
    defective: (image score, highest map value) of calibration images and of test images."""

    method: str
    weights: str
    category: str
    shots: int
    seed: int
    rotated: bool
    known: list[float]
    peaks: list[float]
    kinds: list[int]
    calibration: list[list[float]]
    normal: list[list[float]]
    defective: list[list[float]]

    @property
    def key(self) -> tuple:
        return self.method, self.weights, self.category, self.shots, self.seed

    @property
    def place(self) -> tuple[str, str]:
        return self.weights, self.category

    def left_out(self, values: Sequence[float]) -> float:
        """The mean log-odds of the left-out references, as a threshold with a prior takes them."""
        kinds = np.array(self.kinds)
        kind = LEAVE_COPY_OUT if LEAVE_COPY_OUT in kinds else LEAVE_ONE_OUT
        return float(log_odds(np.array(values))[kinds == kind].mean())

    def scores(self, prior: Prior | None) -> NormalScores:
        return NormalScores(np.array(self.known), np.array(self.peaks), np.array(self.kinds), 0.0, prior)


def measured(judge: Ours, product: Product, key: tuple) -> Row:
    """The row of one sample of references."""
    _, _, category, shots, seed = key
    records = draw_references(product.train, shots, seed, category)
    detector = judge.detector
    judge.fit([product.root / record.image_path for record in records])
    rotations, score = detector.config.rotations, detector.config.image_score
    photographs = [open_image(product.root / record.image_path) for record in records]
    known = normal_scores(judge.scorer, photographs, rotations, score)
    others = [record for record in product.train if record not in records]
    images = [open_image(product.root / record.image_path) for record in others]
    calibration = calibration_scores(judge.scorer, images, len(images), score)
    count = len(product.labels)
    maps, scores = zip(
        *(judge(part) for part in product.pixels(judge.side, judge.layout)[:count].split(BATCH))
    )
    tested = np.stack([np.concatenate(scores), np.concatenate(maps).max((1, 2))], axis=1).astype(float)
    return Row(
        *key,
        rotations > 1,
        known.scores.tolist(),
        known.peaks.tolist(),
        known.kinds.tolist(),
        np.stack([calibration.scores, calibration.peaks], axis=1).tolist(),
        tested[~product.labels].tolist(),
        tested[product.labels].tolist(),
    )


def computed(args: argparse.Namespace, rows: dict[tuple, Row]) -> Iterator[Row]:
    """All rows of the command line: those that are there, and the others as they are computed."""
    for weights, encoder, _ in backbones_of(args):
        backbone = None
        for category, catalogue in catalogues(args).items():
            product = None
            for method in args.methods:
                for shots, seed in ((shots, seed) for shots in args.shots for seed in args.seeds):
                    key = method, weights, category, shots, seed
                    if key not in rows:
                        backbone = backbone or encoded_backbone(args, encoder)
                        product = product or Product(catalogue, category, args.images)
                        rows[key] = measured(Ours(method, args, encoder, backbone), product, key)
                        write_row(rows[key], args.json)
                    yield rows[key]


def prior_of(rows: Sequence[Row]) -> Prior:
    """Offset and spread over the rows' products and backbones, each of which counts alike."""
    places = dict.fromkeys(row.place for row in rows)
    found = []
    for column, known in ((0, lambda row: row.known), (1, lambda row: row.peaks)):
        gaps = [
            np.concatenate(
                [
                    log_odds(np.array(row.normal)[:, column]) - row.left_out(known(row))
                    for row in rows
                    if row.place == place
                ]
            )
            for place in places
        ]
        offset = float(np.mean([gap.mean() for gap in gaps]))
        found += [offset, float(np.sqrt(np.mean([((gap - offset) ** 2).mean() for gap in gaps])))]
    return Prior(*found)


def held(rows: Sequence[Row], rate: float, way: str, column: int) -> list[str]:
    """How thresholds of one way hold: observed false-positive rates and recalls, and those at the target
    rate."""
    rates, ratios, missed = [], [], 0
    for place in dict.fromkeys(row.place for row in rows):
        own = [row for row in rows if row.place == place]
        prior = prior_of([row for row in rows if row.category != place[1]])
        false, found, best = [], [], []
        for row in own:
            normal, defective = np.array(row.normal)[:, column], np.array(row.defective)[:, column]
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


def of_samples(rows: Sequence[Row], rate: float) -> Sequence[float]:
    """The observed false-positive rates of image scores, a threshold from references alone: what half and
    95 % of the samples do not exceed, and the highest. The prior of a product is that of the others."""
    observed = []
    for row in rows:
        prior = prior_of([other for other in rows if other.category != row.category])
        limit = threshold_of(row, rate, "references", 0, prior)
        observed.append((np.array(row.normal)[:, 0] >= limit).mean())
    return [float(level) for level in np.quantile(observed, [0.5, 0.95, 1], method="higher")]


def threshold_of(row: Row, rate: float, way: str, column: int, prior: Prior) -> float:
    """The threshold of scores (column 0) or maps (1) by one way."""
    if way == "test images' bulk":
        normal, defective = np.array(row.normal), np.array(row.defective)
        count = round(DEFECTS / (1 - DEFECTS) * len(normal))
        order = np.random.default_rng(row.seed).permutation(len(defective))
        values = np.concatenate([normal, defective[order[:count]]])
        found = batch_threshold(values[:, 0], values[:, 1], rate)
    elif way == "calibration images":
        scores, peaks = np.array(row.calibration).T
        found = NormalScores(scores, peaks, np.full(len(scores), CALIBRATION), 0.0).threshold(rate)
    else:
        found = row.scores(prior).threshold(rate)
    return found.score if column == 0 else float(found.level or 0.0)


def within_interval(rows: Sequence[Row], column: int) -> str:
    """In how many samples of references the observed false-positive rate of calibrated thresholds lies within
    the 95 % interval of what exchangeable images give."""
    inside = 0
    for row in rows:
        count, normal = len(row.calibration), np.array(row.normal)[:, column]
        rank = min(count, int(np.ceil((count + 1) * (1 - CALIBRATION_RATE) - 1e-9)))
        limit = np.sort(np.array(row.calibration)[:, column])[rank - 1]
        law = betabinom(len(normal), count + 1 - rank, rank)
        low, high = law.ppf([0.025, 0.975])
        inside += low <= (normal > limit).sum() <= high
    return f"{inside} of {len(rows)}"


def tables(rows: Sequence[Row]) -> None:
    kinds = dict.fromkeys((row.method, row.rotated, row.shots) for row in rows)
    groups = {kind: [row for row in rows if (row.method, row.rotated, row.shots) == kind] for kind in kinds}
    print("Priors: offset and spread of image scores and of highest map values, in log-odds.\n")
    lines: list[list] = []
    for (method, rotated, shots), own in groups.items():
        numbers = asdict(prior_of(own)).values()
        products = len({row.category for row in own})
        lines.append([method, rotated, shots, products, *(f"{number:.2f}" for number in numbers)])
    header = ["method", "rotated", "shots", "products", "offset", "spread", "map offset", "map spread"]
    print(tabulate(lines, header, tablefmt="github"))
    print(
        "\nObserved false-positive rate, mean (highest) over products and backbones; recall divided by the "
        "recall at the target rate; places where no defect is found though half could be.\n"
    )
    lines = []
    for (method, rotated, shots), own in groups.items():
        if len({row.category for row in own}) < LEAST_PRODUCTS:
            continue
        for way in ("references", "test images' bulk", "calibration images"):
            for rate in RATES if way != "calibration images" else (CALIBRATION_RATE,):
                for column, what in enumerate(("image score", "map")):
                    lines.append(
                        [method, rotated, shots, way, what, f"{rate:.0%}", *held(own, rate, way, column)]
                    )
    header = ["threshold from", "of", "target", "observed", "recall ratio", "none found"]
    print(tabulate(lines, ["method", "rotated", "shots", *header], tablefmt="github"))
    print(f"\nReferences alone, target {RATES[0]:.0%}: observed false-positive rate of one sample of them.\n")
    lines = [
        [*kind, len(own), *(f"{rate:.0%}" for rate in of_samples(own, RATES[0]))]
        for kind, own in groups.items()
        if len({row.category for row in own}) >= LEAST_PRODUCTS
    ]
    header = ["method", "rotated", "shots", "samples", "half at most", "95 % at most", "worst"]
    print(tabulate(lines, header, tablefmt="github"))
    print(
        f"\nCalibration images, target {CALIBRATION_RATE:.0%}: observed rates within their 95 % interval.\n"
    )
    lines = []
    for method, shots in dict.fromkeys((row.method, row.shots) for row in rows):
        own = [row for row in rows if (row.method, row.shots) == (method, shots)]
        for category in dict.fromkeys(row.category for row in own):
            part = [row for row in own if row.category == category]
            count = len(part[0].calibration)
            cells = [within_interval(part, column) for column in (0, 1)]
            lines.append([method, shots, category, count, *cells])
    print(tabulate(lines, ["method", "shots", "product", "images", "scores", "maps"], tablefmt="github"))


def main(argv: list[str] | None = None) -> None:
    args = products_parser(__doc__, [Plus.name], [14, 15, 16, 17, 18]).parse_args(argv)
    with torch.inference_mode():
        tables(list(computed(args, read_rows(args.json, Row))))


if __name__ == "__main__":
    run_command(main)
