"""Backbones by short names: `--preset` of the commands, `AnomalyDetector.from_preset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from utils.config import BackboneConfig

PAPER = BackboneConfig()


@dataclass(frozen=True)
class Preset:
    """A backbone by a short name. `words`: what it is. `settings`: name of one of the backbone's flags -> its
    value where the flag is not given."""

    words: str
    settings: dict[str, Any]


# What they rest on, and that it is published and not ours: docs/methods.md.
PRESETS = {
    "clip-large": Preset(
        "CLIP's ViT-L, the paper's backbone",
        {"model": PAPER.model, "layers": PAPER.layers, "image_size": PAPER.image_size},
    ),
    "dinov2-small": Preset(
        "DINOv2's ViT-S, fast", {"model": "timm/vit_small_patch14_reg4_dinov2.lvd142m", "image_size": 448}
    ),
    "dinov2-large": Preset(
        "DINOv2's ViT-L, two upper-middle layers, slow",
        {"model": "timm/vit_large_patch14_reg4_dinov2.lvd142m", "layers": (14, 17)},
    ),
}


def with_preset(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a preset sets in addition to the values that were given (None: not given)."""
    settings = PRESETS[name].settings
    return {flag: value for flag, value in settings.items() if given.get(flag) is None}
