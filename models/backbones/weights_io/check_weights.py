"""The weights of an image encoder: read from files without executing anything, checked, and fingerprinted."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from models.backbones.weights_io.read_weights import read_state, refuse_other_numbers
from models.backbones.weights_io.transformers_names import PROJECTION, is_of_transformers, to_open_clip
from utils.errors import ModelError
from utils.text import one_line

TABLE = "positional_embedding"
VISUAL = "visual."  # the image encoder's prefix in a whole CLIP
FINGERPRINT_STRIDE = 1009  # a prime, so that the sampled entries do not line up with rows


def fingerprint(state: dict[str, Tensor]) -> str:
    """Hex digest of a state dict's names, shapes and a strided sample of its float32 values.

    Distinguishes sets of weights in milliseconds; not a defence against forgery.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().reshape(-1)
        sample = torch.cat([values[:64], values[::FINGERPRINT_STRIDE]]).float().cpu().contiguous()
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def read_image_encoder(file: Path) -> dict[str, Tensor]:
    """The image encoder's state dict in open_clip's names, from a whole CLIP or its encoder: a safetensors or
    torch file with `visual.*` or bare names, OpenAI's TorchScript archive, or transformers' `vision_model.*`.

    Nothing in the file is executed. Raises ModelError naming the file.
    """
    state = read_state(file, VISUAL)
    if is_of_transformers(state):
        encoder = to_open_clip(state)
        if "proj" not in encoder:
            raise ModelError(
                f"--pretrained {file} holds no {PROJECTION}: it is only the image encoder; fetch the "
                "model.safetensors of the whole CLIP."
            )
    else:
        named = {name: value for name, value in state.items() if name.startswith(VISUAL)}
        encoder = {name.removeprefix(VISUAL): value for name, value in named.items()}
    refuse_other_numbers(encoder or state, file)
    return encoder or state


def fill_image_encoder(visual: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads `state` strictly into the encoder, in float32; its position table may be of any square grid.

    Raises ModelError with the missing, unexpected or misshapen names.
    """
    table, own = state.get(TABLE, torch.empty(0)), getattr(visual, TABLE, None)
    if (
        own is not None
        and table.dim() == 2
        and table.shape[1] == own.shape[1]
        and table.shape[0] > 1
        and math.isqrt(table.shape[0] - 1) ** 2 == table.shape[0] - 1
    ):
        visual.positional_embedding = nn.Parameter(table.float().detach().clone())
    fill_strictly(visual, state, source)


def fill_strictly(
    encoder: nn.Module, state: dict[str, Tensor], source: str, what: str = "image encoder"
) -> None:
    """Loads `state` into the encoder, in float32; ModelError, which calls the encoder `what`, with the names
    that are missing, unexpected, misshapen or not finite, or for nothing but zeros."""
    own = encoder.state_dict()
    fits = {name for name in own if name in state and state[name].shape == own[name].shape}
    faults = {
        "missing": sorted(set(own) - set(state)),
        f"not of the {what}": sorted(set(state) - set(own)),
        "of another shape": sorted((set(own) & set(state)) - fits),
    }
    if any(faults.values()):
        reason = "; ".join(f"{what}: {_some(names)}" for what, names in faults.items() if names)
        raise ModelError(f"--pretrained {source} does not fill the {what} ({reason}); check --model.")
    state = {name: value.float() for name, value in state.items()}
    bad = sorted(name for name, value in state.items() if not torch.isfinite(value).all())
    if bad:
        raise ModelError(f"--pretrained {source} holds values that are not finite ({_some(bad)}).")
    if not any(value.any() for value in state.values()):
        raise ModelError(f"--pretrained {source} holds nothing but zeros; fetch it again.")
    encoder.load_state_dict(state, strict=True, assign=True)


def _some(names: list[str]) -> str:
    """The first five names, and the number of the others."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return one_line(", ".join(name[:60] for name in names[:5]), 320) + more
