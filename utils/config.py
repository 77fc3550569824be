"""Settings: dataclasses, the flags that fill them, and the sentences that refuse contradictory ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

DATASETS = ("mvtec", "visa", "folder")
OTHER_DATASET = {"mvtec": "visa", "visa": "mvtec"}
PUBLISHED_EPOCHS = {"visa": 11, "mvtec": 5}
AUGMENTATIONS = {"mvtec": "mosaic", "visa": "crop", "folder": "none"}
IMAGE_SCORES = ("paper", "max", "top1")
BACKBONE_FLAGS = ("model", "pretrained", "model_config", "layers", "image_size")

QUARTER = -1  # as a window budget: so many windows that they take about a quarter of the time


class ConfigError(Exception):
    """Settings or files that cannot be used as given; the message is one sentence with the cure."""


@dataclass(frozen=True)
class BackboneConfig:
    """Which frozen image tower, which blocks are tapped (counted from 1), and the image side in pixels."""

    model: str = "ViT-L-14-336-quickgelu"
    pretrained: str = "openai"
    model_config: str | None = None
    layers: tuple[int, ...] = (6, 12, 18, 24)
    image_size: int = 518

    @property
    def untrained(self) -> bool:
        return self.pretrained == "none"


@dataclass(frozen=True)
class MethodConfig:
    """What FDSL computes: neighbour aggregation, the discrepancy, and the alignment."""

    use_nam: bool = True
    fd: str = "abs"
    align: str = "mulmax"


@dataclass(frozen=True)
class WindowConfig:
    """LFE: mode nan, mul or onlywin; side and stride in patches; weight of the window branch; which reference
    windows are matched ("0" all, "1" picked by any window, "window" own picks); windows encoded an image (0
    all, QUARTER: see there)."""

    winmode: str = "mul"
    win_size: int = 13
    win_stride: int = 2
    win_weight: float = 0.5
    index_memory: str = "0"
    window_budget: int = 0


class CommandLine(argparse.ArgumentParser):
    """A command's flags: its module's docstring as the description, and one sentence for what cannot be
    read."""

    def __init__(self, description: str, prog: str | None = None):
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str):
        self.exit(2, f"error: {message}; --help lists the flags\n")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""
    return _number(int, low, high, "a whole number")


def real(low: float, high: float | None = None, above: bool = False) -> Callable[[str], float]:
    """An argparse type: a number from `low` (or above it) to `high`."""
    return _number(float, low, high, "a number", above)


def _number(kind: type, low, high, what: str, above: bool = False):
    def parse(text: str):
        span = f"{what} {'above' if above else 'from'} {low}{'' if high is None else f' to {high}'}"
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {span}") from None
        if not (value > low if above else value >= low) or not (high is None or value <= high):
            raise argparse.ArgumentTypeError(f"{text} is not {span}")
        return value

    return parse


SEED = whole(0, 2**63 - 1)


def name_part(text: str) -> str:
    """An argparse type: a name that is one folder of a path."""
    if not text or text in (".", "..") or any(mark in text for mark in "/\\\0\n"):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name of a folder")
    return text


def metric_side(text: str) -> int | str:
    """An argparse type: the side of evaluated maps in pixels, or `full` (each mask's own resolution)."""
    return text if text == "full" else whole(2, 8192)(text)


def add_backbone_flags(parser: argparse.ArgumentParser) -> None:
    """The backbone flags, the same everywhere. Not given, they are None: a checkpoint or the defaults
    decide."""
    group = parser.add_argument_group("backbone")
    default = BackboneConfig()
    group.add_argument("--model", help=f"open_clip's name of a ViT (default {default.model})")
    group.add_argument(
        "--pretrained",
        metavar="TAG|FILE|none",
        help=f"weights: a tag of open_clip, a file, or none for untrained ones (default {default.pretrained})",
    )
    group.add_argument("--model-config", metavar="DIR", help="folder of further open_clip model JSON files")
    group.add_argument(
        "--layers",
        type=whole(1),
        nargs="+",
        metavar="N",
        help="tapped blocks, counted from 1 (default 6 12 18 24)",
    )
    group.add_argument(
        "--image-size",
        type=whole(1, 8192),
        metavar="PX",
        help=f"side that images are squashed to (default {default.image_size})",
    )


def add_method_flags(parser: argparse.ArgumentParser) -> None:
    """NAM, FD and alignment. Not given, they are None: a checkpoint or the defaults decide."""
    group = parser.add_argument_group("method")
    group.add_argument("--use-nam", type=int, choices=(0, 1), help="neighbour aggregation (default 1)")
    group.add_argument("--fd", choices=("abs", "signed", "none"), help="feature discrepancy (default abs)")
    group.add_argument(
        "--align", choices=("mulmax", "diff2"), help="how a token finds its nearest (default mulmax)"
    )


def add_window_flags(parser: argparse.ArgumentParser) -> None:
    """LFE's flags. Not given, they are None: a stored run or the defaults decide."""
    group, default = parser.add_argument_group("local windows (LFE)"), WindowConfig()
    group.add_argument(
        "--winmode",
        choices=("nan", "mul", "onlywin"),
        help="nan: off; mul: fused with the whole image; onlywin: windows alone (default mul; nan where there are no trained heads)",
    )
    group.add_argument(
        "--win-size", type=whole(1), metavar="PATCHES", help=f"side (default {default.win_size})"
    )
    group.add_argument(
        "--win-stride", type=whole(1), metavar="PATCHES", help=f"step (default {default.win_stride})"
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
        "--window-budget",
        type=whole(0),
        nargs="?",
        const=QUARTER,
        metavar="M",
        help="encode only M windows an image, most where its map is high; without M so many that it takes "
        "about a quarter of the time; 0 all (default 0)",
    )


def add_runtime_flags(parser: argparse.ArgumentParser) -> None:
    """Where and how it runs."""
    group = parser.add_argument_group("runtime")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps|N")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    group.add_argument(
        "--workers", type=whole(0, 64), metavar="N", help="processes that load images (default: by cores)"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def backbone_config(args: argparse.Namespace, stored: Mapping[str, Any] | None = None) -> BackboneConfig:
    """The backbone of the flags, or of a checkpoint's `stored` one with which given flags must agree.

    `pretrained` and `model_config` may name another place (files move): the weights' fingerprint is compared
    when they are loaded.
    """
    base = BackboneConfig() if stored is None else from_stored(BackboneConfig, stored)
    given = {name: value for name in BACKBONE_FLAGS if (value := getattr(args, name)) is not None}
    if "layers" in given:
        given["layers"] = tuple(sorted(given["layers"]))
    if stored is not None:
        for name in ("model", "layers", "image_size"):
            if name in given and given[name] != getattr(base, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} {_shown(given[name])} does not match the checkpoint, which "
                    f"was trained with {_shown(getattr(base, name))}; leave the flag out or train again."
                )
    return replace(base, **given)


def method_config(
    args: argparse.Namespace, stored: Mapping[str, Any] | None = None, has_nam: bool | None = None
) -> MethodConfig:
    """The method of the flags on top of a checkpoint's `stored` one; what the heads cannot do is refused."""
    base = MethodConfig() if stored is None else from_stored(MethodConfig, stored)
    if has_nam is not None:
        base = replace(base, use_nam=base.use_nam and has_nam)
    given = {name: value for name in ("use_nam", "fd", "align") if (value := getattr(args, name)) is not None}
    if "use_nam" in given:
        given["use_nam"] = bool(given["use_nam"])
    if has_nam is False and given.get("use_nam"):
        raise ConfigError("--use-nam 1 needs a checkpoint that was trained with NAM; this one was not.")
    if stored is not None and "fd" in given and given["fd"] != base.fd:
        raise ConfigError(
            f"--fd {given['fd']} does not match the checkpoint, whose heads were trained on "
            f"--fd {base.fd}; train again with it."
        )
    return replace(base, **given)


def windows_in_words(windows: Mapping[str, Any]) -> str:
    """LFE's stored settings for a reader: mode, size and stride, and what is not exact."""
    if windows["winmode"] == "nan":
        return "no LFE"
    words = "LFE {winmode}, windows of {win_size} patches, stride {win_stride}".format(**windows)
    words += f", weight {windows['win_weight']:g}" if windows["winmode"] == "mul" else ""
    words += {"0": "", "1": ", reference windows picked as published"}.get(
        windows.get("index_memory", "0"), ", each window's own picks"
    )
    budget = windows.get("window_budget", 0)
    return words + (f", window budget {'a quarter' if budget == QUARTER else budget}" if budget else "")


def method_in_words(method: Mapping[str, Any]) -> str:
    """NAM, and what of FD and alignment is not the default."""
    default = MethodConfig()
    words = f"NAM {'on' if method['use_nam'] else 'off'}"
    words += {default.fd: "", "none": ", features instead of discrepancies (no reference is looked at)"}.get(
        method.get("fd", default.fd), f", {method.get('fd')} discrepancies"
    )
    return words + (
        "" if method.get("align", default.align) == default.align else f", alignment {method['align']}"
    )


def window_config(args: argparse.Namespace, stored: Mapping[str, Any] | None = None) -> WindowConfig:
    """LFE's settings: the flags on top of a `stored` run's or the defaults.

    Windows further apart than they are wide are refused here, not in the middle of a run; maps of a stored
    run can be fused anew, but its windows cannot change.
    """
    base = WindowConfig() if stored is None else from_stored(WindowConfig, stored)
    given = {
        name: value
        for name in ("winmode", "win_size", "win_stride", "win_weight", "index_memory", "window_budget")
        if (value := getattr(args, name)) is not None
    }
    config = replace(base, **given)
    if stored is not None:
        for name in ("win_size", "win_stride", "index_memory", "window_budget"):
            if base.winmode != "nan" and getattr(config, name) != getattr(base, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} cannot change with --from-maps: the stored windows have "
                    f"{getattr(base, name)}; run test.py without --from-maps."
                )
        if base.winmode == "nan" and config.winmode != "nan":
            raise ConfigError(
                f"--winmode {config.winmode} needs window maps, and the stored run has none (it ran with "
                "--winmode nan)."
            )
    if config.winmode != "nan" and config.win_stride > config.win_size:
        raise ConfigError(
            f"--win-stride {config.win_stride} is larger than --win-size {config.win_size}: "
            "patches between the windows would not be seen; give a stride up to the size."
        )
    return config


def refuse_windows_without_mode(args: argparse.Namespace) -> None:
    """ConfigError for LFE's flags where method nearest looks through no windows."""
    given = [
        name
        for name in ("win_size", "win_stride", "win_weight", "index_memory", "window_budget")
        if getattr(args, name) is not None
    ]
    if given and not args.winmode:
        raise ConfigError(
            f"--{given[0].replace('_', '-')} is for local windows, which method nearest looks through only with --winmode "
            "mul or onlywin; add one of them, or leave the flag out."
        )


def from_stored(kind: type, stored: Mapping[str, Any]):
    """A dataclass from stored values; unknown or missing names and wrong types are a ConfigError."""
    names = {item.name for item in fields(kind)}
    if set(stored) != names:
        raise ConfigError(
            f"The checkpoint's {kind.__name__} has the fields {sorted(stored)}, this code expects "
            f"{sorted(names)}; use the version of the code that wrote it."
        )
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    default = kind()
    for name, value in values.items():
        kept = getattr(default, name)
        if kept is not None and value is not None and not isinstance(value, type(kept)):
            raise ConfigError(f"The checkpoint's {name} is {value!r}, which is no {type(kept).__name__}.")
    return kind(**values)


def as_stored(config: Any) -> dict[str, Any]:
    """A dataclass as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()
    }


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def checkpoint_path(folder: Path, model_name: str, dataset: str) -> Path:
    """checkpoints/MODEL/DATASET.safetensors, named by the training set."""
    return Path(folder) / model_name / f"{dataset}.safetensors"
