"""The image encoder's attention without PyTorch's detours, and products in a narrow precision with sums in
float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from utils.device import bf16_in_hardware

ATTENTION_ROWS = 192  # of one product of queries and keys, where they are taken one by one
ATTENTION_SCORES = 2**23  # of one such product, at most
QUICK = 1.702  # OpenAI's activation is x sigmoid(QUICK x)


class PackedAttention(nn.Module):
    """The self-attention of an nn.MultiheadAttention, with its parameters: one product for query, key and
    value, one attention kernel, one product out.

    PyTorch's own module transposes the batch away first, which costs a bf16 batch on a CPU ten times the
    arithmetic.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention_heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self, tokens: Tensor, *_: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Tokens (B,N,C) -> (B,N,C) and no weights, as open_clip's blocks call it (key and value are the
        query)."""
        packed = F.linear(tokens.to(self.in_proj_weight.dtype), self.in_proj_weight, self.in_proj_bias)
        query, key, value = packed.unflatten(-1, (3, self.attention_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(attended(query, key, value, attn_mask)), None


def products_beat_the_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """In bf16 on a CPU with AVX512-BF16 PyTorch's attention kernel takes more than twice the time of plain
    products; with AMX, or without either, products are the slow ones."""
    return device.type == "cpu" and dtype == torch.bfloat16 and bf16_in_hardware() == "AVX512-BF16"


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(d)) value of (B,H,N,d), heads side by side (B,N,H*d), the faster way."""
    if mask is None and products_beat_the_kernel(query.device, query.dtype):
        mixed = attention_by_products(query, key, value)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


def attention_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d)) value of (B,H,N,d), chunk by chunk so that the scores stay small."""
    attention_heads, tokens, width = query.shape[1:]
    images = max(1, ATTENTION_SCORES // (attention_heads * min(tokens, ATTENTION_ROWS) * tokens))
    query, key, value = (part.contiguous() for part in (query * width**-0.5, key, value))
    return torch.cat(
        [
            torch.cat(
                [
                    (rows @ keys.transpose(-1, -2)).softmax(-1) @ values
                    for rows in queries.split(ATTENTION_ROWS, dim=-2)
                ],
                dim=-2,
            )
            for queries, keys, values in zip(*(part.split(images) for part in (query, key, value)))
        ]
    )


def pack_attention(visual: VisionTransformer) -> VisionTransformer:
    """Replaces each block's nn.MultiheadAttention by a PackedAttention over the same parameters, names
    unchanged."""
    for block in visual.transformer.resblocks:
        attention = getattr(block, "attn", None)
        if (
            type(attention) is nn.MultiheadAttention
            and attention.batch_first
            and attention.in_proj_weight is not None
        ):
            block.attn = PackedAttention(attention)
    return visual


class QuickGeluMlp(nn.Module):
    """The two linear layers of a block with OpenAI's x sigmoid(1.702 x) in between, which is silu(1.702 x) /
    1.702: one pass over the hidden values in place of three, and one rounding. Both factors belong to the
    products."""

    scaled_bias: Tensor

    def __init__(self, c_fc: nn.Linear, c_proj: nn.Linear) -> None:
        super().__init__()
        self.c_fc, self.c_proj = c_fc, c_proj
        self.register_buffer("scaled_bias", QUICK * c_fc.bias.detach(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B,N,C) -> (B,N,C)."""
        rows = tokens.flatten(0, -2)
        hidden = torch.addmm(self.scaled_bias, rows, self.c_fc.weight.t(), alpha=QUICK)
        hidden = F.silu(hidden, inplace=True)
        found = torch.addmm(self.c_proj.bias, hidden, self.c_proj.weight.t(), alpha=1 / QUICK)
        return found.view(tokens.shape)


def narrow_products(visual: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    """Puts the products of every block into `dtype`; what is added up from block to block stays in float32.

    Rounding that sum as well makes bf16 tokens about twice as wrong. An encoder with other blocks than CLIP's
    is put into `dtype` as a whole.
    """
    blocks = list(visual.transformer.resblocks)
    if dtype == torch.float32 or not all(
        isinstance(getattr(block, "attn", None), PackedAttention) and type(block) is ResidualAttentionBlock
        for block in blocks
    ):
        return visual.to(dtype)
    for block in blocks:
        block.attn.to(dtype)
        if type(block.mlp.gelu) is QuickGELU:
            block.mlp = QuickGeluMlp(block.mlp.c_fc, block.mlp.c_proj)
        block.mlp.to(dtype).register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    return visual
