"""Patch tokens in the space that CLIP's image and text embeddings share.

The last block is computed once more, with the values as queries and keys: a patch then attends to patches
that are similar, and stays local. The block's own attention mixes all patches into each token, which serves
the image embedding and blurs a map. The rest is CLIP's own: the rest of the block, the last norm, the
projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from models.backbones.cpu_attention import PackedAttention, attended
from utils.errors import ModelError


def refuse_without_projection(visual: VisionTransformer) -> None:
    """ModelError for an encoder whose last block or head is not CLIP's."""
    block = visual.transformer.resblocks[-1]
    plain = type(block) is ResidualAttentionBlock and isinstance(block.attn, PackedAttention)
    if not plain or visual.attn_pool is not None or visual.proj is None:
        raise ModelError(
            "The image encoder is not built like CLIP's, so its patches cannot be compared with text; choose "
            "for instance ViT-L-14-336-quickgelu, or leave text out."
        )


@contextmanager
def what_enters(block: nn.Module) -> Iterator[list[Tensor]]:
    """Within it the tokens (B,1+n,C) that enter a block are appended to the list."""
    entered: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    try:
        yield entered
    finally:
        hook.remove()


def projected_tokens(visual: VisionTransformer, entering: Tensor) -> Tensor:
    """Tokens that enter the last block (B,1+n,C), class token first -> patch tokens (B,n,D) of unit length,
    float32."""
    block = visual.transformer.resblocks[-1]
    tokens = entering + block.ls_1(value_value_attention(block.attn, block.ln_1(entering)))
    tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return F.normalize((visual.ln_post(tokens)[:, 1:] @ visual.proj).float(), dim=-1)


def value_value_attention(attention: PackedAttention, tokens: Tensor) -> Tensor:
    """Self-attention of tokens (B,N,C) whose queries and keys are its values."""
    width, weight = attention.out_proj.in_features, attention.in_proj_weight
    value = F.linear(tokens.to(weight.dtype), weight[2 * width :], attention.in_proj_bias[2 * width :])
    value = value.unflatten(-1, (attention.attention_heads, -1)).transpose(1, 2)
    return attention.out_proj(attended(value, value, value))
