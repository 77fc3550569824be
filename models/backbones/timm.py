"""Frozen Vision Transformers of timm: DINOv2, DINOv3, EVA-02, and the encoders that open_clip takes from
it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from models.backbone import NOTHING_MORE, Backbone, nearest_multiple, quarters, unit_tokens
from models.backbones.cpu_attention import attention_by_products, products_beat_the_kernel
from models.backbones.timm_loading import (
    PREFIX,
    TimmEncoder,
    downloaded_encoder,
    encoder_of_file,
    rope_of_any_grid,
    shape_of_encoder,
    tags_of,
    untrained_encoder,
)
from models.backbones.weights_io.choose_weights import of_weights
from models.features import EMBEDDING, PROJECTED, RAW_TOKENS, Features
from utils.config import FINAL, RAW, USUAL_SIDE, BackboneConfig
from utils.errors import ModelError

NO_TEXT = (
    "An image encoder of timm has no text encoder that its patches could be compared with: --method text and "
    "--with-text need a CLIP of open_clip, for instance ViT-L-14-336-quickgelu."
)


class TimmBackbone(Backbone):
    """A VisionTransformer or Eva of timm.

    Tokens are a block's output, raw or behind the model's last norm (`token_norm`), class and register tokens
    dropped. `head`: what open_clip puts behind the trunk's pooling, for the embedding.
    """

    def __init__(
        self,
        visual: TimmEncoder,
        layers: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        mean: Sequence[float],
        std: Sequence[float],
        token_norm: str = RAW,
        head: nn.Module | None = None,
    ) -> None:
        _take_any_grid(visual)
        patch, width = visual.patch_embed.patch_size[0], visual.embed_dim
        head = head or nn.Identity()
        state = {**visual.state_dict(), **{f"head.{name}": part for name, part in head.state_dict().items()}}
        super().__init__(
            len(visual.blocks), layers, patch, width, token_norm, state, device, dtype, mean, std
        )
        self.visual: TimmEncoder = narrow_blocks(visual.requires_grad_(False).to(device), dtype)
        self.head = head.requires_grad_(False).to(device)
        self.train(False)

    def encode_normalised(self, images: Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        """Where no embedding is wanted the pass stops after the last feature layer. ModelError for projected
        tokens."""
        if PROJECTED in want:
            raise ModelError(NO_TEXT)
        embedding = EMBEDDING in want
        out = self.visual.forward_intermediates(
            images.to(self.device, self.visual.patch_embed.proj.weight.dtype),
            indices=[layer - 1 for layer in self.layers],
            norm=self.final,
            stop_early=not embedding,
            output_fmt="NLC",
            intermediates_only=not embedding,
        )
        blocks = [block.float() for block in (out[1] if embedding else out)]
        tokens = unit_tokens(blocks, self.dtype)
        pooled = self._embedding(out[0]) if embedding else None
        return Features(tokens, pooled, torch.stack(blocks) if RAW_TOKENS in want else None)

    def _embedding(self, tokens: Tensor) -> Tensor:
        """All tokens behind the last norm (B,n,C) -> the model's own image embedding (B,D), unit length."""
        projects = isinstance(self.head, nn.Identity)
        pooled = self.visual.forward_head(tokens, pre_logits=projects)
        return F.normalize(self.head(pooled).float(), dim=-1)


def _take_any_grid(visual: TimmEncoder) -> None:
    """Makes an encoder that was built for one size take images of every multiple of its patch side; its own
    position table stays, each grid is taken from it anew."""
    if not visual.dynamic_img_size and getattr(visual, "rope", None) is not None:
        visual.rope = rope_of_any_grid(visual)
    visual.dynamic_img_size = True
    embed = visual.patch_embed
    embed.strict_img_size = embed.flatten = False
    embed.output_fmt = type(embed.output_fmt)("NHWC")


def narrow_blocks(visual: TimmEncoder, dtype: torch.dtype) -> TimmEncoder:
    """Puts the products of every block into `dtype`; its scales and what is added up from block to block stay
    in float32, and so do position tables. An encoder with other blocks is put into `dtype` as a whole."""
    if dtype == torch.float32:
        return visual
    if not all(type(block) in (Block, EvaBlock) for block in visual.blocks):
        return visual.to(dtype)
    for block in visual.blocks:
        block.attn = narrow_attention(block.attn, dtype)
        for part in (block.attn, block.mlp):
            part.to(dtype).register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype), *inputs[1:]))
    return visual


class AttentionByProducts(nn.Module):
    """The self-attention of a plain `timm.layers.Attention`, with its parameters, by plain products."""

    def __init__(self, attention: TimmEncoder) -> None:
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


def narrow_attention(attention: TimmEncoder, dtype: torch.dtype) -> nn.Module:
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


def load_timm(config: BackboneConfig, device: torch.device, dtype: torch.dtype) -> TimmBackbone:
    """The model `timm/NAME[.TAG]`, a VisionTransformer or Eva.

    `pretrained`: a tag of timm (downloaded and cached by it), a FILE in the names of timm, Meta's DINOv2 or
    CLIP, or "none" (untrained weights from a fixed seed). Raises ModelError for an unknown model or tag, one
    that is no ViT, weights that cannot be fetched, a file that does not fill it.
    """
    weights = config.model, config.pretrained
    visual = of_weights(*weights, untrained_encoder, encoder_of_file, downloaded_encoder)
    of_pixels = timm.data.resolve_model_data_config(visual)
    mean, std = of_pixels["mean"], of_pixels["std"]
    return TimmBackbone(visual, config.layers, device, dtype, mean, std, config.token_norm)


def refuse_texts(config: BackboneConfig) -> NoReturn:
    """ModelError: there is no text encoder for these."""
    raise ModelError(NO_TEXT)


def defaults_of_timm(model: str, model_config: str | None = None) -> BackboneConfig:
    """What a `timm/...` model is used with by default: its own tag, blocks at the quarters of its
    depth, about USUAL_SIDE pixels, and the last norm for DINO's. ModelError as `load_timm`."""
    visual = shape_of_encoder(model)
    base, _, tag = model.removeprefix(PREFIX).partition(".")
    tags = tags_of(base)
    return BackboneConfig(
        model,
        tag or (tags[0] if tags else "default"),
        None,
        quarters(len(visual.blocks)),
        nearest_multiple(USUAL_SIDE, visual.patch_embed.patch_size[0]),
        FINAL if "dino" in base else RAW,
    )
