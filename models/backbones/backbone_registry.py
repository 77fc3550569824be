"""The families of backbones there are: the only place where a model's name decides which one it is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbone import Backbone
from models.backbones.open_clip import defaults_of_open_clip, load_open_clip
from models.backbones.open_clip_loading import weights_of_open_clip
from models.backbones.text.prompts import Encode, directions
from models.backbones.text.text_encoder import text_encoder
from models.backbones.timm import defaults_of_timm, load_timm, refuse_texts
from models.backbones.timm_loading import PREFIX, weights_of_timm
from utils.config import BackboneConfig, MethodConfig


class Family(NamedTuple):
    """What loads a backbone; what a model is used with by default, of its name and the folder of further
    configurations; where the weights of a name and a tag lie on this machine (None: they would be fetched);
    and the encoder of sentences."""

    load: Callable[[BackboneConfig, torch.device, torch.dtype], Backbone]
    defaults: Callable[[str, str | None], BackboneConfig]
    cached: Callable[[str, str], Path | None]
    text_encoder: Callable[[BackboneConfig], Encode]


# Prefix of --model -> its family; the first that fits is taken.
FAMILIES: dict[str, Family] = {
    PREFIX: Family(load_timm, defaults_of_timm, weights_of_timm, refuse_texts),
    "": Family(load_open_clip, defaults_of_open_clip, weights_of_open_clip, text_encoder),
}


def load_backbone(config: BackboneConfig, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The frozen backbone of a configuration; its weights are a tag of the family's library (downloaded and
    cached by it), a FILE, or "none" (untrained ones from a fixed seed). Raises ModelError, one sentence with
    the cure, for what cannot be had."""
    return family_of(config.model).load(config, device, dtype)


def text_directions(encoder: BackboneConfig, wanted: Sequence[MethodConfig]) -> list[Tensor]:
    """The directions (2,D) of normal and damaged in the words of each of `wanted`; the text encoder is there
    only as long as they are made. ModelError for a backbone without one."""
    encode = family_of(encoder.model).text_encoder(encoder)
    return [directions(encode, options) for options in wanted]


def family_of(model: str) -> Family:
    """The family that a model's name belongs to."""
    return next(family for prefix, family in FAMILIES.items() if model.startswith(prefix))
