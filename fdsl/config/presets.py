"""Backbones by short names: `--preset` of the commands, `AnomalyDetector.from_preset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from utils.config import BackboneConfig

PAPER = BackboneConfig()


@dataclass(frozen=True)
class Preset:
    """A backbone by a short name. `words`: its description. `settings`: the backbone's flags -> values where
    they are not given."""

    words: str
    settings: dict[str, Any]


# The published results that they follow: docs/methods.md.
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
    """The values that a preset adds to the given ones (None: not given)."""
    settings = PRESETS[name].settings
    return {flag: value for flag, value in settings.items() if given.get(flag) is None}
