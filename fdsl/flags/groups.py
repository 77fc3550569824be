"""The flags that several commands share, group by group."""

from __future__ import annotations

import argparse

from fdsl.flags.arguments import real, tile_count, whole
from models.directions import DAMAGED, NORMAL
from models.methods.registry import METHODS
from utils.config import CHOICES, FD_MODES, OBJECT, QUARTER, BackboneConfig, WindowConfig


def add_backbone_flags(parser: argparse.ArgumentParser) -> None:
    """The backbone flags, the same everywhere. Not given, they are None: a checkpoint or the defaults
    decide."""
    group = parser.add_argument_group("backbone")
    default = BackboneConfig()
    group.add_argument(
        "--model",
        help="open_clip's name of a ViT, or timm/NAME for one of timm, for instance "
        f"timm/vit_small_patch14_reg4_dinov2.lvd142m (default {default.model})",
    )
    group.add_argument(
        "--pretrained",
        metavar="TAG|FILE|none",
        help="weights: a tag of open_clip or timm, a file, or none for untrained ones (default "
        f"{default.pretrained}, or the model's own)",
    )
    group.add_argument("--model-config", metavar="DIR", help="folder of further open_clip model JSON files")
    group.add_argument(
        "--layers",
        type=whole(1),
        nargs="+",
        metavar="N",
        help="tapped blocks, counted from 1 (default: at the quarters of the depth, 6 12 18 24 of 24)",
    )
    group.add_argument(
        "--image-size",
        type=whole(1, 8192),
        metavar="PX",
        help=f"side that images are squashed to (default {default.image_size}, or the nearest "
        "multiple of the patch side)",
    )
    group.add_argument(
        "--token-norm",
        choices=CHOICES["token_norm"],
        help="tokens are a block's raw output, or pass the model's final norm (default raw; final for DINO)",
    )


def add_method_flags(parser: argparse.ArgumentParser) -> None:
    """NAM, FD and alignment. Not given, they are None: a checkpoint or the defaults decide."""
    group = parser.add_argument_group("method")
    group.add_argument("--use-nam", type=int, choices=(0, 1), help="neighbour aggregation (default 1)")
    group.add_argument("--fd", choices=FD_MODES, help="feature discrepancy (default abs)")
    group.add_argument(
        "--align", choices=("mulmax", "diff2"), help="how a token finds its nearest (default mulmax)"
    )


def add_parts_flag(parser: argparse.ArgumentParser) -> None:
    """Which parts of a method are left out. Not given, it is None."""
    parts = "; ".join(
        f"{name}: {', '.join(method.parts)}" for name, method in METHODS.items() if method.parts
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        metavar="PART",
        choices=sorted({part for method in METHODS.values() for part in method.parts}),
        help=f"parts of the method that are switched off ({parts})",
    )


def add_batch_flag(parser: argparse.ArgumentParser) -> None:
    """Mutual scoring beside the method. Not given, it is None."""
    parser.add_argument(
        "--with-batch",
        action="store_true",
        default=None,
        help="compare the inspected photographs with each other too; it sees the test set, and most of it "
        "must be good",
    )


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """Text beside the method, and what it says. Not given, they are None."""
    group = parser.add_argument_group("text (CLIP's; --method text, or beside a method with references)")
    kinds = ", ".join(name for name, method in METHODS.items() if method.takes_text)
    group.add_argument(
        "--with-text",
        action="store_true",
        default=None,
        help=f"weigh residuals by CLIP's words for normal and damaged too; for {kinds}",
    )
    group.add_argument(
        "--object",
        metavar="NAME",
        help="what photographs show, for instance 'metal nut' (default "
        f"{OBJECT}; of test.py each category's name)",
    )
    for kind, states in (("normal", NORMAL), ("damaged", DAMAGED)):
        usual = ", ".join(states).replace("{}", "..")
        group.add_argument(
            f"--{kind}-words",
            nargs="+",
            metavar="WORD",
            help=f"words for {kind} ones, {{}} standing for the object (default {usual})",
        )


def add_window_flags(parser: argparse.ArgumentParser) -> None:
    """LFE's flags. Not given, they are None: a stored run or the defaults decide."""
    group, default = parser.add_argument_group("local windows (LFE)"), WindowConfig()
    group.add_argument(
        "--winmode",
        choices=("nan", "mul", "onlywin"),
        help="nan: off; mul: fused with the whole image; onlywin: windows alone (default mul; nan where "
        "there are no trained heads)",
    )
    group.add_argument(
        "--win-size", type=whole(1), metavar="PATCHES", help=f"side (default {default.win_size})"
    )
    group.add_argument(
        "--win-stride", type=whole(1), metavar="PATCHES", help=f"step (default {default.win_stride})"
    )
    group.add_argument(
        "--win-zip",
        type=whole(1),
        metavar="PATCHES",
        help="resize windows to this side before they are encoded: a smaller one takes less time, a larger "
        "one zooms in (default: as they are)",
    )
    group.add_argument(
        "--win-weight",
        type=real(0, 1),
        metavar="0..1",
        help=f"share of the window branch in mul (default {default.win_weight})",
    )
    group.add_argument(
        "--index-memory",
        choices=("0", "1", "window"),
        help="which reference windows are matched against: 0 all; 1 those that any window picks by its image "
        "embedding, as published; window: each window's own most similar ones (default 0)",
    )
    group.add_argument(
        "--window-memory",
        choices=CHOICES["window_memory"],
        help="what windows are matched with: the references' windows, or their whole images, which are "
        "encoded once and take a twentieth of the memory (default windows)",
    )
    group.add_argument(
        "--window-budget",
        type=whole(0),
        nargs="?",
        const=QUARTER,
        metavar="M",
        help="encode only M windows per image, most where its map is high; without M so many that it takes "
        "about a quarter of the time; 0 all (default 0)",
    )


def add_tiles_flag(parser: argparse.ArgumentParser) -> None:
    """Tiles beside the whole image. Not given, it is None."""
    parser.add_argument(
        "--tiles",
        type=tile_count,
        metavar="N|auto",
        help="encode each photograph in about N x N tiles too, beside the whole image; auto: where it has "
        "more pixels than the backbone takes (default 1: none)",
    )


def add_runtime_flags(parser: argparse.ArgumentParser) -> None:
    """Where and how it runs."""
    group = parser.add_argument_group("runtime")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps|N")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    group.add_argument(
        "--workers", type=whole(0, 64), metavar="N", help="processes that load images (default: by cores)"
    )
    group.add_argument(
        "--threads",
        type=whole(1, 1024),
        metavar="N",
        help="threads that compute on a CPU; another number may change the last bits (default: by "
        "OMP_NUM_THREADS, which torchrun sets to 1, else by cores)",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
