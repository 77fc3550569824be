"""How often a photograph of a part is given a reason why it cannot be judged, with one reference.

    python benchmarks/frames.py mvtec=DIR visa=DIR --image-size N

Each training image of a product is the one reference in turn, and each of its test images is held against it
(utils/image_statistics.py). Prints the number of pairs and of those with a reason, which are all false. Then
the number of ordered pairs of normal images, and of those that would count as one reference
(fdsl/references/fitted_references.py), and in how many of 1,000 draws of four normal images as references one
would be left out. A second table has the frames of a camera that fails, made from four normal test images,
and how many per cent of their pairs have a reason. A third one has the same frames among three normal images:
in how many per cent of the draws the frame is left out, and nothing else.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tabulate import tabulate

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.products import catalogues
from benchmarks.shared import described
from data.images import open_image
from data.photographs import image_to_pixels
from fdsl.references.fitted_references import Thumbnail
from utils.command import run_command
from utils.command_line import whole
from utils.image_statistics import implausible_references, reason_of, statistics_of

DRAWS, SHOTS = 1000, 4
OUT_BY = (50, 65, 80)  # per cent of the width that a part is shifted by, out of the frame
PATCH = 10  # times along each side: a patch of ground fills a frame


def main(argv: list[str] | None = None) -> None:
    parser = described(__doc__)
    parser.add_argument("data", nargs="+", metavar="DATASET=DIR")
    parser.add_argument("--image-size", type=whole(16), default=448, metavar="PX")
    parser.set_defaults(categories=None)
    args = parser.parse_args(argv)
    lines, flagged, left_out = [], dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    generator = np.random.default_rng(0)

    def statistics(photo: Image.Image) -> np.ndarray:
        return statistics_of(image_to_pixels(photo, args.image_size).numpy())

    def reasons(found: Iterable[np.ndarray], references: list[np.ndarray]) -> list[bool]:
        return [bool(reason_of(one, known[None])) for known in references for one in found]

    for category, catalogue in catalogues(args).items():
        train, tested = (
            [catalogue.root / record.image_path for record in part[category]]
            for part in (catalogue.train, catalogue.test)
        )
        references, tests = ([statistics(open_image(path)) for path in paths] for paths in (train, tested))
        false, normal = (
            reasons(tests, references),
            [not record.anomalous for record in catalogue.test[category]],
        )
        known = np.stack([*references, *itertools.compress(tests, normal)])
        draws = [known[generator.permutation(len(known))[:SHOTS]] for _ in range(DRAWS)]
        named = [bool(implausible_references(draw)) for draw in draws]
        photographs = [open_image(path) for path in itertools.compress(tested, normal)]
        thumbnails = [Thumbnail(photo) for photo in photographs + [open_image(path) for path in train]]
        copies = [one.shows_the_same_as(other) for one, other in itertools.permutations(thumbnails, 2)]
        lines.append([category, len(false), sum(false), len(copies), sum(copies), len(named), sum(named)])
        chosen = [failing(photo) for photo in photographs[:: max(1, len(photographs) // 4)][:4]]
        flagged[category], left_out[category] = {}, {}
        for kind in chosen[0]:
            frames = [statistics(one[kind]) for one in chosen]
            among = [np.stack([frames[n % 4], *draw[1:]]) for n, draw in enumerate(draws)]
            alone = [list(implausible_references(one)) == [0] for one in among]
            flagged[category][kind] = f"{100 * np.mean(reasons(frames, references)):.0f}"
            left_out[category][kind] = f"{100 * np.mean(alone):.0f}"
    lines.append(["all", *(sum(line[column] for line in lines) for column in range(1, 7))])
    columns = ["product", "pairs", "with a reason", "pairs of normal images", "taken for copies"]
    print(tabulate(lines, [*columns, "draws", "with one left out"], tablefmt="github"))
    for found in (flagged, left_out):
        kinds = [[kind, *(one[kind] for one in found.values())] for kind in next(iter(found.values()))]
        print(tabulate(kinds, ["frame", *found], tablefmt="github"))


def failing(photo: Image.Image) -> dict[str, Image.Image]:
    """What a camera gives that fails or sees no part, in the size of a photograph. Noise: standard deviation
    in grey levels; blur: in pixels where the longer side is 900. Out by: shifted to the right, and filled
    with the repeated or mirrored edge or with a patch of ground, of the upper left corner. Black and
    white: by a threshold at the mean."""
    pixels, generator = np.asarray(photo, np.float32), np.random.default_rng(0)
    height, width = pixels.shape[:2]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    half, third, fifth, repeated, torn = (pixels.copy() for _ in range(5))
    third[:, -(width // 3) :], fifth[-(height // 5) :], half[height // 2 :] = 128, 0, 0
    repeated[height * 2 // 3 :] = pixels[height * 2 // 3]
    torn[height // 2 :] = np.roll(pixels[height // 2 :], width // 3, 1)
    frames = {
        name: np.full(pixels.shape, grey) for name, grey in (("black", 0), ("white", 255), ("grey", 128))
    }
    frames["background"] = np.median(border, axis=0) + generator.normal(0, 4, pixels.shape)
    frames["noise"], frames["half black"] = generator.integers(0, 256, pixels.shape), half
    frames["defocus"] = cv2.GaussianBlur(np.asarray(photo), (0, 0), max(photo.size) / 40)
    frames |= {"right third grey": third, "lower fifth black": fifth, "rows repeated": repeated, "torn": torn}
    generator = np.random.default_rng(0)
    for deviation in (10, 20, 40, 80):
        frames[f"noise {deviation}"] = pixels + generator.normal(0, deviation, pixels.shape)
    for blur in (2, 4, 8, 16):
        frames[f"blur {blur}"] = cv2.GaussianBlur(pixels, (0, 0), blur * max(photo.size) / 900)
    for number, colour in enumerate(("red", "green", "blue")):
        frames[f"no {colour}"] = pixels * (np.arange(3) != number)
    for factor in (2, 4, 1 / 4, 1 / 8):
        frames[f"exposure x {factor:g}"] = pixels * factor
    for factor in (2, 4):
        frames[f"contrast x {factor}"] = pixels.mean() + factor * (pixels - pixels.mean())
    frames["black and white"] = np.where(pixels.mean(2, keepdims=True) > pixels.mean(), 255, pixels * 0)
    message = frames["message on black"] = np.zeros(pixels.shape, np.uint8)
    for line in np.arange(0.1, 1, 1 / 12):
        place, size = (width // 50, round(line * height)), (height / 400, (255, 255, 255), height // 150 + 1)
        cv2.putText(message, "Camera error 0x3f: no signal", place, cv2.FONT_HERSHEY_SIMPLEX, *size)
    frames["inverted"] = 255 - pixels
    ground = np.tile(pixels[: height // PATCH, : width // PATCH], (2 * PATCH, 2 * PATCH, 1))[:height, :width]
    edges = {"edge": cv2.BORDER_REPLICATE, "mirror": cv2.BORDER_REFLECT_101, "ground": cv2.BORDER_TRANSPARENT}
    for share, (name, edge) in itertools.product(OUT_BY, edges.items()):
        shift = np.array([[1, 0, width * share / 100], [0, 1, 0]])
        frames[f"out by {share} %, {name}"] = cv2.warpAffine(
            pixels, shift, (width, height), dst=ground.copy(), borderMode=edge
        )
    return {kind: Image.fromarray(frame.clip(0, 255).astype(np.uint8)) for kind, frame in frames.items()}


if __name__ == "__main__":
    run_command(main)
