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

References are sampled and maps evaluated at 240 px as in test.py. Each image is encoded once for each file of
weights and kept in --cache; seconds are those of scoring alone, without the encoding. --json gets a line for
each row as it comes, and a row that it holds is not computed again: delete the file after a change of a
method or of heads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.judges import AnomalyDino, Ours, computed
from benchmarks.products import BATCH, Product, Row, grouped, products_parser, table
from data.records import Record
from fdsl.evaluation.category_metrics import evaluate_category
from models.methods.fdsl import Fdsl
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from utils.command import run_command
from utils.config import PAPER_SIDE
from utils.device import use_threads

METRICS = {"auroc_sp": "image AUROC", "ap_px": "pixel AP", "aupro": "PRO"}
RESAMPLED = 10_000


@dataclass(frozen=True)
class Judged(Row):
    """metrics: per cent. seconds: of scoring one image."""

    metrics: dict[str, float]
    seconds: float


def judged(judge: Ours | AnomalyDino, product: Product, references: Sequence[Record]) -> dict[str, Any]:
    """The last two fields of a row."""
    judge.fit([product.root / record.image_path for record in references])
    batches = product.views(judge.side, judge.layout).split(BATCH)
    started = time.perf_counter() - judge.backbone.seconds
    maps, scores = (np.concatenate(part) for part in zip(*map(judge, batches)))
    seconds = time.perf_counter() - judge.backbone.seconds - started
    metrics = evaluate_category(
        maps, scores, product.labels, lambda place, _: product.masks[place], "max", PAPER_SIDE
    ).metrics
    known = {name: float("nan") if metrics[name] is None else 100 * metrics[name] for name in METRICS}
    return {"metrics": known, "seconds": seconds / len(scores)}


def means(rows: Sequence[Judged]) -> list[list[Any]]:
    """A column for each method, a line for each number of references, backbone and product."""

    def cells(own: Sequence[Judged]) -> list[str]:
        found = []
        for part in grouped(own, "method").values():
            auroc, ap, pro = (np.nanmean([row.metrics[name] for row in part]) for name in METRICS)
            found.append(f"{auroc:.1f}, {ap:.1f} / {pro:.1f}")
        return found

    lines: list[list[Any]] = []
    for (shots,), own in grouped(rows, "shots").items():
        lines += [
            [shots, *place, *cells(part)] for place, part in grouped(own, "weights", "category").items()
        ]
        lines.append([shots, "all", "mean", *cells(own)])
        taken = [np.mean([row.seconds for row in part]) for part in grouped(own, "method").values()]
        lines.append([shots, "all", "ms an image", *(f"{1000 * seconds:.1f}" for seconds in taken)])
    return lines


def interval(groups: Sequence[Sequence[float]]) -> str:
    """The mean over groups of each one's mean, with the 95 % interval of such means where the values within
    each group are resampled."""
    generator, arrays = np.random.default_rng(0), [np.array(group) for group in groups]
    resampled = [one[generator.integers(len(one), size=(RESAMPLED, len(one)))].mean(1) for one in arrays]
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
    return f"{np.mean([one.mean() for one in arrays]):+.1f} [{low:+.1f}, {high:+.1f}]"


def differences(rows: Sequence[Judged], methods: Sequence[str]) -> list[list[Any]]:
    """Each method minus the first, in points, over all products and backbones; and the product on which it is
    least, as the mean over backbones."""
    base = {row.key[1:]: row for row in rows if row.method == methods[0]}
    lines = []
    for kind, own in grouped([row for row in rows if row.method != methods[0]], "method", "shots").items():
        line: list[Any] = [*kind]
        for name in METRICS:
            groups, products = [], dict[str, list[float]]()
            for (category, _), part in grouped(own, "category", "weights").items():
                gained = [row.metrics[name] - base[row.key[1:]].metrics[name] for row in part]
                if known := [gain for gain in gained if not np.isnan(gain)]:
                    groups.append(known)
                    products.setdefault(category, []).append(float(np.mean(known)))
            least = min((np.mean(group), category) for category, group in products.items())
            line += [interval(groups), f"{least[0]:+.1f} ({least[1]})"]
        lines.append(line)
    return lines


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
    rows = list(computed(args, Judged, judged))
    place = ["references", "backbone", "product"]
    table("Image AUROC, pixel AP / PRO, per cent, means over seeds.", place + args.methods, means(rows))
    if len(args.methods) > 1:
        header = ["method", "references", *(word for title in METRICS.values() for word in (title, "least"))]
        title = f"Points above `{args.methods[0]}`, paired by references, with 95 % bootstrap intervals."
        table(title, header, differences(rows, args.methods))


if __name__ == "__main__":
    run_command(main)
