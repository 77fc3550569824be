"""How well a threshold from references alone keeps its false-alarm rate, and what rotated references bring.

    python benchmarks/thresholds.py --dataset mvtec --data-path DIR --model ... --pretrained FILE --layers ...
    --image-size N

Per category, number of references and seed: the references are drawn as test.py draws them, the threshold
comes from them alone, and the test images say how many good ones it calls anomalous (found) and how many
defective ones (caught). Prints two Markdown tables, and with `--tables batch` a third: thresholds from the
inspected photographs' own bulk. Images are encoded once and their tokens kept, with LFE
those of every window too: 22 MB per image with the default backbone, 2.4 MB with one of width 192 at 448 px,
about 20 times as much with LFE 13/2.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.catalogue import DATASETS, open_catalogue  # noqa: E402
from data.images import image_to_pixels, open_image  # noqa: E402
from data.records import draw_references, without_references  # noqa: E402
from fdsl.api import AnomalyDetector  # noqa: E402
from fdsl.evaluation import image_scores  # noqa: E402
from fdsl.flags.arguments import real, rotation_count
from fdsl.flags.groups import add_detector_options, add_runtime_flags
from fdsl.metrics.exact import image_metrics  # noqa: E402
from fdsl.settings import OF_HEADS, window_config
from fdsl.thresholds import batch_threshold
from models.backbone import NOTHING_MORE  # noqa: E402
from models.features import Features  # noqa: E402
from models.methods.registry import METHODS, WITH_HEADS, WITHOUT_HEADS  # noqa: E402
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.log import start_logging  # noqa: E402
from utils.options import options_of, without

RATES = (0.01, 0.05, 0.10)
BATCH_RATES = (0.05, 0.10)
SCORES = ("max", "top1")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument("--data-path", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="trained heads; without it method nearest")
    parser.add_argument(
        "--method", choices=METHODS, default=WITH_HEADS, help="default: fdsl with --checkpoint, else nearest"
    )
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rotations", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--turned", type=rotation_count, default=1, help="copies of references in the first table"
    )
    parser.add_argument(
        "--tables",
        choices=("thresholds", "rotations", "batch"),
        nargs="+",
        default=["thresholds", "rotations"],
    )
    parser.add_argument(
        "--defects",
        type=real(0, 0.5),
        nargs="+",
        default=[0.1, 0.2, 0.3],
        metavar="SHARE",
        help="of the photographs that the batch's own threshold is taken from",
    )
    parser.add_argument(
        "--references-alone", action="store_true", help="thresholds without what other products taught"
    )
    add_detector_options(parser)
    add_runtime_flags(parser)
    return parser.parse_args()


def make(args: argparse.Namespace) -> AnomalyDetector:
    """The detector of the flags, whose backbone encodes an image only once."""
    windows = window_config(vars(args)) if args.winmode else WindowConfig(winmode="nan")
    flags = {
        name: getattr(args, name) for kind in (BackboneConfig, MethodConfig) for name in options_of(kind)
    }
    flags |= {"device": args.device, "precision": args.precision}
    if args.checkpoint:
        return AnomalyDetector.from_checkpoint(args.checkpoint, method=args.method, windows=windows, **flags)
    method = WITHOUT_HEADS if METHODS[args.method].needs_heads else args.method
    return AnomalyDetector.from_backbone(method=method, windows=windows, **without(flags, OF_HEADS))


def encode_once(detector: AnomalyDetector, known: dict[bytes, torch.Tensor]) -> None:
    """Makes the backbone look tokens up in `known` by the image's content."""
    plain = detector.backbone.encode

    def encode(images: torch.Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        if want:
            return plain(images, want)
        keys = [hashlib.blake2b(image.contiguous().numpy().tobytes()).digest() for image in images.cpu()]
        for key, image in zip(keys, images):
            if key not in known:
                known[key] = plain(image[None]).tokens
        return Features(torch.cat([known[key] for key in keys], dim=1))

    detector.backbone.encode = encode


def main() -> None:
    args = parse()
    start_logging()
    catalogue = open_catalogue(args.dataset, args.data_path)
    thresholds, rotations, batches = [], [], []
    for category in catalogue.test:
        known: dict[bytes, torch.Tensor] = {}
        detector = make(args)
        photographs = {
            record: image_to_pixels(open_image(catalogue.root / record.image_path), detector.image_size)
            for record in catalogue.test[category]
        }
        encode_once(detector, known)
        for shots in args.shots if "thresholds" in args.tables else ():
            thresholds += threshold_rows(detector, catalogue, category, photographs, shots, args)
        for shots in args.shots if "batch" in args.tables else ():
            batches += batch_rows(detector, catalogue, category, photographs, shots, args)
        for count in args.rotations if "rotations" in args.tables else ():
            rotations += rotation_rows(detector, catalogue, category, photographs, count, args.seeds)
    if thresholds:
        print(
            tabulate(
                thresholds,
                ["category", "score", "k", *(f"wished {rate:.0%}: found (worst), caught" for rate in RATES)],
                tablefmt="github",
            )
        )
    if batches:
        wished = (f"wished {rate:.0%}: found (worst), caught" for rate in BATCH_RATES)
        print(tabulate(batches, ["category", "score", "k", "defects", *wished], tablefmt="github"))
    if rotations:
        print()
        print(
            tabulate(
                rotations,
                ["category", "score", "rotations", "image AUROC, one shot", "lowest", "highest"],
                tablefmt="github",
                floatfmt=".3f",
            )
        )


def drawn(
    detector: AnomalyDetector,
    catalogue,
    category: str,
    photographs: dict,
    shots: int,
    seed: int,
    rotations: int = 1,
    calibrated: bool = True,
) -> tuple[dict, dict, np.ndarray]:
    """Remembers one draw; returns, for each image score, the test images' scores and the references' held-out
    ones, and the test images' labels."""
    references = draw_references(catalogue.train[category], shots, seed, category)
    normal = {}
    for kind in SCORES if calibrated else SCORES[:1]:
        detector.config = replace(detector.config, image_score=kind)
        detector.remember(
            [catalogue.root / record.image_path for record in references],
            rotations=rotations,
            false_alarm_rate=0.01 if calibrated else None,
        )
        normal[kind] = detector.normal
    tested = without_references(catalogue.test[category], references)
    maps, raw = [], []
    for start in range(0, len(tested), 8):
        batch = torch.stack([photographs[record] for record in tested[start : start + 8]])
        for found in detector.predict_batch(batch, [(1, 1)] * len(batch)):
            maps.append(found.patch_map)
            raw.append(detector.fuse(np.float32(found.base_score), found.window_score))
    scores = {kind: image_scores(np.stack(maps), np.array(raw), kind) for kind in SCORES}
    return scores, normal, np.array([record.anomalous for record in tested])


def threshold_rows(
    detector: AnomalyDetector,
    catalogue,
    category: str,
    photographs: dict,
    shots: int,
    args: argparse.Namespace,
) -> list:
    found = {kind: [] for kind in SCORES}
    for seed in range(args.seeds):
        scores, normal, labels = drawn(detector, catalogue, category, photographs, shots, seed, args.turned)
        for kind, values in scores.items():
            own = replace(normal[kind], above=None) if args.references_alone else normal[kind]
            limits = [own.threshold(rate).score for rate in RATES]
            found[kind].append(
                [((values[~labels] >= limit).mean(), (values[labels] >= limit).mean()) for limit in limits]
            )
    tables = {kind: np.array(rows) for kind, rows in found.items()}  # (seeds, rates, 2)
    return [[category, kind, shots, *_shown(table)] for kind, table in tables.items()]


def batch_rows(
    detector: AnomalyDetector,
    catalogue,
    category: str,
    photographs: dict,
    shots: int,
    args: argparse.Namespace,
) -> list:
    """The same where the threshold is taken from the inspected photographs themselves: all good ones and a
    drawn share of defective ones."""
    found: dict[tuple[str, float], list] = {(kind, share): [] for kind in SCORES for share in args.defects}
    for seed in range(args.seeds):
        scores, _, labels = drawn(
            detector, catalogue, category, photographs, shots, seed, args.turned, calibrated=False
        )
        for (kind, share), rows in found.items():
            good, bad = scores[kind][~labels], scores[kind][labels]
            count = min(len(bad), round(len(good) * share / (1 - share)))
            bad = np.random.default_rng(seed).permutation(bad)[:count]
            seen = np.concatenate([good, bad]).astype(np.float64)
            limits = [batch_threshold(seen, seen, rate).score for rate in BATCH_RATES]
            rows.append([((good >= limit).mean(), (bad >= limit).mean()) for limit in limits])
    return [
        [category, kind, shots, f"{share:.0%}", *_shown(np.array(rows))]
        for (kind, share), rows in found.items()
    ]


def _shown(table: np.ndarray) -> list[str]:
    """(seeds, rates, 2) shares of good and of defective ones that are called anomalous -> a text per rate."""
    means, worst = table.mean(0), table.max(0)
    return [f"{mean[0]:.1%} ({high[0]:.0%}), {mean[1]:.0%}" for mean, high in zip(means, worst)]


def rotation_rows(
    detector: AnomalyDetector, catalogue, category: str, photographs: dict, count: int, seeds: int
) -> list:
    found = {kind: [] for kind in SCORES}
    for seed in range(seeds):
        scores, _, labels = drawn(
            detector, catalogue, category, photographs, 1, seed, count, calibrated=False
        )
        for kind, values in scores.items():
            found[kind].append(image_metrics(values, labels)["auroc_sp"])
    return [
        [category, kind, count, np.mean(values), min(values), max(values)] for kind, values in found.items()
    ]


if __name__ == "__main__":
    with torch.inference_mode():
        main()
