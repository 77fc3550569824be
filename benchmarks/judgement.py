"""Which method judges best, on the photographs and backbones at hand.

    python benchmarks/judgement.py mvtec=DIR visa=DIR --methods nearest plus nearest:image_score=top1
    --weights FILE FILE --model NAME --layers ... --image-size N --seeds 14 15 16 --shots 1 --cache DIR

A method may carry settings, as in `plus:leave_out=whitening+top-k,rotations=1`: image_score (max or top1),
rotations (rotated copies of each reference, 1 for none, auto; else --rotations), and any option of methods
and windows by its field's name, for instance leave_out, tiles (N or auto), with_batch=1 (mutual scoring).
The first method is what the others are held against.

References are drawn as test.py draws them, and evaluated at 240 px as it does. Photographs are encoded once
for each file of weights and kept in --cache; further methods only match. Prints Markdown tables: image AUROC,
pixel AP and PRO of each method, product, backbone and number of references, means over seeds; then the paired
differences to the first method. The interval holds 95 % of 10,000 bootstrap means in which the draws of
references (the seeds) of each product and backbone are drawn again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from typing import Any

from benchmarks.encoded import Encoded
from data.catalogue import DATASETS, open_catalogue
from data.images import mask_to_tensor, open_image, open_mask
from data.photographs import in_batches
from data.records import Catalogue, Record, draw_references, without_references
from fdsl.assembly import load_tower
from fdsl.calibration import set_scales
from fdsl.evaluation import PAPER_SIDE, evaluate_category
from fdsl.flags.arguments import turns, whole
from fdsl.flags.groups import add_options, add_runtime_flags
from fdsl.inspected import show_inspected, standing_for_all
from fdsl.rotation import fit_references
from fdsl.scoring import Scorer
from fdsl.settings import backbone_config, method_config, window_config
from models.backbone import Backbone
from models.detector import Detector
from models.features import join_score_maps
from models.methods.registry import METHODS
from utils.command import run_command
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.device import choose_device, choose_precision
from utils.errors import ConfigError, DataError, ModelError
from utils.options import Option, options_of

METRICS = {"auroc_sp": "image AUROC", "ap_px": "pixel AP", "aupro": "PRO"}
BATCH = 8
RESAMPLED = 10_000


def _read(known: Option, text: str) -> Any:
    """An option's value as it is typed, several joined by +."""
    if known.span is not None:
        return known.words[text] if text in known.words else known.kind(text)
    return text.split("+") if known.many else text == "1" if known.kind is bool else text


OPTIONS = {**options_of(MethodConfig), **options_of(WindowConfig)}


@dataclass(frozen=True)
class Setting:
    """A method and what is not the default of it; `text` is how the command line wrote it."""

    text: str
    method: str
    rotations: int | str
    image_score: str = "max"
    given: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def read(cls, text: str, rotations: int | str) -> Setting:
        """From METHOD or METHOD:NAME=VALUE,...; ConfigError for what is not known."""
        method, _, rest = text.partition(":")
        if method not in METHODS or METHODS[method].needs_heads:
            raise ConfigError(f"--methods {text}: {method} is not a method without trained heads")
        setting = cls(text, method, rotations)
        for part in filter(None, rest.split(",")):
            name, _, value = part.partition("=")
            if name == "rotations":
                setting = replace(setting, rotations=turns(value))
            elif name == "image_score" and value in ("max", "top1"):
                setting = replace(setting, image_score=value)
            elif name in OPTIONS:
                setting = replace(setting, given=(*setting.given, (name, _read(OPTIONS[name], value))))
            else:
                raise ConfigError(f"--methods {text}: {part} is no setting that this benchmark knows")
        return setting

    def detector(self, backbone: Backbone, side: int) -> Detector:
        """The detector of this setting, its memory still empty."""
        windows = window_config({"winmode": "nan", **dict(self.given)})
        options = method_config({"use_nam": 0, **dict(self.given)})
        method = METHODS[self.method].of_heads(backbone.width, len(backbone.layers), options, None)
        return Detector(backbone, method, side, windows)


@dataclass(frozen=True)
class Row:
    """What one method reached on one product with one draw of references; metrics in per cent."""

    method: str
    weights: str
    category: str
    shots: int
    seed: int
    metrics: dict[str, float]

    @property
    def draw(self) -> tuple:
        """What it shares with another method's row that it is compared with."""
        return self.weights, self.category, self.shots, self.seed


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", metavar="DATASET=DIR", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--methods", nargs="+", default=["nearest", "plus"], metavar="METHOD[:SETTINGS]")
    parser.add_argument("--weights", nargs="+", metavar="FILE", help="several backbones of one --model")
    parser.add_argument("--categories", nargs="+", help="only these products")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[14, 15, 16])
    parser.add_argument("--shots", type=whole(1), nargs="+", default=[1])
    parser.add_argument("--rotations", type=turns, default=8, help="turned copies (default 8)")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every row too")
    add_options(parser, BackboneConfig)
    add_runtime_flags(parser)
    return parser.parse_args(argv)


def encoded_backbone(args: argparse.Namespace, weights: str | None) -> tuple[Backbone, int]:
    """The backbone of the flags with these weights, which encodes an image once, and its image side."""
    config = backbone_config({**vars(args), "pretrained": weights or args.pretrained})
    device = choose_device(args.device)
    dtype = choose_precision(args.precision, device)
    loaded = load_tower(config, device, dtype)
    return Encoded(loaded, args.cache), config.image_size


def masks_of(catalogue: Catalogue, tested: Sequence[Record]) -> list[np.ndarray | None]:
    """Each test image's mask at PAPER_SIDE; None for a defect without one."""
    found: list[np.ndarray | None] = []
    for record in tested:
        if record.anomalous and not record.mask_path:
            found.append(None)
            continue
        mask = open_mask(catalogue.root / record.mask_path) if record.mask_path else None
        found.append(mask_to_tensor(mask, PAPER_SIDE)[0].numpy() > 0)
    return found


def judged(
    setting: Setting,
    backbone: Backbone,
    side: int,
    references: Sequence[Path],
    tested: Sequence[Image.Image],
    labels: np.ndarray,
    masks: Sequence[np.ndarray | None],
) -> dict[str, float]:
    """The metrics, in per cent, of one setting after it was shown the references."""
    photographs = [open_image(path) for path in references]
    scorer = Scorer(setting.detector(backbone, side))
    if scorer.detector.looks_at_inspected:
        chosen = standing_for_all(tested)
        show_inspected(scorer, iter(chosen), len(chosen))
    if scorer.detector.method.needs_references:
        turns = fit_references(scorer, photographs, setting.rotations)
        set_scales(scorer, photographs, turns)
    batches = (scorer.to_batch(part) for part in in_batches(tested, BATCH))
    found = join_score_maps([scorer(batch, ["a test image"] * len(batch)) for batch in batches])
    maps, raw = found.fused(scorer.detector.settings)
    metrics = evaluate_category(
        maps, raw, labels, lambda index, _: masks[index], setting.image_score, PAPER_SIDE
    ).metrics
    return {name: float("nan") if metrics[name] is None else 100 * metrics[name] for name in METRICS}


def products(args: argparse.Namespace) -> Iterator[tuple[str, Backbone, int, Catalogue, str]]:
    """Backbone by backbone and product by product: the weights' name, the backbone and its image side, the
    product's catalogue and its name."""
    for weights in args.weights or [None]:
        backbone, side = encoded_backbone(args, weights)
        name = Path(weights or args.pretrained or "default").stem
        for given in args.data:
            dataset, _, folder = given.partition("=")
            catalogue = open_catalogue(dataset, Path(folder))
            for category in catalogue.test:
                if not args.categories or category in args.categories:
                    yield name, backbone, side, catalogue, category


def judge(args: argparse.Namespace, settings: Sequence[Setting]) -> Iterator[Row]:
    """Every row, backbone by backbone and product by product."""
    for name, backbone, side, catalogue, category in products(args):
        yield from of_category(args, settings, backbone, side, name, catalogue, category)


def of_category(
    args: argparse.Namespace,
    settings: Sequence[Setting],
    backbone: Backbone,
    side: int,
    weights: str,
    catalogue: Catalogue,
    category: str,
) -> Iterator[Row]:
    """The rows of one product with one backbone."""
    records = catalogue.test[category]
    photographs = [open_image(catalogue.root / record.image_path) for record in records]
    masks = masks_of(catalogue, records)
    for shots in args.shots:
        for seed in args.seeds:
            drawn = draw_references(catalogue.train[category], shots, seed, category)
            kept = [records.index(record) for record in without_references(records, drawn)]
            labels = np.array([records[index].anomalous for index in kept])
            tested = [photographs[index] for index in kept]
            paths = [catalogue.root / record.image_path for record in drawn]
            for setting in settings:
                started = time.perf_counter()
                chosen = [masks[index] for index in kept]
                metrics = judged(setting, backbone, side, paths, tested, labels, chosen)
                row = Row(setting.text, weights, category, shots, seed, metrics)
                seconds = time.perf_counter() - started
                print(f"{asdict(row)} {seconds:.1f} s", file=sys.stderr, flush=True)
                yield row


def cell(rows: Sequence[Row]) -> str:
    """Image AUROC | pixel AP / PRO, means over rows."""
    auroc, ap, pro = (np.mean([row.metrics[name] for row in rows]) for name in METRICS)
    return f"{auroc:.1f}, {ap:.1f} / {pro:.1f}"


def table(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """A line for each method and number of references, a column for each backbone and product."""
    columns = list(dict.fromkeys((row.weights, row.category) for row in rows))
    lines = []
    for shots in dict.fromkeys(row.shots for row in rows):
        for method in methods:
            own = [row for row in rows if row.method == method and row.shots == shots]
            cells = [cell([row for row in own if (row.weights, row.category) == one]) for one in columns]
            lines.append([method, shots, *cells, cell(own)])
    header = ["method", "shots", *(f"{weights}: {category}" for weights, category in columns), "mean"]
    return tabulate(lines, header, tablefmt="github")


def interval(differences: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The mean over groups of each group's mean difference, and the 95 % interval of such means with the
    draws within each group drawn again."""
    generator = np.random.default_rng(0)
    means = [
        group[generator.integers(len(group), size=(RESAMPLED, len(group)))].mean(1) for group in differences
    ]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(np.mean([group.mean() for group in differences])), float(low), float(high)


def differences(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """What each method gains over the first, in points: over all products and backbones, and on the one where
    it gains least."""
    base = {row.draw: row for row in rows if row.method == methods[0]}
    lines = []
    for method in methods[1:]:
        own = [row for row in rows if row.method == method]
        for shots in dict.fromkeys(row.shots for row in own):
            line: list = [method, shots]
            for name in METRICS:
                groups: dict[tuple[str, str], list[float]] = {}
                for row in own:
                    if row.shots == shots:
                        gained = row.metrics[name] - base[row.draw].metrics[name]
                        groups.setdefault((row.weights, row.category), []).append(gained)
                mean, low, high = interval([np.array(group) for group in groups.values()])
                worst = min(groups, key=lambda one: np.mean(groups[one]))
                least = f"{np.mean(groups[worst]):+.1f} ({worst[0]}, {worst[1]})"
                line += [f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]", least]
            lines.append(line)
    header = ["method", "shots"]
    for title in METRICS.values():
        header += [title, "least"]
    return tabulate(lines, header, tablefmt="github")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    settings = [Setting.read(text, args.rotations) for text in args.methods]
    with torch.inference_mode():
        rows = list(judge(args, settings))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print("Image AUROC, pixel AP / PRO, per cent, means over seeds.\n")
    print(table(rows, args.methods))
    if len(settings) > 1:
        print(f"\nPoints above `{args.methods[0]}`, paired by draw, with 95 % bootstrap intervals.\n")
        print(differences(rows, args.methods))


if __name__ == "__main__":
    run_command(main, (DataError, ModelError, ConfigError))
