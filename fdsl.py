"""FDSL in Python: detectors built from checkpoints. The same code the commands use."""

from __future__ import annotations

from typing import Any, Mapping

import torch

from models.backbone import ModelError, load_backbone
from models.detector import Detector, WindowSettings
from models.fdsl import FDSL
from utils.checkpoint import Checkpoint


def build_detector(config: Mapping[str, Any], checkpoint: Checkpoint) -> Detector:
    """The detector that a run's configuration describes: `backbone`, `method`, `windows` and `machine` of config.json.

    Raises ModelError for a backbone whose weights are not those that the checkpoint was trained with.
    """
    tower, method, windows, machine = (config[part] for part in ("backbone", "method", "windows", "machine"))
    backbone = load_backbone(tower["model"], tower["pretrained"], tower["layers"], torch.device(machine["device"]),
                             getattr(torch, machine["precision"]), tower["model_config"])
    expected = checkpoint.config.get("fingerprint", backbone.fingerprint)
    if backbone.fingerprint != expected:
        raise ModelError(f"The backbone's weights ({backbone.fingerprint}) are not those that {checkpoint.path} was "
                         f"trained with ({expected}); give the same weights with --pretrained.")
    heads = FDSL(checkpoint.width, checkpoint.blocks, checkpoint.has_nam)
    heads.load_state_dict(checkpoint.state)
    settings = WindowSettings(windows["winmode"], windows["win_size"], windows["win_stride"], windows["win_weight"],
                              windows["index_memory"], windows["window_budget"])
    return Detector(backbone, heads, tower["image_size"], method["fd"], method["align"], settings, method["use_nam"])
