"""Text prompts, state words in templates, and the directions of normal and damaged that they give
(docs/methods.md).

The words are those of WinCLIP (Jeong et al., CVPR 2023) and its followers; the templates are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.config import DAMAGED_WORDS, NORMAL_WORDS, OBJECT, MethodConfig
from utils.errors import ConfigError
from utils.text import one_line

TEMPLATES = (
    "a photo of a {}",
    "a photo of the {}",
    "a close-up photo of a {}",
    "a close-up photo of the {}",
    "a cropped photo of the {}",
    "a bright photo of the {}",
    "a dark photo of the {}",
    "a blurry photo of the {}",
    "a sharp photo of a {}",
    "a photo of a single {}",
    "a photo of the {} on a plain background",
    "a photo of the {} for inspection",
)
LONGEST = 200  # characters of an object or a word: a sentence has 77 tokens at most

Encode = Callable[[Sequence[str]], Tensor]  # sentences -> (n,D) of unit length


def sentences(thing: str, states: Sequence[str]) -> list[str]:
    """Every state of `thing` in every template. A state is a word before the thing, or has {} in its
    place."""
    phrases = [state if "{}" in state else f"{state} {{}}" for state in states]
    return [
        template.replace("{}", phrase.replace("{}", thing)) for phrase in phrases for template in TEMPLATES
    ]


def directions(encode: Encode, options: MethodConfig) -> Tensor:
    """The directions (2,D) of normal and damaged, float32: the means of their sentences, of unit length."""
    kinds = (options.normal_words or NORMAL_WORDS), (options.damaged_words or DAMAGED_WORDS)
    means = [encode(sentences(options.object, states)).float().mean(0) for states in kinds]
    return F.normalize(torch.stack(means), dim=-1)


def object_of(category: str) -> str:
    """The object of a category, from its name."""
    return category.replace("_", " ").strip() or OBJECT


def refuse_strange_words(flag: str, texts: Sequence[str]) -> None:
    """ConfigError for words that are empty, or longer than a sentence can be."""
    for text in texts:
        bare = text.replace("{}", "")
        if not bare.strip() or len(text) > LONGEST or "{" in bare or "}" in bare:
            raise ConfigError(
                f"--{flag} {one_line(repr(text), 60)}: give 1 to {LONGEST} characters of English, {{}} "
                "standing for the object."
            )
