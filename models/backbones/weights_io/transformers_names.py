"""The names of CLIP's encoders: from transformers' (`vision_model.*`, `text_model.*`) to open_clip's."""

from __future__ import annotations

import re

import torch
from torch import Tensor

PREFIX, TEXT_PREFIX = "vision_model.", "text_model."
PROJECTION, TEXT_PROJECTION = "visual_projection.weight", "text_projection.weight"
NOT_WEIGHTS = "embeddings.position_ids"  # a list of indices in older files
OUTSIDE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # spelled so in transformers
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
OUTSIDE_TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
INSIDE = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
BLOCK = re.compile(r"encoder\.layers\.(\d{1,3})\.(.+)\.(weight|bias)")
PACKED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # one after another in open_clip


def is_of_transformers(state: dict[str, Tensor]) -> bool:
    """Whether the names of a state dict are those of transformers' CLIP."""
    return f"{PREFIX}embeddings.class_embedding" in state


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's state dict in open_clip's names, from a whole CLIP or its image encoder in
    transformers'. Unknown names stay as they are, for the encoder to refuse."""
    renamed = _renamed(state, PREFIX, OUTSIDE)
    if PROJECTION in state and state[PROJECTION].dim() == 2:
        renamed["proj"] = state[PROJECTION].T.contiguous()
    return renamed


def text_to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for the text encoder of a whole CLIP."""
    renamed = _renamed(state, TEXT_PREFIX, OUTSIDE_TEXT)
    if TEXT_PROJECTION in state and state[TEXT_PROJECTION].dim() == 2:
        renamed["text_projection"] = state[TEXT_PROJECTION].T.contiguous()
    return renamed


def _renamed(state: dict[str, Tensor], prefix: str, outside: dict[str, str]) -> dict[str, Tensor]:
    """The tensors with the prefix, in open_clip's names; `outside`: names outside of blocks."""
    renamed: dict[str, Tensor] = {}
    packed: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in state.items():
        inner = name.removeprefix(prefix)
        block = BLOCK.fullmatch(inner)
        if not name.startswith(prefix) or inner == NOT_WEIGHTS:
            continue
        if block and block[2] in PACKED:
            packed.setdefault((block[1], block[3]), {})[block[2]] = value
        elif block and block[2] in INSIDE:
            renamed[f"transformer.resblocks.{block[1]}.{INSIDE[block[2]]}.{block[3]}"] = value
        else:
            renamed[outside.get(inner, inner)] = value
    for (layer, kind), parts in packed.items():
        shapes = {(part.shape, part.dtype) for part in parts.values()}
        if set(parts) == set(PACKED) and len(shapes) == 1 and parts[PACKED[0]].dim() in (1, 2):
            name = f"transformer.resblocks.{layer}.attn.in_proj_{kind}"
            renamed[name] = torch.cat([parts[part] for part in PACKED])
    return renamed
