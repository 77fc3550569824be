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
from pathlib import Path

if __name__ == "__main__":  # run as a script: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from PIL import Image
from tabulate import tabulate

from benchmarks.shared import encode_barely, shortest
from fdsl.config.resolve import backbone_config
from fdsl.factory import backbone_of
from fdsl.flags.arguments import whole
from fdsl.flags.groups import add_runtime_flags
from fdsl.references.rotation import fit_references
from fdsl.scoring import Scorer
from models.backbone import normalise
from models.detector import Detector
from models.methods.registry import METHODS
from utils.command_line import CommandLine
from utils.config import AUTO, BackboneConfig, MethodConfig
from utils.device import choose_device, choose_precision, use_threads

MODELS = [
    "timm/vit_small_patch14_reg4_dinov2@448",
    "timm/vit_small_patch14_reg4_dinov2@518",
    "timm/vit_base_patch14_reg4_dinov2@448",
    "timm/vit_base_patch14_reg4_dinov2@518",
    "ViT-L-14-336@518",
]


class Timed:
    """One backbone: its detector with one reference, and the library's own encoder."""

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        model, _, side = name.partition("@")
        given = {"model": model, "pretrained": "none", "image_size": int(side) if side else None}
        self.config: BackboneConfig = backbone_config(given)
        side_px = self.config.image_size
        self.backbone = backbone_of(self.config, device, dtype)
        self.bare_encoder = backbone_of(self.config, device, torch.float32).visual.to(dtype)
        torch.manual_seed(0)
        self.pixels = torch.randint(0, 256, (2, 3, side_px, side_px), dtype=torch.uint8)
        self.photo = normalise(self.pixels[:1].to(device), self.backbone.mean, self.backbone.std).to(dtype)
        if hasattr(self.backbone, "position_table"):
            grid = self.backbone.grid(side_px)
            table = self.backbone.position_table(grid).to(dtype)
            self.bare_encoder.positional_embedding = torch.nn.Parameter(table, requires_grad=False)
        nearest, plus = self.fitted("nearest", 1), self.fitted("plus", AUTO)
        self.works: dict[str, Callable[[], object]] = {
            "bare encoder": self.bare,
            "encode": lambda: self.backbone.encode(self.pixels[:1]),
            "image to map": lambda: nearest(self.pixels[:1], ["a photograph"]),
            "by default": lambda: plus(self.pixels[:1], ["a photograph"]),
        }

    def fitted(self, name: str, rotations: int | str) -> Scorer:
        """A detector of the second image."""
        width, layers = self.backbone.width, len(self.backbone.layers)
        method = METHODS[name].load().of_heads(width, layers, MethodConfig(), None)
        scorer = Scorer(Detector(self.backbone, method, self.config.image_size))
        reference = Image.fromarray(self.pixels[1].permute(1, 2, 0).numpy())
        fit_references(scorer, [reference], rotations)
        return scorer

    def bare(self) -> None:
        encode_barely(self.bare_encoder, self.photo, self.backbone.layers)

    def row(self, times: list[float]) -> list[str]:
        """Milliseconds of each work, and the encoder's share of them."""
        bare, encode, _, default = times
        cells = [f"{1000 * seconds:.0f}" for seconds in times]
        over = [f"{seconds / bare:.2f}" for seconds in (encode, default)]
        return [self.config.model, f"{self.config.image_size} px", *cells, *over]


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL[@PX]")
    parser.add_argument("--repeats", type=whole(1), default=7)
    add_runtime_flags(parser)
    args = parser.parse_args(argv)
    use_threads(args.threads)
    device = choose_device(args.device)
    rows = [Timed(name, device, choose_precision(args.precision, device)) for name in args.models]
    names = [f"{name}, ms" for name in rows[0].works]
    taken = iter(shortest([work for row in rows for work in row.works.values()], args.repeats, device))
    table = [row.row([next(taken) for _ in row.works]) for row in rows]
    print(tabulate(table, ["backbone", "side", *names, "encode / bare", "default / bare"], "github"))


if __name__ == "__main__":
    main()
