"""The names of ViT, DINOv2 and DINOv3: from transformers' to Meta's, which timm reads."""

from __future__ import annotations

import re

import torch
from torch import Tensor

PATCHES = ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.weight")
OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
BLOCK = re.compile(r"(?:encoder\.|model\.)?layer\.(\d{1,3})\.(.+?)(?:\.(weight|bias))?")
INSIDE = {
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
GATED = {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
PACKED = {  # one after another in Meta's
    **{f"attention.attention.{name}": place for place, name in enumerate(("query", "key", "value"))},
    **{f"attention.{name}_proj": place for place, name in enumerate("qkv")},
}


def is_vit_of_transformers(state: dict[str, Tensor]) -> bool:
    """Whether the names of a state dict are those of transformers' ViT, DINOv2 or DINOv3."""
    return "embeddings.cls_token" in state and any(name in state for name in PATCHES)


def to_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict in Meta's names. Unknown names stay as they are, for the encoder to refuse."""
    is_dinov3 = PATCHES[1] in state
    inside = INSIDE | (GATED if any(".mlp.gate_proj." in name for name in state) else {})
    renamed: dict[str, Tensor] = {}
    packed: dict[tuple[str, str], dict[int, Tensor]] = {}
    for name, value in state.items():
        block = BLOCK.fullmatch(name)
        if block and block[2] in PACKED and block[3]:
            packed.setdefault((block[1], block[3]), {})[PACKED[block[2]]] = value
        elif block:
            part = inside.get(block[2], block[2])
            renamed[f"blocks.{block[1]}.{part}{f'.{block[3]}' if block[3] else ''}"] = value
        elif name.startswith("embeddings.patch_embeddings."):
            renamed[f"patch_embed.proj.{name.rpartition('.')[2]}"] = value
        elif name == "embeddings.register_tokens":
            renamed["storage_tokens" if is_dinov3 else "register_tokens"] = value
        elif not name.startswith(("pooler.", "classifier.")):
            renamed[OUTSIDE.get(name, name)] = value
    for (layer, kind), parts in packed.items():
        if kind == "bias" and set(parts) == {0, 2}:  # DINOv3's keys have no bias
            parts[1] = torch.zeros_like(parts[0])
        if set(parts) == {0, 1, 2} and len({(part.shape, part.dtype) for part in parts.values()}) == 1:
            renamed[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat([parts[place] for place in range(3)])
    if "register_tokens" in renamed:  # timm recognises Meta's DINOv2 with registers by its mask token
        renamed.setdefault("mask_token", torch.zeros(1, renamed["register_tokens"].shape[-1]))
    return renamed
