"""The products, backbones and rows of judgement.py and thresholds.py: their common command line, test images
and file of rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks.shared import described
from data.catalogue import open_catalogue
from data.images import open_image
from data.masks import open_mask
from data.photographs import mask_to_tensor, views_of
from data.records import DATASETS, Catalogue, Record, without_references
from fdsl.config.resolve import backbone_config
from fdsl.flags.groups import add_options
from utils.command_line import whole
from utils.config import PAPER_SIDE, BackboneConfig, RuntimeOptions
from utils.errors import ConfigError
from utils.views import Views

BATCH = 8


class Product:
    """A product's test images, at most `most` of them."""

    def __init__(self, catalogue: Catalogue, category: str, most: int | None) -> None:
        self.root, self.train = catalogue.root, catalogue.train[category]
        self.records = sampled(without_references(catalogue.test[category], self.train), most)
        self.labels = np.array([record.anomalous for record in self.records])
        self.masks = [self._mask(record) for record in self.records]
        self._views: dict[Any, Views] = {}

    def _mask(self, record: Record) -> np.ndarray | None:
        """(240,240) bool; None for a defect without a mask."""
        if record.anomalous and not record.mask_path:
            return None
        mask = open_mask(self.root / record.mask_path) if record.mask_path else None
        return mask_to_tensor(mask, PAPER_SIDE)[0].numpy() > 0

    def views(self, side: int, layout: Any) -> Views:
        """All images, made once for each layout of tiles."""
        if (side, layout) not in self._views:
            images = (open_image(self.root / record.image_path) for record in self.records)
            self._views[side, layout] = Views.joined([views_of(image, side, layout) for image in images])
        return self._views[side, layout]


def sampled(records: Sequence[Record], most: int | None) -> list[Record]:
    """At most `most` records, half of them normal and half defective, by a fixed seed."""
    chosen: list[Record] = []
    for kind in (False, True):
        of_kind = [record for record in records if record.anomalous == kind]
        order = np.random.default_rng(0).permutation(len(of_kind))
        chosen += [of_kind[place] for place in sorted(order[: None if most is None else most // 2])]
    return chosen


def catalogues(args: argparse.Namespace) -> dict[str, Catalogue]:
    """Each product's name and its dataset's catalogue; ConfigError for a name that comes twice."""
    found: dict[str, Catalogue] = {}
    for given in args.data:
        dataset, _, folder = given.partition("=")
        catalogue = open_catalogue(dataset, Path(folder))
        for category in catalogue.test:
            if category in found:
                raise ConfigError(f"{given}: there is another product named {category}; rename one")
            if not args.categories or category in args.categories:
                found[category] = catalogue
    return found


def backbones_of(args: argparse.Namespace) -> Iterator[tuple[str, BackboneConfig, Path | None]]:
    """Each backbone's name and settings, and its checkpoint of trained heads."""
    weights, heads = args.weights or [args.pretrained], args.checkpoint or []
    if heads and len(heads) != len(weights):
        raise ConfigError(f"--checkpoint: give one for each of {len(weights)} backbone(s), in their order")
    for place, file in enumerate(weights):
        encoder = backbone_config({**vars(args), "pretrained": file})
        yield Path(encoder.pretrained).stem, encoder, heads[place] if heads else None


@dataclass(frozen=True)
class Row:
    """What one method reached on one product with one sample of references. run: settings of the backbone and
    number of images."""

    method: str
    weights: str
    category: str
    shots: int
    seed: int
    run: str

    @property
    def key(self) -> tuple:
        return self.method, self.weights, self.category, self.shots, self.seed, self.run


def grouped(rows: Sequence[Any], *names: str) -> dict[tuple, list[Any]]:
    """The rows of each combination of these fields, in the order of the rows."""
    found: dict[tuple, list[Any]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return found


def table(title: str, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Prints lines of cells below a title."""
    print(f"\n{title}\n\n{tabulate(lines, header, tablefmt='github')}")


def read_rows(file: Path | None, kind: type[Row]) -> dict[tuple, Any]:
    """The rows of `kind` in a file that may not be there yet, by their keys; a line that was cut off is
    none."""
    rows = {}
    for line in file.read_text().splitlines() if file and file.exists() else ():
        try:
            row = kind(**json.loads(line))
        except ValueError:
            continue
        rows[row.key] = row
    return rows


def write_row(row: Row, file: Path | None) -> None:
    """Adds a row to the file, on a line of its own, and logs its key."""
    print(*row.key, file=sys.stderr, flush=True)
    if file:
        cut_off = file.exists() and file.read_text()[-1:] not in ("", "\n")
        with open(file, "a") as stream:
            stream.write("\n" * cut_off + json.dumps(asdict(row)) + "\n")


def products_parser(
    text: str | None, methods: Sequence[str], seeds: Sequence[int]
) -> argparse.ArgumentParser:
    """A command line of products, backbones, methods and samples of references."""
    parser = described(text)
    parser.add_argument("data", nargs="+", metavar="DATASET=DIR", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--methods", nargs="+", default=methods, metavar="METHOD")
    parser.add_argument("--weights", nargs="+", metavar="FILE", help="several backbones of one --model")
    parser.add_argument("--categories", nargs="+", help="only these products")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=seeds)
    parser.add_argument("--shots", type=whole(1), nargs="+", default=[1])
    parser.add_argument("--images", type=whole(2), metavar="N", help="test images of a product, at most")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="rows are added to it, one a line")
    parser.set_defaults(checkpoint=None)
    add_options(parser, BackboneConfig)
    add_options(parser, RuntimeOptions)
    return parser
