"""The options of backbones, methods and windows, each declared once (utils/options.py), and the facts of the
machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from utils.limits import AUTO_TILES, MAX_PIXELS, MOST_TILES
from utils.options import COMPONENTS, HEADS, SEARCH, TEXT, WINDOWS, CommandOptions, Options, option

OTHER_DATASET = {"mvtec": "visa", "visa": "mvtec"}
PUBLISHED_EPOCHS = {"visa": 11, "mvtec": 5}
PUBLISHED_SHOTS = 10  # references of each category while heads are trained
PUBLISHED_AUGMENTATIONS = {"mvtec": "mosaic", "visa": "crop"}
SEVERAL = "+"  # between the names of several datasets that heads are trained on, and their digests
# Augmentations with synthetic defects: on normal training images alone, or these and the defects with masks.
ONLY_SYNTHETIC, MIXED = SYNTHETIC = ("synthetic", "mixed")
AUGMENTATIONS = ("mosaic", "crop", "none", *SYNTHETIC)
SYNTHETIC_IMAGES = 4000  # that heads are trained on by default, half of them with a synthetic defect

PAPER_SIDE = 240  # the published evaluation's map side, pixels
BATCH = "batch"  # as a threshold: from the bulk of the input images
AUTO = "auto"  # rotated copies of the references: as many as the references allow

FD_MODES = ("abs", "signed", "context", "none")
ALIGNMENTS = ("mulmax", "diff2")
INDEX_MEMORIES = ("0", "1", "window")
OWN_WINDOWS, WHOLE_IMAGE = WINDOW_MEMORIES = ("windows", "image")
UNTRAINED = "none"  # as weights: random ones from a fixed seed
USUAL_SIDE = 518  # pixels of a backbone's input; the nearest multiple of its patches
OBJECT, BY_CATEGORY = "object", ""  # the object of text prompts: this word, or each category's own name
NORMAL_WORDS = ("flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect",
                "{} without damage")  # fmt: skip
DAMAGED_WORDS = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
RAW, FINAL = "raw", "final"  # tokens: a block's output, or after the model's last norm
QUARTER = -1  # as a window budget: so many windows that they take about a quarter of the time
PRECISION_NAMES = ("float32", "bfloat16", "float16")
TEXT_FLAGS = "text (CLIP's; --method text, or added to a method with references)"


@dataclass(frozen=True)
class BackboneConfig(Options):
    """The frozen image encoder, its weights and what is taken of it."""

    group: ClassVar[str] = "backbone"

    model: str = option(
        "ViT-L-14-336-quickgelu",
        help="image encoder; a ViT of open_clip, or timm/NAME for one of timm, for instance "
        "timm/vit_small_patch14_reg4_dinov2.lvd142m (default $default)",
    )
    pretrained: str = option(
        "openai",
        place=True,
        metavar="TAG|FILE|none",
        help="weights: a tag, a file or none (random ones); a tag of open_clip or timm (default $default, "
        "or the model's own)",
    )
    model_config: str | None = option(
        None, place=True, metavar="DIR", help="folder of further open_clip model JSON files"
    )
    layers: tuple[int, ...] = option(
        (6, 12, 18, 24),
        span=(1, 4096),
        short="layers{}",
        metavar="N",
        help="feature layers: numbers of blocks, counted from 1 (default: at the quarters of the depth, "
        "$default of 24)",
    )
    image_size: int = option(
        USUAL_SIDE,
        span=(1, 8192),
        short="{}px",
        metavar="PX",
        help="input size: images are resized to PX x PX; the aspect ratio is not kept (default $default, or "
        "the nearest multiple of the patch side)",
    )
    token_norm: str = option(
        RAW,
        choices=(RAW, FINAL),
        short="{}-norm",
        help="features are a block's raw output, or pass the model's final norm (default $default; final for "
        "DINO)",
    )

    @property
    def untrained(self) -> bool:
        return self.pretrained == UNTRAINED


of_text = partial(option, group=TEXT_FLAGS, needs=TEXT)


def words_for(kind: str, usual: tuple[str, ...]) -> Any:
    """The option of the words of a text prompt."""
    listed = ", ".join(usual).replace("{}", "..")
    text = f"words for a {kind} object, {{}} standing for the object (default {listed})"
    return of_text((), short="", metavar="WORD", help=text)


@dataclass(frozen=True)
class MethodConfig(Options):
    """What a method computes, and where. leave_out: of `Method.components`. roi, ignore:
    data/region_of_interest.py. object (or BY_CATEGORY) and words, none: the usual ones: prompts.py."""

    group: ClassVar[str] = "method"

    use_nam: bool = option(
        True,
        research=True,
        words={"0": False, "1": True},
        needs=HEADS,
        trained=True,
        short={False: "nonam"},
        help="1: maps are refined by neighbour aggregation (NAM); 0: they are not (default 1)",
    )
    fd: str = option(
        "abs",
        research=True,
        choices=FD_MODES,
        needs=HEADS,
        trained=True,
        short="fd-{}",
        help="discrepancy d of a feature t from its nearest normal feature m, for the heads: abs: |t - m|; "
        "signed: t - m; context: t + |t - m|; none: t, without references (default $default)",
    )
    align: str = option(
        "mulmax",
        research=True,
        choices=ALIGNMENTS,
        needs=SEARCH,
        trained=True,
        short="{}",
        help="how the nearest normal patch is found: mulmax: by the largest dot product; diff2: by the "
        "smallest difference (default $default)",
    )
    leave_out: tuple[str, ...] = option(
        (),
        research=True,
        needs=COMPONENTS,
        short="no-{}",
        metavar="COMPONENT",
        help="components of the method that are switched off ($components)",
    )
    roi: str | None = option(
        None,
        short="roi",
        metavar="MASK|DIR",
        help="region of interest: patches count where this black and white image is white; it is resized to "
        "each image. A folder holds a mask for each image, of the same name",
    )
    ignore: str | None = option(
        None,
        short="ignore",
        metavar="MASK|DIR",
        help="patches do not count where this black and white image, or the one of its name in a folder, is "
        "white",
    )
    grey_range: str | None = option(
        None,
        short="grey",
        metavar="LOW:HIGH",
        help="values that become black and white, of images of more than 8 bits, as --grey-range=-2.5:2.6 "
        "(default: found from the references)",
    )
    with_batch: bool = option(
        False,
        short="batch",
        help="add mutual scoring: compare all test images with each other (MuSc). It sees the whole test "
        "set; most images must be normal",
    )
    with_text: bool = option(
        False,
        group=TEXT_FLAGS,
        short="text",
        help="add text: weigh residuals by CLIP's words for normal and damaged; for $text_methods",
    )
    object: str = of_text(
        OBJECT,
        short="object-{}",
        metavar="NAME",
        help="what the images show, for instance 'metal nut' (default $default; of test.py each category's "
        "name)",
    )
    normal_words: tuple[str, ...] = words_for("normal", NORMAL_WORDS)
    damaged_words: tuple[str, ...] = words_for("damaged", DAMAGED_WORDS)


of_windows = partial(option, needs=WINDOWS)
patches = partial(of_windows, span=(1, 8192), metavar="PATCHES")


@dataclass(frozen=True)
class WindowConfig(Options):
    """Local windows (LFE); without them tiles, which are added to the whole image. Sides are in patches."""

    group: ClassVar[str] = "local windows (LFE) and tiles"

    winmode: str = option(
        "mul",
        choices=("nan", "mul", "onlywin"),
        short="{}",
        together=True,
        fused=True,
        help="local windows, which are crops of the image: nan: none; mul: fused with the whole image; "
        "onlywin: without it (default $default; nan without trained heads)",
    )
    win_size: int = patches(13, short="{}", together=True, help="side of a window (default $default)")
    win_stride: int = patches(2, short="{}", together=True, help="step between windows (default $default)")
    win_weight: float = of_windows(
        0.5,
        span=(0, 1),
        short="{}",
        together=True,
        fused=True,
        metavar="0..1",
        help="weight of the window maps in mul (default $default)",
    )
    win_zip: int = patches(
        0,
        short="zip{}",
        help="resize windows to this side before they are encoded: a smaller one takes less time, a larger "
        "one zooms in (default: as they are)",
    )
    index_memory: str = of_windows(
        "0",
        research=True,
        choices=INDEX_MEMORIES,
        short={"1": "index", "window": "ownindex"},
        help="reference windows that a window may match: 0: all; 1: those most similar to any window of the "
        "image, as published; window: those most similar to itself, the fastest (default $default)",
    )
    window_memory: str = of_windows(
        OWN_WINDOWS,
        choices=WINDOW_MEMORIES,
        short={WHOLE_IMAGE: "wholebank"},
        help="what windows are matched with: the references' windows, or their whole images, which are "
        "encoded once and take a twentieth of the memory (default $default)",
    )
    window_budget: int = of_windows(
        0,
        span=(0, 10**9),
        words={"": QUARTER},
        short="budget{}",
        metavar="M",
        help="encode at most M windows per image, chosen where the whole-image map is high; no value: 23 % "
        "of them (about 4x faster); 0: all (default $default)",
    )
    tiles: int = option(
        1,
        span=(1, MOST_TILES),
        words={AUTO: AUTO_TILES},
        short="tiles{}",
        metavar="N|auto",
        help="encode each image in about N x N tiles too, added to the whole image; auto: where it has more "
        "pixels than the backbone takes (default $default: none)",
    )


at_least_one = partial(option, span=(1, math.inf), metavar="N")
max_pixels = partial(at_least_one, MAX_PIXELS, help=f"a larger image is refused (default {MAX_PIXELS:,})")
debug = partial(option, False, help="show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions(CommandOptions):
    """Where and how a command runs."""

    group: ClassVar[str] = "runtime"

    device: str = option("auto", metavar="auto|cpu|cuda|mps|N", help="where it runs (default $default)")
    precision: str = option(
        "auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="floating-point type of the image encoder (default $default: fp16 on a GPU, bf16 on a CPU that "
        "has it in hardware, else fp32)",
    )
    workers: int | None = option(
        None, span=(0, 64), metavar="N", help="processes that load images (default: by cores)"
    )
    threads: int | None = option(
        None,
        span=(1, 1024),
        metavar="N",
        help="threads that compute on a CPU; another number may change the last bits (default: by "
        "OMP_NUM_THREADS, which torchrun sets to 1, else by cores)",
    )
    debug: bool = debug()


@dataclass(frozen=True)
class MachineFacts(Options):
    """The machine of a result: device, precision, and versions.

    `precision_asked`: the requested one, where values overflowed in it and `precision` took over.
    """

    device: str = option("")
    device_name: str | None = option(None)
    precision: str = option("float32", choices=PRECISION_NAMES)
    torch: str = option("")
    python: str = option("")
    system: str = option("")
    precision_asked: str | None = option(None, choices=PRECISION_NAMES)

    def in_precision(self, precision: str) -> MachineFacts:
        """These facts after values overflowed in the requested precision and `precision` took over."""
        if precision == self.precision:
            return self
        return replace(self, precision=precision, precision_asked=self.precision)


def checkpoint_path(folder: Path, model_name: str, dataset: str) -> Path:
    """checkpoints/MODEL/DATASET.safetensors, named by the training set."""
    return Path(folder) / model_name / f"{dataset}.safetensors"
