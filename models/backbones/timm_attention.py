"""timm's attention without the kernel that is slow in bf16 on some CPUs."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from models.backbones.cpu_attention import attention_by_products, products_beat_the_kernel


class AttentionByProducts(nn.Module):
    """The self-attention of a plain `timm.layers.Attention`, with its parameters, by plain products."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention_heads = attention.num_heads
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm

    def forward(self, tokens: Tensor, *_: object, **__: object) -> Tensor:
        """Tokens (B,N,C) -> (B,N,C), as timm's blocks call it, without a mask."""
        packed = self.qkv(tokens).unflatten(-1, (3, self.attention_heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mixed = attention_by_products(self.q_norm(query), self.k_norm(key), value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def pack_attention(attention: Any, dtype: torch.dtype) -> nn.Module:
    """The attention of one block, in which `dtype` takes no slow kernel: by chunks of plain products, or by
    timm's own products where it rotates queries and keys or scales what comes out."""
    device = next(attention.parameters()).device
    if not products_beat_the_kernel(device, dtype):
        return attention
    norm, gate = getattr(attention, "norm", nn.Identity()), getattr(attention, "gate", None)
    if type(attention) is Attention and isinstance(norm, nn.Identity) and gate is None:
        return AttentionByProducts(attention)
    attention.fused_attn = False
    return attention
