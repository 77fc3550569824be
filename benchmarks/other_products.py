"""How far good parts lie above what references say of themselves, and how well a threshold with it holds.

    python benchmarks/other_products.py mvtec=DIR visa=DIR --methods nearest plus:rotations=auto
    --weights FILE FILE --model NAME --layers ... --image-size N --seeds 14 15 16 17 18 --cache DIR

References are drawn as test.py draws them, and the good test images say where good parts lie. Prints the
numbers of fdsl/good_parts.py, learnt on all products, and a table in which each product's threshold rests on
the others alone: how many of its good images are called anomalous (on average over draws, of the worst draw)
and how many of its defective ones, without what other products taught, with it, and with a limit that knows
this very product's good images from the other draws. Further tables say how far good images lie above what
references say, and count how often each of the thresholds holds, and how often a good reference is called
unlike the others.
`--rows FILE ...` keeps what was scored, and reads it instead where it is there; several files are read
together. Photographs are encoded once for each file of weights and kept in --cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.judgement import BATCH, catalogues, towers
from benchmarks.judges import Ours, encoded_backbone
from data.catalogue import DATASETS
from data.images import open_image
from data.photographs import in_batches
from data.records import Catalogue, draw_references, without_references
from fdsl.calibration import as_unknown, mean_apart, set_scales
from fdsl.evaluation import fused_scores
from fdsl.flags.arguments import rotation_count, whole
from fdsl.flags.groups import add_options, add_runtime_flags
from fdsl.good_parts import WITH_TILES, weight_alone
from fdsl.rotation import fit_references
from fdsl.scoring import Scorer
from fdsl.thresholds import (
    APART,
    HELD_OUT,
    Above,
    log_odds,
    step_of,
    unlike,
    upper_limit,
    what_references_say,
)
from models.features import ScoreMaps
from utils.command import run_command
from utils.config import BackboneConfig
from utils.errors import ConfigError, DataError, ModelError

RATES = (0.05, 0.10)
SCORES = ("max", "top1")
WAYS = ("references alone", "with others", "product known")  # that a threshold comes from


@dataclass(frozen=True)
class Row:
    """One draw of references: what they score among themselves, values and their kinds (n,), and what the
    good and the defective test images score. `score`: of image score max or top1."""

    method: str
    score: str
    weights: str
    category: str
    shots: int
    seed: int
    values: list[float]
    kinds: list[int]
    good: list[float]
    bad: list[float]

    def above(self, alone: float) -> np.ndarray:
        """How far each good image (n,) lies above what the references say, in log-odds."""
        said = what_references_say(log_odds(np.array(self.values)), np.array(self.kinds), alone)
        return log_odds(np.array(self.good)) - said

    @property
    def names_one(self) -> bool:
        """Whether one of the references is called unlike the others."""
        kinds = np.array(self.kinds)
        return HELD_OUT in kinds and unlike(log_odds(np.array(self.values)), kinds) is not None

    def reached(self, rate: float, above: Above | None) -> tuple[float, float]:
        """Which share of good and of defective images is called anomalous."""
        return self.beyond(upper_limit(np.array(self.values), np.array(self.kinds), rate, above))

    def beyond(self, limit: float) -> tuple[float, float]:
        """Which share of good and of defective images reaches the limit."""
        return float((np.array(self.good) >= limit).mean()), float((np.array(self.bad) >= limit).mean())


def learnt(rows: Sequence[Row]) -> Above:
    """From draws of as many references, of several products and backbones, all of which count alike."""
    alone = weight_alone(rows[0].method, rows[0].shots)
    found = [row.above(alone) for row in rows]
    shifts = np.array([one.mean() for one in found])
    spread = np.sqrt(shifts.var() + np.mean([one.var() for one in found]))
    step = np.mean([step_of(log_odds(np.array(row.values)), np.array(row.kinds), alone) for row in rows])
    return Above(float(shifts.mean()), float(spread), alone, float(step))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", metavar="DATASET=DIR", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument(
        "--methods", nargs="+", default=["nearest", "plus:rotations=auto"], metavar="METHOD[:SETTINGS]"
    )
    parser.add_argument("--weights", nargs="+", metavar="FILE", help="several backbones of one --model")
    parser.add_argument("--categories", nargs="+", help="only these products")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[14, 15, 16, 17, 18])
    parser.add_argument("--shots", type=whole(1), nargs="+", default=[1, 2, 4])
    parser.add_argument("--rotations", type=rotation_count, default=1, help="turned copies (default 1: none)")
    parser.add_argument("--defects", type=whole(1), default=30, help="of a product, at most (drawn)")
    parser.add_argument("--cache", type=Path, metavar="DIR")
    parser.add_argument("--rows", type=Path, nargs="+", metavar="FILE")
    parser.set_defaults(checkpoint=None)
    add_options(parser, BackboneConfig)
    add_runtime_flags(parser)
    return parser.parse_args(argv)


def collected(args: argparse.Namespace) -> Iterator[Row]:
    """Every row, backbone by backbone and product by product."""
    for name, tower, _ in towers(args):
        backbone = encoded_backbone(args, tower)
        for category, catalogue in catalogues(args).items():
            for text in args.methods:
                judge = Ours(text, args, tower, backbone)
                if "rotations=" not in text:
                    judge.rotations = args.rotations
                yield from of_category(args, judge, name, catalogue, category)


def of_category(
    args: argparse.Namespace, judge: Ours, weights: str, catalogue: Catalogue, category: str
) -> Iterator[Row]:
    """The rows of one method on one product with one backbone."""
    good = [record for record in catalogue.test[category] if not record.anomalous]
    bad = [record for record in catalogue.test[category] if record.anomalous]
    chosen = np.random.default_rng(0).permutation(len(bad))[: args.defects]
    scorer = judge.scorer
    method = judge.method + (WITH_TILES if scorer.detector.settings.tiles != 1 else "")
    images = {
        record: open_image(catalogue.root / record.image_path)
        for record in [*good, *(bad[index] for index in chosen)]
    }
    for shots in args.shots:
        for seed in args.seeds:
            drawn = draw_references(catalogue.train[category], shots, seed, category)
            photographs = [open_image(catalogue.root / record.image_path) for record in drawn]
            turned = fit_references(scorer, photographs, judge.rotations)
            set_scales(scorer, photographs, turned)
            values, kinds = among_themselves(scorer, photographs, turned)
            tested = without_references(list(images), drawn)
            found = scores_of(scorer, [images[record] for record in tested])
            labels = np.array([record.anomalous for record in tested])
            print(weights, category, method, shots, seed, turned, file=sys.stderr, flush=True)
            for score, reached in found.items():
                yield Row(
                    *(method, score, weights, category, shots, seed),
                    *(values[score].tolist(), kinds.tolist()),
                    *(reached[~labels].tolist(), reached[labels].tolist()),
                )


def among_themselves(
    scorer: Scorer, photographs: list, turned: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What references score among themselves, for each score, and of which kinds the values are."""
    batches = [(batch.score(), batch.kinds) for batch in as_unknown(scorer, photographs, turned)]
    parts = [part for part, _ in batches]
    apart = np.array([mean_apart(scorer, photo) for photo in photographs])
    kinds = np.concatenate([*(kinds for _, kinds in batches), np.full(len(apart), APART)])
    found = scores_among(parts, scorer)
    return {score: np.append(values, apart) for score, values in found.items()}, kinds


def scores_of(scorer: Scorer, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """The scores of test images, of each kind."""
    batches = (scorer.to_batch(part) for part in in_batches(images, BATCH))
    parts = [scorer(batch, ["a test image"] * len(batch)) for batch in batches]
    return scores_among(parts, scorer)


def scores_among(parts: Sequence[ScoreMaps], scorer: Scorer) -> dict[str, np.ndarray]:
    """Of each kind, from score maps."""
    windows = scorer.detector.settings
    return {
        score: np.concatenate([fused_scores(part, windows, score)[1] for part in parts]) for score in SCORES
    }


def numbers(rows: Sequence[Row]) -> str:
    """The entries of fdsl/good_parts.py."""
    lines = []
    for method, score in dict.fromkeys((row.method, row.score) for row in rows):
        own = [row for row in rows if (row.method, row.score) == (method, score)]
        found = {
            shots: learnt([row for row in own if row.shots == shots])
            for shots in dict.fromkeys(row.shots for row in own)
        }
        said = ", ".join(f"{shots}: {entry(one)}" for shots, one in found.items())
        lines.append(f'    ("{method}", "{score}"): {{{said}}},')
    return "\n".join(lines)


def entry(one: Above) -> str:
    return f"Above({one.shift:.3f}, {one.spread:.3f}, {one.alone}, {one.step:.3f})"


def known_limit(rows: Sequence[Row], row: Row, rate: float) -> float:
    """What good images of the very same product and backbone exceed at the rate, with the other draws of
    references: as much as anything that is learnt beforehand could say."""
    return float(np.quantile([score for other in rows if other is not row for score in other.good], 1 - rate))


def shares(rows: Sequence[Row]) -> Iterator[tuple[Row, float, dict[str, list[tuple[float, float]]]]]:
    """For each product with each backbone, method, score and number of references, and for each rate: one of
    its rows, the rate, and for each of WAYS the shares that are called anomalous, draw by draw."""
    groups = dict.fromkeys((row.method, row.score, row.category, row.shots, row.weights) for row in rows)
    for method, score, category, shots, weights in groups:
        alike = [row for row in rows if (row.method, row.score, row.shots) == (method, score, shots)]
        others = learnt([row for row in alike if row.category != category])
        own = [row for row in alike if (row.category, row.weights) == (category, weights)]
        if len(own) < 2:
            raise ConfigError("each draw is held against the others: name two --seeds or more")
        for rate in RATES:
            found = (
                [row.reached(rate, None) for row in own],
                [row.reached(rate, others) for row in own],
                [row.beyond(known_limit(own, row, rate)) for row in own],
            )
            yield own[0], rate, dict(zip(WAYS, found))


def table(rows: Sequence[Row]) -> str:
    """How well thresholds hold whose product had no part in what was learnt."""
    lines: dict[tuple, list[str]] = {}
    for row, _, found in shares(rows):
        line = lines.setdefault((row.method, row.score, row.category, row.shots, row.weights), [])
        line += [cell(found[way]) for way in WAYS]
    header = [f"{rate:.0%}, {way}" for rate in RATES for way in WAYS]
    return tabulate(
        [[*names, *cells] for names, cells in lines.items()],
        ["method", "score", "category", "k", "weights", *header],
        tablefmt="github",
    )


def steps(rows: Sequence[Row]) -> str:
    """How far good images lie above what references say of them, and how they spread: of each product and
    backbone the mean over draws."""
    columns, lines = products_of(rows), []
    for method, score, shots in dict.fromkeys((row.method, row.score, row.shots) for row in rows):
        own = [row for row in rows if (row.method, row.score, row.shots) == (method, score, shots)]
        cells = []
        for names in columns:
            found = [
                row.above(weight_alone(method, shots)) for row in own if (row.weights, row.category) == names
            ]
            step, spread = (np.mean([one.mean() for one in found]), np.mean([one.std() for one in found]))
            cells.append(f"{step:+.2f}, {spread:.2f}")
        lines.append([method, score, shots, *cells])
    header = ["method", "score", "k", *(f"{weights}: {category}" for weights, category in columns)]
    return tabulate(lines, header, tablefmt="github")


def products_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each backbone with each product."""
    return list(dict.fromkeys((row.weights, row.category) for row in rows))


def holds(found: Sequence[tuple[float, float]], rate: float) -> bool:
    """Whether the good images that are called anomalous are on average within a factor of two of the rate,
    and of the worst draw at most four times as many."""
    good = np.array(found)[:, 0]
    return bool(rate / 2 <= good.mean() <= 2 * rate and good.max() <= 4 * rate)


def summary(rows: Sequence[Row]) -> str:
    """In how many of the table's cells a threshold `holds`, and in how many draws one of the references, all
    of which are good, is called unlike the others."""
    counts: dict[tuple, dict[str, int]] = {}
    for row, rate, found in shares(rows):
        own = counts.setdefault((row.method, row.score, row.shots), dict.fromkeys(("cells", *WAYS), 0))
        own["cells"] += 1
        for way in WAYS:
            own[way] += holds(found[way], rate)
    lines = []
    for names, own in counts.items():
        draws = [row for row in rows if (row.method, row.score, row.shots) == names]
        lines.append([*names, *own.values(), f"{sum(row.names_one for row in draws)} of {len(draws)}"])
    return tabulate(lines, ["method", "score", "k", "cells", *WAYS, "called unlike"], tablefmt="github")


def cell(found: Sequence[tuple[float, float]]) -> str:
    """Shares of good and of defective ones -> means, and the worst draw's in brackets."""
    good, bad = np.array(found).T
    return f"{good.mean():.1%} ({good.max():.0%}), {bad.mean():.0%}"


def read_rows(files: Sequence[Path]) -> list[Row]:
    """What was kept in those of the files that are there."""
    return [Row(**values) for file in files if file.exists() for values in json.loads(file.read_text())]


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    rows = read_rows(args.rows or [])
    if not rows:
        if not args.cache or not args.data:
            raise ConfigError("name DATASET=DIR and --cache DIR, or --rows FILE that is there")
        with torch.inference_mode():
            rows = list(collected(args))
        for file in args.rows or []:
            file.write_text(json.dumps([asdict(row) for row in rows]))
    print("Learnt on all products:\n")
    print(numbers(rows))
    print("\nFound on good images (worst draw), caught; each product by what the others taught.\n")
    print(table(rows))
    print("\nStep of good images above what references say, and their spread, in log-odds.\n")
    print(steps(rows))
    print("\nCells that are within a factor of two of the wish, and whose worst draw is within four.\n")
    print(summary(rows))


if __name__ == "__main__":
    run_command(main, (DataError, ModelError, ConfigError))
