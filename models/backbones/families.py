"""The families of backbones there are: the only place where a model's name decides which one it is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from models.backbone import Backbone
from models.backbones.open_clip import load_open_clip

# Prefix of --model -> what loads such a model; the first that fits is taken.
FAMILIES: dict[str, Callable[..., Backbone]] = {"": load_open_clip}


def load_backbone(
    model: str,
    pretrained: str,
    layers: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    model_config: str | None = None,
) -> Backbone:
    """The frozen backbone `model` with the weights `pretrained`, `layers` tapped, on `device`, in `dtype`.

    `pretrained`: a tag of the family's library (downloaded and cached by it), a FILE, or "none" (untrained
    weights from a fixed seed). Raises ModelError, one sentence with the cure, for what cannot be had.
    """
    family = next(load for prefix, load in FAMILIES.items() if model.startswith(prefix))
    return family(model, pretrained, layers, device, dtype, model_config)
