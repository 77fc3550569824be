"""The name of a test run's folder: the method, and the settings that differ from its defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fdsl.config.presets import PRESETS
from fdsl.config.resolve import backbone_config
from fdsl.config.run_config import RunConfig
from models.methods.registry import METHODS, WITH_HEADS
from utils.config import BY_CATEGORY, OTHER_DATASET, BackboneConfig
from utils.errors import ModelError
from utils.files import short_digest
from utils.options import Option, named_options

LONGEST_IN_NAME = 60  # characters of a text in the name of a folder, of which file systems take 255


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
        *_short_names(made.windows, windows, made.lacks, whole=published),
        *_short_names(made.options, {"object": BY_CATEGORY} if made.reads_text else {}, made.lacks),
        *_short_names(config, {"image_score": method.image_score, "rotations": method.rotations}),
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
        names.append("untrained" if backbone.untrained else _in_name(backbone.pretrained))
    return names + _short_names(replace(backbone, model=usual.model), vars(usual))


@cache
def _usual(model: str, model_config: str | None) -> tuple[str, BackboneConfig]:
    """A model's short name and its default configuration; the default model's where it cannot be loaded."""
    named = {preset.settings["model"]: (name, preset.settings) for name, preset in PRESETS.items()}
    own = _in_name(model.removeprefix("timm/")), {"model": model, "model_config": model_config}
    name, settings = named.get(model, own)
    try:
        return name, backbone_config(settings)
    except ModelError:
        return name, BackboneConfig()


def _short_names(
    config: Any, usual: Mapping[str, Any], lacks: Collection[str] = (), whole: bool = False
) -> list[str]:
    """The parts of the `named_options`."""
    named = named_options(config, usual, lacks, whole)
    return [part for one in named for part in _parts_of(one, getattr(config, one.name))]


def _parts_of(option: Option, value: Any) -> list[str]:
    """The parts that a value other than the usual one adds."""
    if option.short == "":
        return []
    if isinstance(option.short, Mapping):
        return [option.short[value]]
    usual = option.name if option.kind is bool and not option.default else f"{option.name}-{{}}"
    text = usual if option.short is None else option.short
    values = value if option.many and option.span is None else [value]
    return [text.format(_in_name(f"{x:g}" if isinstance(x, float) else option.typed(x))) for x in values]


def _in_name(text: str) -> str:
    """A text as part of the name; a long one is cut."""
    return re.sub(r"[^\w.-]+", "-", text)[:LONGEST_IN_NAME]
