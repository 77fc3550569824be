"""open_clip's image encoders: their weights from a hub, a file or a fixed seed."""

from __future__ import annotations

import logging
from pathlib import Path

import open_clip
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from models.backbones.timm_loading import PREFIX, require_plain_vit, shape_of_encoder
from models.backbones.weights_io.check_weights import fill_image_encoder, read_image_encoder
from models.backbones.weights_io.choose_weights import announce, fetched, first_in_cache, quiet, seeded
from utils.errors import ModelError
from utils.files import parsed_json
from utils.text import first_line

logger = logging.getLogger("fdsl")
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LARGEST_CONFIG = 2**20  # bytes of a model file
# No text encoder is used here: where its weights are not loaded, the smallest possible one is built.
TINY_TEXT_ENCODER = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
# What open_clip and PyTorch raise for sizes that no model has, and for models that there are not.
NOT_BUILT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def register_model_configs(folder: str) -> None:
    """Adds every open_clip model JSON of `folder` to open_clip's list. They are read before that: a folder
    that open_clip cannot read stays in its list, and no model is built after it."""
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise ModelError(f"--model-config {folder} holds no open_clip model file (*.json).")
    for file in files:
        try:
            if not file.is_file() or file.stat().st_size > LARGEST_CONFIG:  # a pipe would block
                raise ValueError("it is no small file")
            content = parsed_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"--model-config: {file} cannot be read ({first_line(error)}).") from error
        if not isinstance(content, dict):
            raise ModelError(f"--model-config: {file} is no model file of open_clip.")
    open_clip.add_model_config(folder)


def untrained_encoder(model: str) -> VisionTransformer:
    with torch.device("meta"):
        _new_encoder(model, "meta")  # refuses a configuration that cannot run
    return seeded(lambda: _new_encoder(model, "cpu"))


def _new_encoder(model: str, device: str) -> VisionTransformer:
    try:
        with quiet():
            visual = open_clip.create_model(
                model,
                pretrained=None,
                precision="fp32",
                device=device,
                text_cfg=TINY_TEXT_ENCODER,
                force_custom_text=False,
            ).visual
        if isinstance(visual, TimmModel):
            require_plain_vit(visual.trunk, model)
        else:
            require_square_vit(visual)
        if device == "meta" and not isinstance(visual, TimmModel):  # some values are used only by an image
            visual.eval()(torch.empty(1, 3, *visual.image_size))
    except NOT_BUILT as error:
        raise ModelError(
            f"--model {model} cannot be built from its open_clip configuration ({first_line(error)})."
        ) from error
    return visual


def shape_of_config(model: str) -> tuple[int, int] | None:
    """Blocks and patch side in pixels by a model's configuration; None where it does not say, or is not
    known."""
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    vision = (config or {}).get("vision_cfg")
    if not isinstance(vision, dict):
        return None
    if "timm_model_name" in vision:
        try:
            trunk = shape_of_encoder(f"{PREFIX}{vision['timm_model_name']}")
        except ModelError:  # no ViT: reported when it is built
            return None
        return len(trunk.blocks), trunk.patch_embed.patch_size[0]
    blocks, patch = vision.get("layers", 12), vision.get("patch_size", 16)
    return (blocks, patch) if type(blocks) is int and type(patch) is int and min(blocks, patch) > 0 else None


def require_square_vit(visual: nn.Module) -> None:
    """ModelError for an image encoder that is not open_clip's own Vision Transformer on square images and
    patches."""
    if not isinstance(visual, VisionTransformer):
        raise ModelError(
            f"The image encoder is a {type(visual).__name__}, not a Vision Transformer; choose for instance "
            "ViT-L-14-336-quickgelu or ViT-B-16-quickgelu."
        )
    for what, (height, width) in (("images", visual.image_size), ("patches", visual.patch_size)):
        if height != width:
            raise ModelError(
                f"The image encoder takes {what} of {height} x {width} px; only square ones work here."
            )


def encoder_of_file(model: str, file: Path) -> VisionTransformer:
    """The image encoder with the file's weights, made without any of its own: drawing random ones takes
    seconds."""
    state = read_image_encoder(file)
    with torch.device("meta"):
        visual = _new_encoder(model, "meta")
    fill_image_encoder(visual, state, str(file))
    if any(
        tensor.is_meta for tensor in (*visual.parameters(), *visual.buffers())
    ):  # a buffer that no file holds
        visual = untrained_encoder(model)
        fill_image_encoder(visual, state, str(file))
    return visual


def downloaded_encoder(model: str, tag: str) -> VisionTransformer:
    return downloaded_clip(model, tag).visual


def downloaded_clip(model: str, tag: str) -> open_clip.CLIP:
    """The whole CLIP with the weights of a tag; ModelError where they cannot be had."""
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
    repository, _, name = source.get("hf_hub", "").rpartition("/")
    if repository:
        announce(
            f"{tag} of {model}",
            repository,
            [name] if name else HUB_FILES,
            lambda: open_clip.create_model(model, pretrained=None, precision="fp32", device="meta"),
        )
    where = source.get("hf_hub", "").strip("/") or source.get("url", "")
    return fetched(
        lambda: open_clip.create_model(model, pretrained=tag, precision="fp32", device="cpu"),
        f"{tag} of {model}",
        f"open_clip_model.safetensors of {where}",
    )


def weights_of_open_clip(model: str, tag: str) -> Path | None:
    """Where the weights `tag` of a model lie in open_clip's caches; None where they do not."""
    source = open_clip.get_pretrained_cfg(model, tag)
    repository, _, name = source.get("hf_hub", "").rpartition("/")
    if repository:
        return first_in_cache(repository, [name] if name else HUB_FILES)
    file = Path("~/.cache/clip").expanduser() / Path(source.get("url", "") or "nothing").name
    return file if file.is_file() else None


def normalisation_of(model: str, tag: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (3,) that the weights `tag` were trained with; OpenAI's where they name
    none. Of a file or untrained ones: what an encoder of timm has been trained with, by the model's first
    tag."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    of_timm = "timm_model_name" in (open_clip.get_model_config(model) or {}).get("vision_cfg", {})
    if tag not in tags and of_timm and tags:
        tag = tags[0]
    source = open_clip.get_pretrained_cfg(model, tag)
    mean = tuple(source.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(source.get("std") or open_clip.OPENAI_DATASET_STD)
    return mean, std
