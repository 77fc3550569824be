"""State dicts from weights files of strangers: nothing in them is executed, and what comes back is plain."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from models.backbones.script_archive import is_script_archive, read_script_archive
from models.stored import is_plain
from utils.errors import ModelError
from utils.text import one_line

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FETCH = "fetch the model's .safetensors file"


def read_state(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Name -> dense tensor in memory, of a safetensors or torch file or a TorchScript archive; of the last
    those with `prefix`, where there are some.

    Raises ModelError, one sentence that names the file.
    """
    from safetensors import SafetensorError

    where = f"--pretrained {one_line(file, 300)}"
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, on kinds of tensors that are refused here
            state = _read(file, prefix)
    except (SafetensorError, BadZipFile, RuntimeError, OSError, ValueError, EOFError, LookupError) as error:
        raise ModelError(f"{where} is not a plain weights file ({_reason(error)}); {FETCH}.") from error
    except Exception as error:  # pickle.UnpicklingError and its kin
        raise ModelError(
            f"{where} was refused: it holds more than tensors ({_reason(error)}); {FETCH}."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{where} holds no state dict of tensors; {FETCH}.")
    strange = [name for name, value in state.items() if not isinstance(name, str) or not is_plain(value)]
    if strange:
        raise ModelError(
            f"{where} holds no state dict of plain tensors ({one_line(strange[0], 60)} is none); {FETCH}."
        )
    return state


def _read(file: Path, prefix: str) -> Any:
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        return load_file(file)
    if is_script_archive(file):
        return read_script_archive(file, prefix)
    return torch.load(file, map_location="cpu", weights_only=True)


def first_in_cache(repository: str, names: Sequence[str]) -> Path | None:
    """The first of these files of a hub's repository that was fetched before; None where none was."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(place) for place in found if isinstance(place, str)), None)


def refuse_other_numbers(state: dict[str, Tensor], file: Path) -> None:
    """ModelError for weights that are no floats of 16, 32 or 64 bits, by name."""
    for name, value in state.items():
        if value.dtype not in FLOATS:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(
                f"--pretrained {one_line(file, 300)} holds {kind} in {one_line(name, 60)}, where floats of "
                f"16 or 32 bits are wanted; {FETCH} in one of these."
            )


def _reason(error: BaseException) -> str:
    """The first sentence of an error's text."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__, 160)
