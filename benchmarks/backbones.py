"""Speed of several backbones: from one photograph to its map, compared with the bare encoder: by the nearest
distance to one reference, and by the default method `plus` with its rotated copies.

    python benchmarks/backbones.py timm/vit_small_patch14_reg4_dinov2@448 ViT-L-14-336@518

Weights are untrained: they do not change the time. The bare encoder is the library's own, all of it in the
precision in use, without normalisation and matching. All rows take turns, so that what else the machine does
hits each alike; the shortest time counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a script: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from PIL import Image
from tabulate import tabulate

from benchmarks.shared import encode_barely, shortest
from fdsl.config.resolve import backbone_config
from fdsl.flags.groups import add_options
from fdsl.references.rotation import fit_references
from fdsl.scoring import Scorer
from models.backbone import normalise
from models.backbones.backbone_registry import load_backbone
from models.detector import Detector
from models.methods.registry import METHODS
from utils.command_line import CommandLine, whole
from utils.config import AUTO, BackboneConfig, MethodConfig, RuntimeOptions
from utils.device import choose_device, choose_precision, use_threads

MODELS = [
    "timm/vit_small_patch14_reg4_dinov2@448",
    "timm/vit_small_patch14_reg4_dinov2@518",
    "timm/vit_base_patch14_reg4_dinov2@448",
    "timm/vit_base_patch14_reg4_dinov2@518",
    "ViT-L-14-336@518",
]


WORKS = ("bare encoder", "encode", "image to map", "by default")


@torch.no_grad()
def works_of(config: BackboneConfig, device: torch.device, dtype: torch.dtype) -> list[Callable[[], object]]:
    """WORKS of one backbone, with one reference."""
    backbone, side = load_backbone(config, device, dtype), config.image_size
    bare = load_backbone(config, device, torch.float32).visual.to(dtype)
    if hasattr(backbone, "position_table"):
        table = backbone.position_table(backbone.grid(side)).to(dtype)
        bare.positional_embedding = torch.nn.Parameter(table, requires_grad=False)
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    photo = normalise(pixels[:1].to(device), backbone.mean, backbone.std).to(dtype)
    works = [partial(encode_barely, bare, photo, backbone.layers), partial(backbone.encode, pixels[:1])]
    for name, rotations in (("nearest", 1), ("plus", AUTO)):
        method = METHODS[name].load().of_heads(backbone.width, len(backbone.layers), MethodConfig(), None)
        scorer = Scorer(Detector(backbone, method, side))
        fit_references(scorer, [Image.fromarray(pixels[1].permute(1, 2, 0).numpy())], rotations)
        works.append(partial(scorer, pixels[:1], ["a photograph"]))
    return works


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL[@PX]")
    parser.add_argument("--repeats", type=whole(1), default=7)
    add_options(parser, RuntimeOptions)
    args = parser.parse_args(argv)
    use_threads(args.threads)
    device, configs = choose_device(args.device), []
    for name in args.models:
        model, _, side = name.partition("@")
        given = {"model": model, "pretrained": "none", "image_size": int(side) if side else None}
        configs.append(backbone_config(given))
    dtype = choose_precision(args.precision, device)
    works = [work for config in configs for work in works_of(config, device, dtype)]
    taken, lines = iter(shortest(works, args.repeats, device)), []
    for config in configs:
        bare, encode, _, default = times = [next(taken) for _ in WORKS]
        ratios = [f"{seconds / bare:.2f}" for seconds in (encode, default)]
        milliseconds = [f"{1000 * seconds:.0f}" for seconds in times]
        lines.append([config.model, f"{config.image_size} px", *milliseconds, *ratios])
    columns = ["backbone", "side", *(f"{name}, ms" for name in WORKS), "encode / bare", "default / bare"]
    print(tabulate(lines, columns, "github"))


if __name__ == "__main__":
    main()
