"""From transformers' names to others: CLIP's (`vision_model.*`, `text_model.*`) to open_clip's, and those of
ViT, DINOv2 and DINOv3 to Meta's, which timm reads."""

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
PACKED = {f"self_attn.{name}_proj": place for place, name in enumerate("qkv")}  # joined in open_clip
VIT_PATCHES = ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.weight")
VIT_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
VIT_BLOCK = re.compile(r"(?:encoder\.|model\.)?layer\.(\d{1,3})\.(.+?)(?:\.(weight|bias))?")
VIT_INSIDE = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
VIT_GATED = {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
VIT_PACKED = {  # joined in Meta's
    **{f"attention.attention.{name}": place for place, name in enumerate(("query", "key", "value"))},
    **{f"attention.{name}_proj": place for place, name in enumerate("qkv")},
}


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
    packed: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        inner = name.removeprefix(prefix)
        block = BLOCK.fullmatch(inner)
        if not name.startswith(prefix) or inner == NOT_WEIGHTS:
            continue
        if block and block[2] in PACKED:
            name = f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"
            packed.setdefault(name, {})[PACKED[block[2]]] = value
        elif block and block[2] in INSIDE:
            renamed[f"transformer.resblocks.{block[1]}.{INSIDE[block[2]]}.{block[3]}"] = value
        else:
            renamed[outside.get(inner, inner)] = value
    return renamed | _joined(packed)


def _joined(packed: dict[str, dict[int, Tensor]]) -> dict[str, Tensor]:
    """Name -> query, key and value, one after another; those that do not fit are left out, for the encoder to
    refuse."""
    return {
        name: torch.cat([parts[place] for place in range(3)])
        for name, parts in packed.items()
        if set(parts) == {0, 1, 2}
        and len({(part.shape, part.dtype) for part in parts.values()}) == 1
        and parts[0].dim() in (1, 2)
    }


def is_vit_of_transformers(state: dict[str, Tensor]) -> bool:
    """Whether the names of a state dict are those of transformers' ViT, DINOv2 or DINOv3."""
    return "embeddings.cls_token" in state and any(name in state for name in VIT_PATCHES)


def to_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict in Meta's names. Unknown names stay as they are, for the encoder to refuse."""
    is_dinov3 = VIT_PATCHES[1] in state
    inside = VIT_INSIDE | (VIT_GATED if any(".mlp.gate_proj." in name for name in state) else {})
    renamed: dict[str, Tensor] = {}
    packed: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        block = VIT_BLOCK.fullmatch(name)
        if block and block[2] in VIT_PACKED and block[3]:
            name = f"blocks.{block[1]}.attn.qkv.{block[3]}"
            packed.setdefault(name, {})[VIT_PACKED[block[2]]] = value
        elif block:
            part = inside.get(block[2], block[2])
            renamed[f"blocks.{block[1]}.{part}{f'.{block[3]}' if block[3] else ''}"] = value
        elif name.startswith("embeddings.patch_embeddings."):
            renamed[f"patch_embed.proj.{name.rpartition('.')[2]}"] = value
        elif name == "embeddings.register_tokens":
            renamed["storage_tokens" if is_dinov3 else "register_tokens"] = value
        elif not name.startswith(("pooler.", "classifier.")):
            renamed[VIT_OUTSIDE.get(name, name)] = value
    for name, parts in packed.items():
        if name.endswith(".bias") and set(parts) == {0, 2}:  # DINOv3's keys have no bias
            parts[1] = torch.zeros_like(parts[0])
    renamed |= _joined(packed)
    if "register_tokens" in renamed:  # timm recognises Meta's DINOv2 with registers by its mask token
        renamed.setdefault("mask_token", torch.zeros(1, renamed["register_tokens"].shape[-1]))
    return renamed
