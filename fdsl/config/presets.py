"""Backbones by short names: `--preset` of the commands, `preset` in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from utils.config import BackboneConfig
from utils.errors import ConfigError
from utils.options import option
from utils.text import as_text

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


LISTED = "; ".join(f"{name}: {preset.words}" for name, preset in PRESETS.items())
preset_option = partial(
    option,
    None,
    choices=tuple(PRESETS),
    help=f"{', '.join(PRESETS)}; a backbone with its layers and image size ({LISTED}). The values are "
    "printed; flags that are given explicitly override them",
)


def with_preset(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values (None: not given), and those that a preset adds; ConfigError for a name that there is
    not."""
    if name is None:
        return dict(given)
    if as_text("preset", name) not in PRESETS:
        raise ConfigError(f"preset is {name}, which is none; choose one of {', '.join(PRESETS)}.")
    chosen = {flag: value for flag, value in given.items() if value is not None}
    return {**PRESETS[name].settings, **chosen}
