"""Frozen image encoders of open_clip: one set of weights, one position table for each patch grid."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import open_clip
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from models.backbone import NOTHING_MORE, Backbone, nearest_multiple, quarters, unit_tokens
from models.backbones.cpu_attention import PackedAttention, attended, narrow_products, pack_attention
from models.backbones.open_clip_loading import (
    downloaded_encoder,
    encoder_of_file,
    normalisation_of,
    register_model_configs,
    require_square_vit,
    shape_of_config,
    untrained_encoder,
)
from models.backbones.timm import TimmBackbone
from models.backbones.weights_io.choose_weights import of_weights
from models.features import EMBEDDING, PROJECTED, RAW_TOKENS, Features
from utils.config import RAW, USUAL_SIDE, BackboneConfig
from utils.errors import ModelError


class OpenClipBackbone(Backbone):
    """A ViT of open_clip.

    `layers` counts blocks from 1. Tokens are the raw output of a block, or that of the last norm, class token
    dropped, normalised in float32 and kept in `dtype`, in which the blocks' products are taken too. `mean`
    and `std`: OpenAI's unless the weights name others.
    """

    def __init__(
        self,
        visual: VisionTransformer,
        layers: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN,
        std: Sequence[float] = open_clip.OPENAI_DATASET_STD,
        token_norm: str = RAW,
    ) -> None:
        require_square_vit(visual)
        blocks = len(visual.transformer.resblocks)
        patch, width, state = visual.patch_size[0], visual.conv1.out_channels, visual.state_dict()
        super().__init__(blocks, layers, patch, width, token_norm, state, device, dtype, mean, std)
        self.native_table = visual.positional_embedding.detach().float()
        self.visual = narrow_products(pack_attention(visual).requires_grad_(False).to(device), dtype)
        self._tables: dict[tuple[int, torch.device], nn.Parameter] = {}
        self.train(False)

    def encode_normalised(self, images: Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        """Where neither an embedding nor projected tokens are wanted the pass stops after the last feature
        layer. ModelError for projected tokens of an encoder that is not CLIP's."""
        if PROJECTED in want:
            refuse_without_projection(self.visual)
            with what_enters(self.visual.transformer.resblocks[-1]) as entered:
                features = self.encode_normalised(images, (want - {PROJECTED}) | {EMBEDDING})
            return features._replace(projected=projected_tokens(self.visual, entered[0])[None])
        embedding = EMBEDDING in want
        self.visual.positional_embedding = self.position_table(self.grid(images.shape[-1]))
        out = self.visual.forward_intermediates(
            images.to(device=self.device, dtype=self.visual.conv1.weight.dtype),
            indices=[layer - 1 for layer in self.layers],
            stop_early=not embedding,
            normalize_intermediates=self.final,
            intermediates_only=not embedding,
            output_fmt="NLC",
        )
        blocks = [block.float() for block in out["image_intermediates"]]
        tokens = unit_tokens(blocks, self.dtype)
        pooled = F.normalize(out["image_features"].float(), dim=-1) if embedding else None
        return Features(tokens, pooled, torch.stack(blocks) if RAW_TOKENS in want else None)

    def position_table(self, grid: int) -> nn.Parameter:
        """The encoder's position table for `grid` x `grid` patches, made once for each grid and device."""
        key = grid, self.device
        if key not in self._tables:
            table = resize_position_table(self.native_table, grid).to(self.visual.conv1.weight)
            self._tables[key] = nn.Parameter(table, requires_grad=False)
        return self._tables[key]


def resize_position_table(table: Tensor, grid: int) -> Tensor:
    """(1+g*g, C) position table, class token first -> (1+grid*grid, C), bicubic and antialiased as in
    open_clip."""
    own = math.isqrt(table.shape[0] - 1)
    if own == grid:
        return table
    patches = table[1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], patches.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


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
    """Tokens that enter the last block (B,1+n,C), class token first -> patch tokens (B,n,D) in the space that
    CLIP's image and text embeddings share, of unit length, float32.

    The last block is computed once more, with the values as queries and keys: a patch then attends to patches
    that are similar, and stays local. The block's own attention mixes all patches into each token, which
    serves the image embedding and blurs a map. The rest is CLIP's own.
    """
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


def load_open_clip(
    config: BackboneConfig, device: torch.device, dtype: torch.dtype
) -> OpenClipBackbone | TimmBackbone:
    """A model of open_clip, whose image encoder is one of its own or a plain ViT of timm.

    `pretrained`: a tag of open_clip (downloaded and cached by it), a FILE with a whole CLIP or its image
    encoder, or "none" (untrained weights from a fixed seed). `model_config`: a folder of further open_clip
    model JSONs. Raises ModelError for an unknown model or tag, weights that cannot be fetched, an incomplete
    file.
    """
    model = config.model
    if config.model_config is not None:
        register_model_configs(config.model_config)
    if model not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.4)
        raise ModelError(
            f"--model {model} is not known to open_clip"
            f"{'; near names: ' + ', '.join(near) if near else ''}; other models need --model-config DIR."
        )
    visual = of_weights(model, config.pretrained, untrained_encoder, encoder_of_file, downloaded_encoder)
    how = config.layers, device, dtype, *normalisation_of(model, config.pretrained), config.token_norm
    if isinstance(visual, TimmModel):
        return TimmBackbone(visual.trunk, *how, visual.head)
    return OpenClipBackbone(visual, *how)


def defaults_of_open_clip(model: str, model_config: str | None = None) -> BackboneConfig:
    """What a model of open_clip is used with by default: OpenAI's weights or its first tag, blocks
    at the quarters of its depth and about USUAL_SIDE pixels. What cannot be known before it is built is as
    for the default model."""
    if model_config is not None:
        register_model_configs(model_config)
    usual = BackboneConfig()
    tags = open_clip.list_pretrained_tags_by_model(model)
    tag = tags[0] if tags and usual.pretrained not in tags else usual.pretrained
    shape = shape_of_config(model)
    if shape is None:
        return replace(usual, model=model, pretrained=tag, model_config=model_config)
    blocks, patch = shape
    return BackboneConfig(model, tag, model_config, quarters(blocks), nearest_multiple(USUAL_SIDE, patch))
