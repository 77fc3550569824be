"""The frozen CLIP image tower: one set of weights, one position table per patch grid."""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.attention import narrow_products, pack_attention
from models.backbones.weights import fill_image_tower, fingerprint, read_image_tower
from models.features import Features
from utils.errors import ModelError
from utils.text import first_line


class FrozenBackbone(nn.Module):
    """A ViT of open_clip that is never trained: eval mode, no gradients and one precision, whoever calls it.

    `layers` counts blocks from 1 (DESIGN: 6, 12, 18, 24). Tokens are the raw output of a block, class token
    dropped, normalised in float32 and kept in `dtype`, in which the blocks' products are taken too.
    """

    def __init__(
        self, visual: nn.Module, layers: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        require_square_vit(visual)
        blocks = len(visual.transformer.resblocks)
        if not layers or len(set(layers)) != len(layers) or any(not 1 <= layer <= blocks for layer in layers):
            raise ModelError(
                f"--layers {' '.join(map(str, layers))}: give distinct blocks between 1 and {blocks}."
            )
        self.layers = tuple(sorted(layers))
        self.patch_size = visual.patch_size[0]
        self.width = visual.conv1.out_channels
        self.fingerprint = fingerprint(visual.state_dict())
        self.native_table = visual.positional_embedding.detach().float()
        self.visual = narrow_products(pack_attention(visual).requires_grad_(False).to(device), dtype)
        self.dtype = dtype
        self._tables: dict[tuple[int, torch.device], nn.Parameter] = {}
        self.train(False)

    @property
    def device(self) -> torch.device:
        return self.visual.conv1.weight.device

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Frozen: stays in eval mode whatever the caller asks."""
        return super().train(False)

    def grid(self, side: int) -> int:
        """Patches along one side of an image of `side` pixels; ModelError unless it is a whole number."""
        if side < self.patch_size or side % self.patch_size:
            near = max(1, round(side / self.patch_size)) * self.patch_size
            raise ModelError(
                f"--image-size {side} is not a multiple of the patch side {self.patch_size}; "
                f"{near} is the nearest that is."
            )
        return side // self.patch_size

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(self, images: Tensor, embedding: bool = False) -> Features:
        """Features of images (B,3,H,H), normalised with CLIP's mean and std; H a multiple of the patch side.

        Without `embedding` the pass stops after the last tapped block.
        """
        grid = self.grid(images.shape[-1])
        self.visual.positional_embedding = self._table(grid)
        out = self.visual.forward_intermediates(
            images.to(device=self.device, dtype=self.visual.conv1.weight.dtype),
            indices=[layer - 1 for layer in self.layers],
            stop_early=not embedding,
            intermediates_only=not embedding,
            output_fmt="NLC",
        )
        tokens = torch.stack(
            [F.normalize(block.float(), dim=-1).to(self.dtype) for block in out["image_intermediates"]]
        )
        pooled = F.normalize(out["image_features"].float(), dim=-1) if embedding else None
        return Features(tokens, pooled)

    def _table(self, grid: int) -> nn.Parameter:
        key = grid, self.device
        if key not in self._tables:
            table = resize_position_table(self.native_table, grid).to(self.visual.conv1.weight)
            self._tables[key] = nn.Parameter(table, requires_grad=False)
        return self._tables[key]


def require_square_vit(visual: nn.Module) -> None:
    """ModelError for an image tower that is not open_clip's own Vision Transformer on square images and
    patches."""
    if not isinstance(visual, open_clip.transformer.VisionTransformer):
        raise ModelError(
            f"The image tower is a {type(visual).__name__}, not a Vision Transformer of open_clip (SigLIP, EVA, "
            "ViTamin and others come from timm); choose for instance ViT-L-14-336-quickgelu or ViT-B-16-quickgelu."
        )
    for what, (height, width) in (("images", visual.image_size), ("patches", visual.patch_size)):
        if height != width:
            raise ModelError(
                f"The image tower takes {what} of {height} x {width} px; only square ones work here."
            )


def resize_position_table(table: Tensor, grid: int) -> Tensor:
    """(1+g*g, C) position table, class token first -> (1+grid*grid, C), bicubic and antialiased as in
    open_clip."""
    own = math.isqrt(table.shape[0] - 1)
    if own == grid:
        return table
    patches = table[1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], patches.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


logger = logging.getLogger("fdsl")


UNTRAINED = "none"


UNTRAINED_SEED = 2025


# The text tower is never used: where its weights are not loaded, the smallest possible one is built.
TINY_TEXT_TOWER = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def load_backbone(
    model: str,
    pretrained: str,
    layers: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    model_config: str | None = None,
) -> FrozenBackbone:
    """Builds `model` with open_clip and fills its image tower.

    `pretrained`: a tag of open_clip (downloaded and cached by it), a FILE with a whole CLIP or its image
    tower, or "none" (untrained weights from a fixed seed). `model_config`: a folder of further open_clip
    model JSONs. Raises ModelError for an unknown model or tag, weights that cannot be fetched, an incomplete
    file.
    """
    if model_config is not None:
        register_model_configs(model_config)
    if model not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.4)
        raise ModelError(
            f"--model {model} is not known to open_clip"
            f"{'; near names: ' + ', '.join(near) if near else ''}; other models need --model-config DIR."
        )
    if pretrained == UNTRAINED:
        visual = _untrained_tower(model)
    elif Path(pretrained).is_file():
        visual = _tower_of_file(model, Path(pretrained))
    else:
        visual = _downloaded_tower(model, pretrained)
    return FrozenBackbone(visual, layers, torch.device(device), dtype)


def register_model_configs(folder: str) -> None:
    """Adds every open_clip model JSON of `folder` to open_clip's list."""
    if not list(Path(folder).glob("*.json")):
        raise ModelError(f"--model-config {folder} holds no open_clip model file (*.json).")
    try:
        open_clip.add_model_config(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"--model-config {folder}: a model file in it cannot be read ({error}).") from error


def _untrained_tower(model: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return _new_tower(model, "cpu")


def _new_tower(model: str, device: str) -> nn.Module:
    try:
        with _open_clip_quiet():
            visual = open_clip.create_model(
                model,
                pretrained=None,
                precision="fp32",
                device=device,
                text_cfg=TINY_TEXT_TOWER,
                force_custom_text=False,
            ).visual
    except (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"--model {model} cannot be built from its open_clip configuration ({first_line(error)})."
        ) from error
    require_square_vit(visual)
    return visual


def _tower_of_file(model: str, file: Path) -> nn.Module:
    """The image tower with the file's weights, made without any of its own: drawing random ones takes
    seconds."""
    state = read_image_tower(file)
    with torch.device("meta"):
        visual = _new_tower(model, "meta")
    fill_image_tower(visual, state, str(file))
    if any(
        tensor.is_meta for tensor in (*visual.parameters(), *visual.buffers())
    ):  # a buffer that no file holds
        visual = _untrained_tower(model)
        fill_image_tower(visual, state, str(file))
    return visual


def _downloaded_tower(model: str, tag: str) -> nn.Module:
    source = open_clip.get_pretrained_cfg(model, tag)
    if not source:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ModelError(
            f"--pretrained {tag} is neither a file nor a tag of {model} "
            f"(tags: {', '.join(tags) or 'none'}; or give a FILE, or none for untrained weights)."
        )
    if source.get("quick_gelu", False) and not model.endswith("-quickgelu"):
        logger.warning(
            "%s runs the %s weights with plain GELU, though they were trained with QuickGELU; "
            "%s-quickgelu is right for them.",
            model,
            tag,
            model,
        )
    own = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    if any(tuple(source.get(name) or usual) != tuple(usual) for name, usual in own.items()):
        logger.warning(
            "The weights %s of %s were trained on images normalised otherwise than here, where every image gets "
            "OpenAI's mean and deviation.",
            tag,
            model,
        )
    try:
        with _open_clip_quiet():
            return open_clip.create_model(model, pretrained=tag, precision="fp32", device="cpu").visual
    except Exception as error:  # hubs raise many kinds: all mean that the weights are not here
        where = source.get("hf_hub", "").strip("/") or source.get("url", "")
        raise ModelError(
            f"The weights {tag} of {model} could not be fetched ({first_line(error)}); download "
            f"open_clip_model.safetensors of {where} where there is a network and pass it as "
            "--pretrained FILE."
        ) from error


@contextlib.contextmanager
def _open_clip_quiet() -> Iterator[None]:
    """open_clip reports to the root logger and by warnings; what matters of it is said by this module."""
    root = logging.getLogger()
    before = root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            yield
    finally:
        logging.disable(before)
