"""Settings in words, for tables, reports and summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.config import QUARTER, MethodConfig


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


IMAGE_SCORE_MEANING = {
    "paper": "half of it scaled over the category's whole test set, as published",
    "max": "mean over blocks of the map's maximum, no test-set scaling",
    "top1": "mean of the highest 1 % of patch scores, no test-set scaling",
}


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


LEARNT_FROM_THESE = (
    "The heads were TRAINED ON THESE TEST IMAGES: these numbers show what they remember, not how good they are on "
    "others."
)
