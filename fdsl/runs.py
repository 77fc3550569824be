"""What a test run's folder is called, and whether it holds the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.config import QUARTER, MethodConfig, WindowConfig
from utils.files import read_json


def run_name(
    windows: WindowConfig,
    method: MethodConfig,
    image_score: str,
    metric_size: int | str,
    checkpoint: str = "",
) -> str:
    """RUN: the window mode and what differs from the defaults, for instance mul_13_2_0.5 or nan_max_full."""
    parts = [windows.winmode]
    if windows.winmode != "nan":
        parts += [str(windows.win_size), str(windows.win_stride), f"{windows.win_weight:g}"]
        parts += {"0": [], "1": ["index"], "window": ["ownindex"]}[windows.index_memory]
        budget = "" if windows.window_budget == QUARTER else str(windows.window_budget)
        parts += [f"budget{budget}"] if windows.window_budget else []
    default = MethodConfig()
    parts += [] if method.use_nam else ["nonam"]
    parts += [] if method.fd == default.fd else [f"fd-{method.fd}"]
    parts += [] if method.align == default.align else [method.align]
    parts += [] if image_score == "paper" else [image_score]
    parts += [] if metric_size == 240 else [str(metric_size)]
    parts += [checkpoint] if checkpoint else []
    return "_".join(parts)


NOT_OF_THE_RESULT = ("machine", "command", "data_path", "meta", "checkpoint", "pictures")


def same_run(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a finished run of the same settings (wherever its files lay, whatever command
    asked)."""
    stored = _stored_run(folder)
    return stored is not None and _essence(stored) == _essence(config)


def differences_of_runs(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """In what the settings of the finished run in `folder` differ from `config`, in words; none where there
    is no such run."""
    stored = _stored_run(folder)
    if stored is None:
        return []
    before, now = _essence(stored), _essence(config)
    names = [
        name for name in now if before.get(name) != now[name] and name not in ("files", "learnt_from_these")
    ]
    long = {
        "checkpoint_digest": "another checkpoint",
        "weights": "other weights of the backbone",
        "windows": "other windows",
        "method": "another method",
        "backbone": "another backbone",
    }
    return [long.get(name, f"{name} {before.get(name)}, now {now[name]}") for name in names]


def _stored_run(folder: Path) -> dict[str, Any] | None:
    """config.json of a finished run."""
    stored = read_json(folder / "config.json")
    whole = (
        (folder / "metrics.json").is_file()
        and isinstance(stored, dict)
        and isinstance(stored.get("machine"), dict)
    )
    return stored if whole and {"precision", "device"} <= set(stored["machine"]) else None


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in NOT_OF_THE_RESULT}
    return {**kept, "precision": config["machine"]["precision"], "device": config["machine"]["device"]}
