"""How well methods judge, on the products and backbones at hand.

    python benchmarks/judgement.py mvtec=DIR visa=DIR --weights FILE FILE --model NAME --layers ... \\
        --image-size N --seeds 14 15 16 17 18 --shots 1 2 4 --images 60 --cache DIR --json rows.json

Rows (`--methods`): `plus` as predict.py uses it by default (`--rotate-references auto`), `nearest` with 8
rotated copies of each reference, `anomalydino`, with `--checkpoint` trained heads (`fdsl`), or any other
method. All look at the whole image alone. METHOD:NAME=VALUE,... sets rotations (N or auto), image_score (max
or top1) or another option of the commands, as in `plus:leave_out=whitening+top-k,tiles=auto`. The first
method is the baseline.

`anomalydino` is anomalib's own model with its scores and defaults (no rotation, no masking), on the same
backbone, image side and references. This project does not require anomalib; that row needs, in its own
environment, pip install --no-deps anomalib kornia kornia_rs (tried: anomalib 2.7.0, kornia 0.9.0).

References are sampled and maps evaluated at 240 px as in test.py. Frames that show no part, made from the
first training image, should be flagged: scored above 95 % of the normal test images, or given a reason. Each
image is encoded once for each file of weights and kept in --cache; seconds are those of scoring alone,
without the encoding. --json gets a line for each row as it comes, and a row that it holds is not computed
again: delete the file after a change of a method or of heads.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.judges import AnomalyDino, Ours, encoded_backbone
from benchmarks.products import (
    BATCH,
    Product,
    backbones_of,
    catalogues,
    products_parser,
    read_rows,
    write_row,
)
from data.records import Record, draw_references
from fdsl.evaluation.category_metrics import evaluate_category
from models.methods.fdsl import Fdsl
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from utils.command import run_command
from utils.config import PAPER_SIDE, BackboneConfig
from utils.device import use_threads

METRICS = {"auroc_sp": "image AUROC", "ap_px": "pixel AP", "aupro": "PRO"}
RESAMPLED = 10_000


@dataclass(frozen=True)
class Row:
    """What one method reached on one product with one sample of references. run: settings of the backbone
    and number of images. metrics: per cent. seconds: of scoring one image. dead: whether a frame without a
    part is flagged: it scores above 95 % of the normal test images, or a reason is given."""

    method: str
    weights: str
    category: str
    shots: int
    seed: int
    run: str
    metrics: dict[str, float]
    seconds: float
    dead: dict[str, bool]

    @property
    def key(self) -> tuple:
        return self.method, self.weights, self.category, self.shots, self.seed, self.run


def judged(judge: Ours | AnomalyDino, product: Product, references: Sequence[Record]) -> dict[str, Any]:
    """The last three fields of a row."""
    judge.fit([product.root / record.image_path for record in references])
    batches, normal = product.pixels(judge.side, judge.layout).split(BATCH), ~product.labels
    started = time.perf_counter() - judge.backbone.seconds
    found = [judge(batch) for batch in batches]
    seconds = time.perf_counter() - judge.backbone.seconds - started
    maps, scores = (np.concatenate(part) for part in zip(*found))
    tested = scores[: len(normal)]
    metrics = evaluate_category(
        maps[: len(normal)], tested, ~normal, lambda place, _: product.masks[place], "max", PAPER_SIDE
    ).metrics
    limit, frames = np.quantile(tested[normal], 0.95), product.pixels(judge.side, judge.layout)[len(normal) :]
    flagged = [
        bool(score > limit or judge.has_reason(frame)) for score, frame in zip(scores[len(normal) :], frames)
    ]
    return {
        "metrics": {name: float("nan") if metrics[name] is None else 100 * metrics[name] for name in METRICS},
        "seconds": seconds / len(scores),
        "dead": dict(zip(product.frames, flagged)),
    }


def judges(
    args: argparse.Namespace, encoder: BackboneConfig, heads: Path | None
) -> dict[str, Ours | AnomalyDino]:
    """What computes the rows of each method on one backbone."""
    backbone, other = encoded_backbone(args, encoder), AnomalyDino.name
    return {
        text: AnomalyDino(args, encoder) if text == other else Ours(text, args, encoder, backbone, heads)
        for text in args.methods
    }


def computed(args: argparse.Namespace, rows: dict[tuple, Row]) -> Iterator[Row]:
    """All rows of the command line: those that are there, and the others as they are computed."""
    products = catalogues(args)
    for weights, encoder, heads in backbones_of(args):
        settings = (encoder.model, encoder.layers, encoder.image_size, encoder.token_norm)
        run, ready = " ".join(map(str, (*settings, args.precision, args.images))), None
        for category, catalogue in products.items():
            product = None
            for shots, seed, text in itertools.product(args.shots, args.seeds, args.methods):
                key = text, weights, category, shots, seed, run
                if key not in rows:
                    ready = ready or judges(args, encoder, heads)
                    product = product or Product(catalogue, category, args.images)
                    references = draw_references(product.train, shots, seed, category)
                    rows[key] = Row(*key, **judged(ready[text], product, references))
                    write_row(rows[key], args.json)
                yield rows[key]


def means(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """A column for each method, a line for each number of references, backbone and product."""

    def cells(shots: int, *place: str) -> list[str]:
        found = []
        for method in methods:
            own = [row for row in rows if (row.method, row.shots) == (method, shots)]
            if place:
                own = [row for row in own if (row.weights, row.category) == place]
            auroc, ap, pro = (np.nanmean([row.metrics[name] for row in own]) for name in METRICS)
            found.append(f"{auroc:.1f}, {ap:.1f} / {pro:.1f}")
        return found

    lines = []
    for shots in dict.fromkeys(row.shots for row in rows):
        for place in dict.fromkeys((row.weights, row.category) for row in rows):
            lines.append([shots, *place, *cells(shots, *place)])
        own = [[row.seconds for row in rows if (row.method, row.shots) == (one, shots)] for one in methods]
        lines.append([shots, "all", "mean", *cells(shots)])
        lines.append([shots, "all", "ms an image", *(f"{1000 * np.mean(seconds):.1f}" for seconds in own)])
    return tabulate(lines, ["references", "backbone", "product", *methods], tablefmt="github")


def interval(groups: Sequence[Sequence[float]]) -> str:
    """The mean over groups of each one's mean, with the 95 % interval of such means where the values within
    each group are resampled."""
    generator, arrays = np.random.default_rng(0), [np.array(group) for group in groups]
    resampled = [one[generator.integers(len(one), size=(RESAMPLED, len(one)))].mean(1) for one in arrays]
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
    return f"{np.mean([one.mean() for one in arrays]):+.1f} [{low:+.1f}, {high:+.1f}]"


def differences(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Each method minus the first, in points, over all products and backbones; and the product on which it is
    least, as the mean over backbones."""
    base = {row.key[1:]: row for row in rows if row.method == methods[0]}
    lines = []
    for method, shots in dict.fromkeys((row.method, row.shots) for row in rows if row.method != methods[0]):
        line: list[Any] = [method, shots]
        for name in METRICS:
            groups: dict[tuple[str, str], list[float]] = {}
            for row in rows:
                gained = row.metrics[name] - base[row.key[1:]].metrics[name]
                if (row.method, row.shots) == (method, shots) and not np.isnan(gained):
                    groups.setdefault((row.category, row.weights), []).append(gained)
            products: dict[str, list[float]] = {}
            for (product, _), group in groups.items():
                products.setdefault(product, []).append(float(np.mean(group)))
            least = min((np.mean(group), product) for product, group in products.items())
            line += [interval(list(groups.values())), f"{least[0]:+.1f} ({least[1]})"]
        lines.append(line)
    header = ["method", "references", *(word for title in METRICS.values() for word in (title, "least"))]
    return tabulate(lines, header, tablefmt="github")


def dead(rows: Sequence[Row]) -> str:
    """Which share of the frames without a part is flagged."""
    lines = []
    for method, shots in dict.fromkeys((row.method, row.shots) for row in rows):
        own = [row.dead for row in rows if (row.method, row.shots) == (method, shots)]
        shares = [np.mean([found[frame] for found in own]) for frame in own[0]]
        lines.append([method, shots, *(f"{share:.0%}" for share in (*shares, np.mean(shares)))])
    return tabulate(lines, ["method", "references", *rows[0].dead, "all"], tablefmt="github")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = products_parser(__doc__, [Plus.name, Nearest.name, AnomalyDino.name], [14, 15, 16])
    parser.add_argument("--checkpoint", type=Path, nargs="+", metavar="FILE", help="heads of each backbone")
    args = parser.parse_args(argv)
    if args.checkpoint and Fdsl.name not in args.methods:
        args.methods = [*args.methods, Fdsl.name]
    return args


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    use_threads(args.threads)
    rows = list(computed(args, read_rows(args.json, Row)))
    print("Image AUROC, pixel AP / PRO, per cent, means over seeds.\n")
    print(means(rows, args.methods))
    if len(args.methods) > 1:
        print(f"\nPoints above `{args.methods[0]}`, paired by references, with 95 % bootstrap intervals.\n")
        print(differences(rows, args.methods))
    print("\nFrames without a part that are flagged (above 95 % of the normal test images, or a reason).\n")
    print(dead(rows))


if __name__ == "__main__":
    run_command(main)
