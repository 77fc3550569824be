"""CLIP's text encoder, which is loaded only while sentences are encoded.

It is a whole CLIP of open_clip with the smallest possible image encoder, so that open_clip's own
`encode_text` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from models.backbones.open_clip_loading import downloaded_clip, register_model_configs
from models.backbones.weights_io.check_weights import VISUAL, fill_strictly
from models.backbones.weights_io.choose_weights import of_weights, quiet, seeded
from models.backbones.weights_io.read_weights import read_state, refuse_other_numbers
from models.backbones.weights_io.transformers_names import is_of_transformers, text_to_open_clip
from utils.config import BackboneConfig
from utils.errors import ModelError
from utils.text import first_line, one_line

TINY_IMAGE_ENCODER = {"image_size": 8, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8}
AT_ONCE = 64  # sentences
VOCABULARY = "token_embedding.weight"
NOT_OF_TEXT = ("logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size")
CURE = "take a CLIP of open_clip whose text encoder is its own, for instance ViT-L-14-336-quickgelu"


def text_encoder(config: BackboneConfig) -> Callable[[Sequence[str]], Tensor]:
    """A function from sentences to their text embeddings (n,D) of unit length, float32, on the CPU.

    The configuration is that of `load_open_clip`: one set of weights holds both encoders. Raises ModelError
    for a model without such a text encoder, and for weights that hold none or cannot be fetched.
    """
    if config.model_config is not None:
        register_model_configs(config.model_config)
    _refuse_other_encoders(config.model)
    clip = of_weights(config.model, config.pretrained, untrained_clip, clip_of_file, downloaded_clip)
    clip.eval().requires_grad_(False)
    tokenizer = tokenizer_of(config.model)

    def encode(sentences: Sequence[str]) -> Tensor:
        parts = tokenizer(list(sentences)).split(AT_ONCE)
        return torch.cat([clip.encode_text(part, normalize=True) for part in parts])

    return encode


def _refuse_other_encoders(model: str) -> None:
    """ModelError for a model whose encoders are not both open_clip's own."""
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else {}
    text, vision = config.get("text_cfg", {}), config.get("vision_cfg", {})
    others = {
        "an image encoder of timm": "timm_model_name" in vision,
        "a text encoder or a tokenizer that is not open_clip's": any("hf_" in name for name in text),
        "a text encoder that writes captions": "multimodal_cfg" in config,
    }
    if other := next((what for what, present in others.items() if present), ""):
        raise ModelError(f"--model {one_line(model, 120)} has {other}; for text {CURE}.")


def untrained_clip(model: str) -> open_clip.CLIP:
    """A CLIP with its own text encoder, random and always the same, and the smallest image encoder;
    ModelError where its vocabulary is not that of open_clip's tokenizer."""
    how = {"pretrained": None, "precision": "fp32", "device": "cpu", "vision_cfg": TINY_IMAGE_ENCODER}
    try:
        with quiet():
            clip = seeded(lambda: open_clip.create_model(model, **how))
    except (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"--model {model}: its text encoder cannot be built from its open_clip configuration "
            f"({first_line(error)})."
        ) from error
    tokens, needed = len(of_text(clip.state_dict())[VOCABULARY]), tokenizer_of(model).vocab_size
    if tokens != needed:
        raise ModelError(
            f"--model {model}: its text encoder has {tokens} tokens, and open_clip's tokenizer has {needed}; "
            f"{CURE}."
        )
    return clip


@cache
def tokenizer_of(model: str) -> open_clip.SimpleTokenizer:
    """open_clip's tokenizer for a model; its vocabulary is a file of the package."""
    with quiet():
        return open_clip.get_tokenizer(model)


def of_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's part of a whole CLIP's state dict, in open_clip's names: without `visual.*`, and
    without the prefix `text.` of later models."""
    prefix = _prefix(state)
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and not name.startswith(VISUAL) and name not in NOT_OF_TEXT
    }


def _prefix(state: dict[str, Tensor]) -> str:
    """The prefix of the text encoder's names."""
    return "text." if any(name.startswith("text.") for name in state) else ""


def read_text_encoder(file: Path) -> dict[str, Tensor]:
    """The text encoder's state dict in open_clip's names, from the file of a whole CLIP: see
    read_image_encoder.

    Nothing in the file is executed. Raises ModelError, one sentence that names the file.
    """
    state = {name.removeprefix("module."): value for name, value in read_state(file).items()}
    encoder = text_to_open_clip(state) if is_of_transformers(state) else of_text(state)
    if VOCABULARY not in encoder:
        raise ModelError(
            f"--pretrained {one_line(file, 300)} holds no text encoder: --method text and --with-text need "
            "weights of a whole CLIP."
        )
    refuse_other_numbers(encoder, file)
    return encoder


def clip_of_file(model: str, file: Path) -> open_clip.CLIP:
    """A CLIP whose text encoder has the file's weights."""
    encoder, clip = read_text_encoder(file), untrained_clip(model)
    state = clip.state_dict()
    prefix, text = _prefix(state), of_text(state)
    others = {name: value for name, value in state.items() if name.removeprefix(prefix) not in text}
    named = {f"{prefix}{name}": value for name, value in encoder.items()}
    fill_strictly(clip, others | named, str(file), "text encoder")
    return clip
