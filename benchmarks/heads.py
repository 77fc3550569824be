"""Which trained heads generalise: learnt on all products but one and tested on that one, each in turn.

    python benchmarks/heads.py mvtec=DIR visa=DIR --weights FILE FILE --model NAME --layers ...
    --image-size N --seeds 14 15 --cache DIR --json FILE

The heads (--variants: those of benchmarks/trial_heads.py, all unless some are named) learn from the other
products' test photographs with masks (real), from --drawn good photographs of each of them, on half of which
defects are drawn as train.py --synthetic does (drawn), or from both (mixed). One good photograph of the
tested product is the reference, drawn as test.py draws it and turned as --rotate-references auto says. Each
variant is judged alone, in a geometric mean with `plus` (`x plus`), in a mean with it on the scale of what
references reach (`+ plus`), and heads as train.py makes them as method both too (`+ nearest`). Here `plus`
has no bilateral filter, and all blocks count alike in its score. --methods, written as for
benchmarks/judgement.py, are what they are held against.

Photographs are encoded once and kept in --cache. Rows are kept in --json as they are made: the same command
goes on where it was stopped. Prints Markdown tables: image AUROC, pixel AP and PRO, means over seeds, and the
paired differences to each of --methods.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.judgement import METRICS, Row, Setting, differences, judged, masks_of, products, table
from benchmarks.trial_heads import (
    BATCH,
    PLUS,
    VARIANTS,
    Example,
    Judge,
    References,
    Shown,
    Variant,
    fitted,
    published,
)
from data.catalogue import DATASETS
from data.dataset import TrainingDataset
from data.images import image_to_pixels, mask_to_tensor, open_image, open_mask
from data.photographs import in_batches
from data.records import Catalogue, Record, draw_references, without_references
from fdsl.evaluation import PAPER_SIDE, evaluate_category
from fdsl.flags.arguments import SEED, whole
from fdsl.flags.groups import add_backbone_flags, add_runtime_flags
from models.backbone import Backbone
from utils.command import run_command
from utils.config import SYNTHETIC
from utils.errors import ConfigError, DataError, ModelError

COARSER = 2  # masks are learnt at half the image's side, which takes a quarter of the time for the loss
SHOTS = 1
ROTATIONS = "auto"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", metavar="DATASET=DIR", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--methods", nargs="+", default=[PLUS, "nearest"], metavar="METHOD[:SETTINGS]")
    parser.add_argument("--weights", nargs="+", metavar="FILE", help="several backbones of one --model")
    parser.add_argument("--categories", nargs="+", help="only these products")
    parser.add_argument("--held-out", nargs="+", metavar="PRODUCT", help="only these are tested on")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[14, 15])
    parser.add_argument("--training-seed", type=SEED, default=111)
    parser.add_argument("--steps", type=whole(1), default=80, help="of a training (default 80)")
    parser.add_argument("--drawn", type=whole(1), default=60, help="of each product (default 60)")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps every row")
    add_backbone_flags(parser)
    add_runtime_flags(parser)
    return parser.parse_args(argv)


class Product:
    """A product's photographs as one backbone sees them, each looked at once beside the same references."""

    def __init__(
        self, args: argparse.Namespace, backbone: Backbone, side: int, catalogue: Catalogue, category: str
    ) -> None:
        self.args, self.backbone, self.side = args, backbone, side
        self.catalogue, self.category = catalogue, category
        good = catalogue.train[category]
        drawn = [one for seed in args.seeds for one in draw_references(good, SHOTS, seed, category)]
        self.records = without_references(catalogue.test[category], drawn)
        self.masks = masks_of(catalogue, self.records)
        self.labels = np.array([record.anomalous for record in self.records])
        self._shown: dict[tuple[int, int], tuple[References, list[Shown]]] = {}
        self._drawn: list[Example] = []

    def drawn_records(self, shots: int, seed: int) -> list[Record]:
        """The references of a draw, at most as many as there are."""
        good = self.catalogue.train[self.category]
        return draw_references(good, min(shots, len(good)), seed, self.category)

    def paths(self, records: Sequence[Record]) -> list[Path]:
        return [self.catalogue.root / record.image_path for record in records]

    def shown(self, shots: int, seed: int) -> tuple[References, list[Shown]]:
        """References, turned where one stands alone, and the test photographs beside them."""
        if (shots, seed) not in self._shown:
            photographs = [open_image(path) for path in self.paths(self.drawn_records(shots, seed))]
            rotations = ROTATIONS if shots == SHOTS else 1
            references = References(self.backbone, self.side, photographs, rotations)
            pixels = (image_to_pixels(open_image(path), self.side) for path in self.paths(self.records))
            self._shown[shots, seed] = references, [references.beside(one) for one in pixels]
        return self._shown[shots, seed]

    def examples(self, variant: Variant) -> list[Example]:
        """What a variant learns from."""
        found = [] if variant.learns == "drawn" else self._real(variant.shots)
        return found if variant.learns == "real" else [*found, *self._with_drawn_defects()]

    def _real(self, shots: int) -> list[Example]:
        _, shown = self.shown(shots, self.args.seeds[0])
        return [
            (one, self._mask(record))
            for one, record in zip(shown, self.records)
            if record.mask_path or not record.anomalous
        ]

    def _mask(self, record: Record) -> Tensor:
        mask = open_mask(self.catalogue.root / record.mask_path) if record.mask_path else None
        return F.max_pool2d(mask_to_tensor(mask, self.side), COARSER)

    def _with_drawn_defects(self) -> list[Example]:
        """Good training photographs, half of them with a drawn defect."""
        if not self._drawn:
            seed = self.args.seeds[0]
            good = [one for one in self.catalogue.train[self.category] if not one.anomalous]
            left = without_references(good, self.drawn_records(SHOTS, seed))
            drawn = TrainingDataset(
                self.catalogue.root, left, self.side, SYNTHETIC["only"], self.args.training_seed
            )
            references, _ = self.shown(SHOTS, seed)
            items = (drawn[key] for key in range(self.args.drawn))
            self._drawn = [
                (references.beside(one["image"]), F.max_pool2d(one["mask"], COARSER)) for one in items
            ]
        return self._drawn


class Rows:
    """The rows there are, kept in a file as they are made."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        kept = json.loads(file.read_text()) if file and file.exists() else []
        self.all = {(row["method"], *Row(**row).draw): Row(**row) for row in kept}

    def __contains__(self, key: tuple) -> bool:
        return key in self.all

    def add(self, row: Row, seconds: float) -> None:
        self.all[(row.method, *row.draw)] = row
        print(f"{asdict(row)} {seconds:.1f} s", file=sys.stderr, flush=True)
        if self.file:
            self.file.write_text(json.dumps([asdict(one) for one in self.all.values()], indent=1))


def names_of(text: str) -> list[str]:
    """What the rows of a variant are called."""
    own = (" + nearest",) if VARIANTS[text].head is published else ()
    return [text + how for how in ("", " x plus", " + plus", *own)]


def measured(maps: Tensor, scores: Tensor, product: Product) -> dict[str, float]:
    """The metrics, in per cent, of maps (n,S,S) and scores (n,)."""
    mask_of = lambda index, _: product.masks[index]  # noqa: E731
    found = evaluate_category(
        maps.numpy(), scores.numpy(), product.labels, mask_of, "max", PAPER_SIDE
    ).metrics
    return {name: float("nan") if found[name] is None else 100 * found[name] for name in METRICS}


def base_rows(args: argparse.Namespace, weights: str, product: Product, rows: Rows) -> None:
    """What the methods without trained heads reach on a product."""
    for text in args.methods:
        setting = Setting.read(text, ROTATIONS)
        for seed in args.seeds:
            if (text, weights, product.category, SHOTS, seed) in rows:
                continue
            started = time.perf_counter()
            tested = [open_image(path) for path in product.paths(product.records)]
            references = product.paths(product.drawn_records(SHOTS, seed))
            with torch.inference_mode():
                metrics = judged(
                    setting, product.backbone, product.side, references, tested, product.labels, product.masks
                )
            row = Row(text, weights, product.category, SHOTS, seed, metrics)
            rows.add(row, time.perf_counter() - started)


def rows_of_variant(
    args: argparse.Namespace, weights: str, text: str, product: Product, others: Sequence[Product], rows: Rows
) -> None:
    """What a variant that learnt on the others reaches on a product."""
    names, seeds = names_of(text), args.seeds
    if all((name, weights, product.category, SHOTS, seed) in rows for name in names for seed in seeds):
        return
    started = time.perf_counter()
    with torch.no_grad():
        examples = [one for other in others for one in other.examples(VARIANTS[text])]
    head = fitted(VARIANTS[text], examples, args.steps, args.training_seed)
    for seed in seeds:
        with torch.no_grad():
            references, shown = product.shown(SHOTS, seed)
            judge = Judge(VARIANTS[text], head, references)
            parts = [judge(part) for part in in_batches(shown, BATCH)]
            for how in parts[0]:
                maps, scores = (torch.cat(values) for values in zip(*(part[how] for part in parts)))
                metrics = measured(maps, scores, product)
                seconds = time.perf_counter() - started
                rows.add(Row(text + how, weights, product.category, SHOTS, seed, metrics), seconds)


def measure(args: argparse.Namespace, rows: Rows) -> set[tuple[str, str]]:
    """Every row that is not there yet, backbone by backbone and variant by variant; of which weights and
    products they are."""
    asked = set()
    for weights, found in groupby(products(args), key=lambda one: one[0]):
        all_products = [Product(args, *parts) for _, *parts in found]
        if len(all_products) < 2:
            raise ConfigError("heads learn on other products: name two or more.")
        tested = [one for one in all_products if not args.held_out or one.category in args.held_out]
        for product in tested:
            asked.add((weights, product.category))
            base_rows(args, weights, product, rows)
        for text in args.variants:
            for product in tested:
                others = [other for other in all_products if other is not product]
                rows_of_variant(args, weights, text, product, others, rows)
    return asked


def wanted(args: argparse.Namespace, rows: Rows) -> Iterator[tuple[str, list[Row]]]:
    """The names of the methods that were asked for, in order, each with its rows."""
    asked = measure(args, rows)
    found = [row for row in rows.all.values() if (row.weights, row.category) in asked]
    for name in [*args.methods, *(name for text in args.variants for name in names_of(text))]:
        yield name, [row for row in found if row.method == name and row.seed in args.seeds]


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    rows = Rows(args.json)
    found = dict(wanted(args, rows))
    every = [row for part in found.values() for row in part]
    print("Image AUROC, pixel AP / PRO, per cent, means over seeds.\n")
    print(table(every, list(found)))
    for base in args.methods:
        print(f"\nPoints above `{base}`, paired by draw, with 95 % bootstrap intervals.\n")
        print(differences(every, [base, *(name for name in found if name != base)]))


if __name__ == "__main__":
    run_command(main, (DataError, ModelError, ConfigError))
