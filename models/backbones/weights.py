"""Weights of an image tower: read from files without executing anything, checked, and told apart."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import ModelError
from utils.text import first_line

FINGERPRINT_STRIDE = 1009  # a prime, so that the sampled entries do not line up with rows


def fingerprint(state: dict[str, Tensor]) -> str:
    """Hex digest of a state dict's names, shapes and a strided sample of its float32 values.

    Tells one set of weights from another in milliseconds; not a defence against forgery.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().reshape(-1)
        sample = torch.cat([values[:64], values[::FINGERPRINT_STRIDE]]).float().cpu().contiguous()
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def read_image_tower(file: Path) -> dict[str, Tensor]:
    """The image tower's state dict from a safetensors or torch file (whole CLIP, `visual.*` or bare keys).

    Torch files are read without executing anything (weights_only). Raises ModelError naming the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise ModelError(
            f"--pretrained {file} is not a plain weights file ({first_line(error)}); use a .safetensors file."
        ) from error
    except Exception as error:  # pickle.UnpicklingError and its kin
        raise ModelError(
            f"--pretrained {file} was refused: it holds more than tensors "
            f"({first_line(error)}); use a .safetensors file."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            f"--pretrained {file} holds no state dict of tensors; use open_clip's own weights file."
        )
    state = {name.removeprefix("module."): value for name, value in state.items()}
    tower = {
        name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")
    }
    return tower or state


def fill_image_tower(visual: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads `state` strictly into the tower, in float32 whatever it is stored in; its position table may be
    of any square grid.

    Raises ModelError with the missing, unexpected or misshapen names.
    """
    own = visual.state_dict()
    table = state.get("positional_embedding", torch.empty(0))
    fits = {name for name in own if name in state and state[name].shape == own[name].shape}
    if (
        table.dim() == 2
        and table.shape[1] == own["positional_embedding"].shape[1]
        and math.isqrt(table.shape[0] - 1) ** 2 == table.shape[0] - 1
    ):
        fits.add("positional_embedding")
    faults = {
        "missing": sorted(set(own) - set(state)),
        "not of the image tower": sorted(set(state) - set(own)),
        "of another shape": sorted((set(own) & set(state)) - fits),
    }
    if any(faults.values()):
        reason = "; ".join(
            f"{what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for what, names in faults.items()
            if names
        )
        raise ModelError(f"--pretrained {source} does not fill the image tower ({reason}); check --model.")
    bad = sorted(name for name, value in state.items() if not torch.isfinite(value).all())
    if bad:
        raise ModelError(f"--pretrained {source} holds values that are not finite ({', '.join(bad[:5])}).")
    visual.positional_embedding = nn.Parameter(table.detach().float().clone())
    visual.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()},
        strict=True,
        assign=True,
    )
