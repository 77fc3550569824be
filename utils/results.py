"""What a test run leaves behind: its folder's name, maps, tables and score files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from utils.config import QUARTER, ConfigError, MethodConfig, WindowConfig, method_in_words, windows_in_words
from utils.files import csv_text, whole_file, write_json, write_text
from utils.metrics import METRIC_NAMES, mean_metrics

UNDEFINED = "-"
SAMPLES, SAMPLE_BYTES = 256, 4096
IMAGE_SCORE_MEANING = {
    "paper": "half of it scaled over the category's whole test set, as published",
    "max": "mean over blocks of the map's maximum, no test-set scaling",
    "top1": "mean of the highest 1 % of patch scores, no test-set scaling",
}


@dataclass
class RunMaps:
    """Patch-grid anomaly maps (n,G,G) float32 and raw scores (n,) of a run; window parts are None without
    LFE."""

    names: list[str]
    base: np.ndarray
    base_score: np.ndarray
    window: np.ndarray | None = None
    window_score: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, names: Sequence[str]) -> RunMaps:
        """The maps of `names`, in that order; ConfigError for a name that is not there."""
        place = {name: index for index, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            raise ConfigError(
                f"The maps do not hold {missing[0]} ({len(missing)} image(s) of the dataset are missing); "
                "run test.py again without --from-maps."
            )
        rows = [place[name] for name in names]
        return RunMaps(
            list(names),
            self.base[rows],
            self.base_score[rows],
            None if self.window is None else self.window[rows],
            None if self.window_score is None else self.window_score[rows],
        )


def join_maps(parts: Sequence[RunMaps]) -> RunMaps:
    """The maps of several categories, one after the other."""

    def joined(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    return RunMaps(
        [name for part in parts for name in part.names],
        joined("base"),
        joined("base_score"),
        joined("window"),
        joined("window_score"),
    )


def save_maps(
    file: Path, maps: RunMaps, fused: np.ndarray | None = None, score: np.ndarray | None = None
) -> None:
    """Writes maps.npz (DESIGN section 5), whole or not at all."""
    arrays: dict[str, np.ndarray] = {
        "names": np.array(maps.names, dtype=np.str_),
        "base": maps.base,
        "base_score": maps.base_score,
    }
    if maps.window is not None:
        arrays |= {"window": maps.window, "window_score": maps.window_score}
    if fused is not None:
        arrays |= {"fused": fused, "score": score}
    with whole_file(file, "wb") as out:
        np.savez(out, **arrays)


def load_maps(file: Path) -> RunMaps:
    """Reads maps.npz; ConfigError when it is not there, not whole, or its arrays do not fit together."""
    try:
        with np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        maps = RunMaps(
            [str(name) for name in arrays["names"]],
            arrays["base"],
            arrays["base_score"],
            arrays.get("window"),
            arrays.get("window_score"),
        )
    except FileNotFoundError:
        raise ConfigError(f"There is no {file}; name the folder of a finished test run.") from None
    except Exception as error:  # zipfile, numpy and zlib raise many kinds
        raise ConfigError(f"{file} is not a whole file of maps ({error}); run test.py again.") from error
    shapes = [maps.base.shape, *([maps.window.shape] if maps.window is not None else [])]
    if any(len(shape) != 3 or shape[0] != len(maps) for shape in shapes) or maps.base_score.shape != (
        len(maps),
    ):
        raise ConfigError(f"{file} holds arrays that do not fit together; run test.py again.")
    return maps


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


def short_digest(value: str) -> str:
    """Six hex digits that tell one value from another in a folder's name."""
    return hashlib.sha256(value.encode()).hexdigest()[:6]


def metrics_table(metrics: Mapping[str, Any], style: str = "github") -> str:
    """The seven metrics of each category and their mean, per cent with one decimal, a dash where not
    defined."""

    def row(name: str, values: Mapping[str, float | None]) -> list[str]:
        return [
            name,
            *(
                UNDEFINED if values[metric] is None else f"{100 * values[metric]:.1f}"
                for metric in METRIC_NAMES
            ),
        ]

    rows = [row(name, values) for name, values in metrics["categories"].items()]
    return tabulate(
        [*rows, row("mean", metrics["mean"])],
        headers=["category", *METRIC_NAMES],
        tablefmt=style,
        disable_numparse=True,
        colalign=["left", *["right"] * len(METRIC_NAMES)],
    )


def framing(config: Mapping[str, Any]) -> str:
    """One paragraph that says what a table's numbers are: score, sizes, shots, seed, backbone."""
    backbone = config["backbone"]
    text = (
        f"{config['dataset']}, {config['k_shot']} shot(s), seed {config['seed']}, {windows_in_words(config['windows'])}, "
        f"{heads_in_words(config)}; "
        f"image score {config['image_score']} ({IMAGE_SCORE_MEANING[config['image_score']]}); "
        f"maps evaluated at {config['metric_size']}{'' if config['metric_size'] == 'full' else ' px'}; "
        f"backbone {backbone['model']} at {backbone['image_size']} px, blocks {' '.join(map(str, backbone['layers']))}, "
        f"{config['machine']['precision']}."
    )
    if backbone["pretrained"] == "none":
        text += " The backbone is UNTRAINED (random weights): these numbers show that the code works, not how good FDSL is."
    if config.get("learnt_from_these"):
        text += f" {LEARNT_FROM_THESE}"
    return text


def heads_in_words(config: Mapping[str, Any]) -> str:
    """Which heads made a run's maps, and how."""
    if config.get("heads") == "nearest":
        align = (
            ""
            if config["method"]["align"] == MethodConfig().align
            else f", alignment {config['method']['align']}"
        )
        return f"no trained heads: distance to the nearest normal patch{align}"
    fused = (
        "; their maps fused with the distance to the nearest normal patch"
        if config.get("heads") == "both"
        else ""
    )
    return f"{method_in_words(config['method'])}; heads trained on {config['trained_on'] or 'an unknown dataset'}{fused}"


def write_tables(
    folder: Path, categories: Mapping[str, Mapping[str, float | None]], config: Mapping[str, Any]
) -> dict:
    """Writes metrics.json, metrics.csv and table.md; returns what metrics.json holds."""
    metrics = {"categories": dict(categories), "mean": mean_metrics(categories)}
    write_text(
        folder / "metrics.csv",
        csv_text(
            ["category", *METRIC_NAMES],
            [
                [name, *(values[metric] for metric in METRIC_NAMES)]
                for name, values in [*metrics["categories"].items(), ("mean", metrics["mean"])]
            ],
        ),
    )
    write_text(folder / "table.md", f"{metrics_table(metrics)}\n\nPer cent. {framing(config)}\n")
    write_json(folder / "metrics.json", metrics)
    return metrics


def read_json(file: Path) -> Any:
    """A JSON file's content; None when it is not there or not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_loss_curve(file: Path, steps: Sequence[tuple], size: tuple[int, int] = (480, 800)) -> None:
    """A picture of the loss: one grey dot a step, the mean of each epoch as a line. Rows are (step, epoch,
    loss, ...)."""
    height, width = size
    margin = 50
    loss = np.array([row[2] for row in steps])
    epoch = np.array([row[1] for row in steps])
    top = max(float(loss.max()), 1e-9)
    picture = np.full((height, width, 3), 255, np.uint8)

    def place(step: float, value: float) -> tuple[int, int]:
        across = (step - 0.5) / len(steps)
        return round(margin + across * (width - 2 * margin)), round(
            height - margin - value / top * (height - 2 * margin)
        )

    cv2.rectangle(picture, (margin, margin), (width - margin, height - margin), (200, 200, 200))
    for step, value in enumerate(loss, start=1):
        cv2.circle(picture, place(step, value), 2, (190, 190, 190), -1, cv2.LINE_AA)
    means = [
        place(np.flatnonzero(epoch == number).mean() + 1, loss[epoch == number].mean())
        for number in np.unique(epoch)
    ]
    cv2.polylines(picture, [np.array(means)], False, (180, 90, 30), 2, cv2.LINE_AA)
    for text, corner in (
        (f"loss {top:.3g}", (margin, margin - 12)),
        ("0", (margin - 16, height - margin + 5)),
        (f"step 1 to {len(steps)}, {epoch.max()} epochs", (margin, height - margin + 28)),
    ):
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    encoded = cv2.imencode(".png", picture)[1]
    with whole_file(file, "wb") as out:
        out.write(encoded.tobytes())


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with open(file, "rb") as content:
        return (
            hashlib.file_digest(content, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(content.read()).hexdigest()
        )


def sampled_digest(file: Path) -> str:
    """Hex digest of a file's size and of 256 pieces of it: tells one weights file from another without
    reading all of it; "" where there is no file."""
    if not file.is_file():
        return ""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as content:
        for piece in range(SAMPLES):
            content.seek(size * piece // SAMPLES)
            digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


LEARNT_FROM_THESE = (
    "The heads were TRAINED ON THESE TEST IMAGES: these numbers show what they remember, not how good they are on "
    "others."
)
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
