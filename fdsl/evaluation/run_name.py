"""The name of a test run's folder: the method, and the settings that differ from its defaults."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from fdsl.config.presets import PRESETS
from fdsl.config.resolve import backbone_config
from fdsl.config.run_config import RunConfig
from models.methods.registry import METHODS, WITH_HEADS
from utils.config import BY_CATEGORY, OTHER_DATASET, BackboneConfig
from utils.errors import ModelError
from utils.files import short_digest
from utils.options import in_name, short_names


def name_of(config: RunConfig) -> str:
    """The name: `mul_13_2_0.5` for the published method, which is named by its windows only; for others
    `plus_tiles2_rot8`. Heads, files of weights and words are named by a digest."""
    made, method = config.detector, METHODS[config.detector.method]
    published = made.method == WITH_HEADS
    windows = {} if method.needs_heads else {"winmode": "nan"}
    words = made.options.normal_words, made.options.damaged_words
    parts = [
        *([] if published else [made.method]),
        *([] if method.needs_heads else _of_backbone(config)),
        *short_names(made.windows, windows, made.lacks, whole=published),
        *short_names(made.options, {"object": BY_CATEGORY} if made.reads_text else {}, made.lacks),
        *short_names(config, {"image_score": method.image_score, "rotations": method.rotations}),
        *(_of_heads(config) if method.needs_heads else []),
        *([f"words-{short_digest(json.dumps(words))}"] if any(words) else []),
        *([Path(config.data_path).resolve().name] if config.dataset == "folder" else []),
    ]
    return "_".join(filter(None, parts))


def _of_heads(config: RunConfig) -> list[str]:
    """The digest of a checkpoint that is not the default one."""
    default = (config.model_name, f"{OTHER_DATASET.get(config.dataset)}.safetensors")
    return [] if Path(config.checkpoint).parts[-2:] == default else [short_digest(config.checkpoint_digest)]


def _of_backbone(config: RunConfig) -> list[str]:
    """The backbone of a method without a checkpoint: its model or preset where it is not the default one, its
    weights, and options other than the model's defaults."""
    backbone = config.detector.backbone
    name, usual = _usual(backbone.model, backbone.model_config)
    names = [name] if backbone.model != BackboneConfig().model else []
    if config.weights:
        names.append(short_digest(config.weights))
    elif backbone.pretrained != usual.pretrained:
        names.append("untrained" if backbone.untrained else in_name(backbone.pretrained))
    return names + short_names(replace(backbone, model=usual.model), vars(usual))


@cache
def _usual(model: str, model_config: str | None) -> tuple[str, BackboneConfig]:
    """A model's short name and its default configuration; the default model's where it cannot be loaded."""
    named = {preset.settings["model"]: (name, preset.settings) for name, preset in PRESETS.items()}
    own = in_name(model.removeprefix("timm/")), {"model": model, "model_config": model_config}
    name, settings = named.get(model, own)
    try:
        return name, backbone_config(settings)
    except ModelError:
        return name, BackboneConfig()
