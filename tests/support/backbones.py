"""Backbones for tests."""

import torch

from models.backbones.backbone_registry import family_of, load_backbone
from utils.config import RAW, BackboneConfig


def backbone_of(model, pretrained, layers, dtype=torch.float32, model_config=None, token_norm=RAW):
    """The backbone `model` with these weights and feature layers, on the CPU."""
    folder = None if model_config is None else str(model_config)
    config = BackboneConfig(model, str(pretrained), folder, tuple(layers), token_norm=token_norm)
    return load_backbone(config, torch.device("cpu"), dtype)


def defaults_of(model):
    """What a model is used with by default."""
    return family_of(model).defaults(model, None)
