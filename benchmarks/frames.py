"""How often a photograph of a part is given a reason why it cannot be judged, with one reference.

    python benchmarks/frames.py mvtec=DIR visa=DIR --image-size N

Each training image of a product is the one reference in turn, and each of its test images is held against it
(utils/image_statistics.py). Prints the number of pairs and of those with a reason, which are all false. Then
the number of ordered pairs of normal images, and of those that would count as one reference
(fdsl/references/reference_checks.py).
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
from tabulate import tabulate

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.shared import described
from data.catalogue import open_catalogue
from data.images import open_image
from data.records import Record
from data.tensors import image_to_pixels
from fdsl.flags.arguments import whole
from fdsl.references.reference_checks import Thumbnail
from utils.command import run_command
from utils.errors import DataError
from utils.image_statistics import reason_of, statistics_of


def main(argv: list[str] | None = None) -> None:
    parser = described(__doc__)
    parser.add_argument("data", nargs="+", metavar="DATASET=DIR")
    parser.add_argument("--image-size", type=whole(16), default=448, metavar="PX")
    args = parser.parse_args(argv)
    lines = []
    for given in args.data:
        dataset, _, folder = given.partition("=")
        catalogue = open_catalogue(dataset, Path(folder))

        def statistics(record: Record, root: Path = catalogue.root) -> np.ndarray:
            pixels = image_to_pixels(open_image(root / record.image_path), args.image_size)
            return statistics_of(pixels.numpy())

        for category, records in catalogue.test.items():
            references = [statistics(record) for record in catalogue.train[category]]
            tested = [statistics(record) for record in records]
            reasons = [reason_of(one, known[None]) for known in references for one in tested]
            normal = [record for record in records if not record.anomalous] + catalogue.train[category]
            thumbnails = [Thumbnail(open_image(catalogue.root / one.image_path)) for one in normal]
            copies = [one.shows_the_same_as(other) for one, other in permutations(thumbnails, 2)]
            lines.append([category, len(reasons), sum(map(bool, reasons)), len(copies), sum(copies)])
    lines.append(["all", *(sum(line[column] for line in lines) for column in range(1, 5))])
    columns = ["product", "pairs", "with a reason", "pairs of normal images", "taken for copies"]
    print(tabulate(lines, columns, tablefmt="github"))


if __name__ == "__main__":
    run_command(main, (DataError,))
