"""From flags, and what a checkpoint or a run has stored, to settings; what does not go together is
refused."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from utils.config import BackboneConfig, MethodConfig, WindowConfig, from_stored
from utils.errors import ConfigError

BACKBONE_FLAGS = ("model", "pretrained", "model_config", "layers", "image_size")


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


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
