"""timm's image encoders: which may be used, and their weights from a hub, a file or a fixed seed."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.backbones.weights_io.check_weights import VISUAL, fill_strictly
from models.backbones.weights_io.choose_weights import announce, fetched, first_in_cache, quiet, seeded
from models.backbones.weights_io.read_weights import read_state, refuse_other_numbers
from models.backbones.weights_io.transformers_names import (
    is_of_transformers,
    is_vit_of_transformers,
    to_meta,
    to_open_clip,
)
from utils.errors import ModelError
from utils.text import first_line, one_line

PREFIX = "timm/"
TimmEncoder = Any  # a VisionTransformer or Eva of timm: their parts have no types
# What no encoder has: a classifier's last layer, and what only training uses.
NOT_OF_AN_ENCODER = ("head.", "head_dist.", "mask_token", "decoder", "text.", "logit_scale", "logit_bias")
PATCH_BIAS = "patch_embed.proj.bias"
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


def name_in_timm(model: str) -> str:
    """The name under which timm has a `timm/...` model by; ModelError with near names for what it does not
    know."""
    name = model.removeprefix(PREFIX)
    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3, cutoff=0.4)
        raise ModelError(
            f"--model {one_line(model, 120)} is not known to timm {timm.__version__}"
            f"{'; near names: ' + ', '.join(PREFIX + one for one in near) if near else ''}."
        )
    return name


def tagged_name(model: str, tag: str) -> str:
    """`timm/NAME[.OTHER]` with the weights `tag` -> NAME.TAG; ModelError for a tag that timm has not."""
    base = name_in_timm(model).partition(".")[0]
    tags = tags_of(base)
    if tag not in tags:
        raise ModelError(
            f"--pretrained {one_line(tag, 120)} is neither a file nor a tag of {PREFIX}{base} "
            f"(tags: {', '.join(tags) or 'none'}; or give a FILE, or none for untrained weights)."
        )
    return f"{base}.{tag}"


def tags_of(base: str) -> list[str]:
    """The tags of the weights that timm lists for a model."""
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]


def shape_of_encoder(model: str) -> TimmEncoder:
    """The encoder of a `timm/...` model without any values: made in a fraction of a second."""
    with torch.device("meta"):
        return _new_encoder(model, name_in_timm(model))


def untrained_encoder(model: str) -> TimmEncoder:
    """The encoder with random weights from a fixed seed."""
    return seeded(lambda: _new_encoder(model, name_in_timm(model)))


def downloaded_encoder(model: str, tag: str) -> TimmEncoder:
    """The encoder with weights of timm's hub, or of its cache."""
    name = tagged_name(model, tag)
    shape = shape_of_encoder(f"{PREFIX}{name}")  # refuses what is no ViT before anything is fetched
    source = timm.get_pretrained_cfg(name)
    if source is not None and source.hf_hub_id:
        announce(f"{tag} of {PREFIX}{name}", source.hf_hub_id, TIMM_FILES, lambda: shape)
    return fetched(
        lambda: timm.create_model(name, pretrained=True, num_classes=0, dynamic_img_size=True),
        f"{tag} of {PREFIX}{name}",
        f"model.safetensors of {(source.hf_hub_id or source.url) if source else name}",
    )


def weights_of_timm(model: str, tag: str) -> Path | None:
    """Where the weights `tag` of a `timm/...` model lie in the hub's cache; None where they do not."""
    source = timm.get_pretrained_cfg(tagged_name(model, tag))
    repository = source.hf_hub_id if source else None
    return first_in_cache(repository, TIMM_FILES) if repository else None


def encoder_of_file(model: str, file: Path) -> TimmEncoder:
    """The encoder with a file's weights, in the names of timm, of Meta's DINOv2 and DINOv3, of transformers,
    or of CLIP.

    Raises ModelError naming the file and what is missing or left over in it.
    """
    visual = shape_of_encoder(model)
    if any(buffer.is_meta for buffer in visual.buffers()):  # what no file holds has to be computed
        visual = untrained_encoder(model)
    state = read_state(file, VISUAL)
    state = to_meta(state) if is_vit_of_transformers(state) else _as_open_clip(state)
    refuse_other_numbers(state, file)
    own = visual.state_dict()
    converted = {
        name: value
        for name, value in _in_names_of_timm(state, visual, file).items()
        if name in own or not name.startswith(NOT_OF_AN_ENCODER)
    }
    if f"{VISUAL}conv1.weight" in state and PATCH_BIAS in own:  # CLIP's patches have no bias
        converted.setdefault(PATCH_BIAS, torch.zeros(own[PATCH_BIAS].shape))
    fill_strictly(visual, converted, str(file))
    return visual


def _as_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP in transformers' names, or its bare image encoder, in the names of a whole CLIP of open_clip."""
    if is_of_transformers(state):
        state = to_open_clip(state)
    if "class_embedding" not in state:
        return state
    return {f"{VISUAL}{name}": value for name, value in state.items()}


def _in_names_of_timm(state: dict[str, Tensor], visual: TimmEncoder, file: Path) -> dict[str, Tensor]:
    """The state dict as timm's own filter for such an encoder converts it: other names, other patch grids."""
    module = sys.modules[Eva.__module__ if isinstance(visual, Eva) else VisionTransformer.__module__]
    try:
        with quiet():
            return module.checkpoint_filter_fn(dict(state), visual)
    except Exception as error:  # of foreign names and shapes, whatever timm does with them
        raise ModelError(
            f"--pretrained {one_line(file, 300)} does not fill the image encoder "
            f"({first_line(error) or type(error).__name__}); check --model."
        ) from error


def _new_encoder(model: str, name: str) -> TimmEncoder:
    try:
        with quiet():
            visual = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except (AssertionError, AttributeError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"--model {one_line(model, 120)}: {first_line(error)}.") from error
    except (TypeError, ValueError) as error:  # it takes no images of several sizes
        raise _no_plain_vit(model) from error
    require_plain_vit(visual, model)
    return visual


def rope_of_any_grid(visual: TimmEncoder) -> nn.Module:
    """The rotary position embedding of an encoder that was built for one grid, made for every grid: that of a
    twin of one block."""
    name = visual.pretrained_cfg["architecture"]
    with quiet():
        twin: TimmEncoder = timm.create_model(name, num_classes=0, dynamic_img_size=True, depth=1)
    rope: nn.Module = twin.rope
    return rope.to(visual.patch_embed.proj.weight.device)


def require_plain_vit(visual: TimmEncoder, model: str) -> None:
    """ModelError for a model of timm that is no Vision Transformer on square patches of one size."""
    plain = isinstance(visual, (VisionTransformer, Eva)) and isinstance(visual.patch_embed, PatchEmbed)
    if not plain:
        raise _no_plain_vit(model)
    height, width = visual.patch_embed.patch_size
    if height != width:
        raise ModelError(
            f"The image encoder takes patches of {height} x {width} px; only square ones work here."
        )


def _no_plain_vit(model: str) -> ModelError:
    return ModelError(
        f"--model {one_line(model, 120)} is no plain Vision Transformer; choose for instance "
        f"{PREFIX}vit_small_patch14_reg4_dinov2.lvd142m or {PREFIX}vit_small_patch16_dinov3.lvd1689m."
    )
