"""Makes detectors from configurations, checkpoints and saved files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.region_of_interest import read_roi
from fdsl.config.resolve import backbone_config, method_config, window_config
from fdsl.config.run_config import DetectorConfig, FittedConfig
from fdsl.store.checkpoint import Checkpoint
from models.backbone import Backbone
from models.backbones.backbone_registry import load_backbone, text_directions
from models.backbones.text.prompts import object_of
from models.detector import Detector
from models.ensemble.mutual_scoring import WithMutualScoring
from models.ensemble.text_residuals import WithText
from models.method import Method
from models.methods.registry import METHODS
from utils.config import BY_CATEGORY, BackboneConfig, MachineFacts
from utils.device import PRECISIONS, choose_device, choose_precision, machine_facts
from utils.errors import ConfigError, ModelError
from utils.text import as_text

logger = logging.getLogger("fdsl")
HEADS = re.compile(r"(?:own\.|trained\.)*((?:heads|nam)\..+)")  # the names of trained heads' tensors


def build_detector(
    config: DetectorConfig,
    checkpoint: Checkpoint | None,
    like: Detector | None = None,
    categories: Iterable[str] = (),
) -> Detector:
    """The detector of a configuration, its memory still empty; it shares the backbone of `like`.

    checkpoint: None for a method without trained heads. `categories`: those that `set_category` may name,
    where text takes its object from their names. Raises ModelError for a backbone with other weights than the
    checkpoint was trained with, DataError for a file that is no region of interest.
    """
    roi = read_roi(config.options, config.backbone.image_size)  # refused before anything is loaded
    backbone = backbone_of_detector(config) if like is None else like.backbone
    if checkpoint is None:
        method = make_method(config, backbone.width, len(backbone.layers))
    else:
        if checkpoint.config is not None and backbone.fingerprint != checkpoint.config.fingerprint:
            raise ModelError(
                f"The backbone's weights ({backbone.fingerprint}) are not those that {checkpoint.path} was "
                f"trained with ({checkpoint.config.fingerprint}); give the same weights with --pretrained."
            )
        method = make_method(config, checkpoint.width, checkpoint.blocks, checkpoint.state)
    if method.reads_text and config.options.object == BY_CATEGORY:
        names = list(categories)
        named = [replace(config.options, object=object_of(name)) for name in names]
        method.alone().by_category = dict(zip(names, text_directions(config.backbone, named)))
    detector = Detector(backbone, method, config.backbone.image_size, config.windows)
    detector.restrict(None if roi is None else torch.from_numpy(roi))
    return detector


def make_method(
    config: DetectorConfig,
    width: int,
    blocks: int,
    heads: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Method:
    """The method of a configuration for tokens (L,n,C), L = `blocks`, C = `width`, with trained `heads`, or
    with the `state` of a saved detector, and with its directions where it reads text. ModelError where the
    backbone has no text encoder, RuntimeError for the state of another method."""
    options = config.options
    if state is not None:
        heads = {found[1]: value for name, value in state.items() if (found := HEADS.fullmatch(name))}
    method: Method = METHODS[config.method].load().of_heads(width, blocks, options, heads)
    if options.with_text:
        method = WithText(method)
    if state is not None:
        if method.reads_text:
            method.directions = state["directions"].float()
        method.load_state_dict(state)
    elif method.reads_text and options.object != BY_CATEGORY:
        (method.directions,) = text_directions(config.backbone, [options])
    return WithMutualScoring(method) if options.with_batch else method


def backbone_of_detector(config: DetectorConfig) -> Backbone:
    """The backbone of a configuration, on its device and in its precision; ModelError as load_backbone."""
    machine = config.machine
    return load_backbone(config.backbone, torch.device(machine.device), getattr(torch, machine.precision))


def machine_for(encoder: BackboneConfig, device: str, precision: str) -> MachineFacts:
    """The facts of this machine with a device and precision as they were asked for; warns of an untrained
    image encoder."""
    if encoder.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): results show that everything runs, not how good "
            "the method is."
        )
    chosen = choose_device(device)
    return machine_facts(chosen, choose_precision(precision, chosen))


def detector_config(
    method: str, given: Mapping[str, Any], device: str, precision: str, checkpoint: Checkpoint | None = None
) -> DetectorConfig:
    """The configuration of a detector from given options, and from those of a checkpoint of trained heads;
    contradictions are refused before anything is loaded."""
    if checkpoint is None:
        given = {**given, "use_nam": False, "winmode": given.get("winmode") or "nan"}
        encoder, options = backbone_config(given), method_config(given)
    else:
        encoder = backbone_config(given, checkpoint.backbone)
        options = method_config(given, checkpoint.options, checkpoint.has_nam)
    windows, machine = window_config(given), machine_for(encoder, device, precision)
    if machine.device == "cpu" and windows.winmode != "nan" and not windows.window_budget:
        logger.info(
            "local windows: all of them, which takes long on a CPU; --index-memory window --window-budget is "
            "about four times as fast, --winmode nan leaves them out"
        )
    return DetectorConfig(method=method, backbone=encoder, options=options, windows=windows, machine=machine)


def moved_config(
    config: FittedConfig,
    file: str | Path,
    pretrained: str | None,
    model_config: str | None,
    device: str,
    precision: str | None,
) -> FittedConfig:
    """A saved detector's configuration on this machine.

    Its precision is part of it and cannot change, with one exception: a CPU computes in float32 what a GPU
    computed in float16, which CPUs compute many times slower.
    """
    stored, chosen = config.detector.machine.precision, choose_device(device)
    dtype = getattr(torch, stored)
    asked = "auto" if precision is None else as_text("--precision", precision)
    if asked != "auto" and PRECISIONS.get(asked) != dtype:
        raise ConfigError(
            f"--precision {precision}: {file} was made in {stored}; leave the flag out or make it again."
        )
    if dtype == torch.float16 and chosen.type == "cpu":
        dtype = torch.float32
        logger.info("detector %s: made in float16, used in float32 on this CPU", file)
    encoder = config.detector.backbone
    weights = encoder.pretrained if pretrained is None else pretrained
    folder = encoder.model_config if model_config is None else model_config
    encoder = replace(encoder, pretrained=weights, model_config=folder)
    detector = replace(config.detector, backbone=encoder, machine=machine_facts(chosen, dtype))
    return replace(config, detector=detector)
