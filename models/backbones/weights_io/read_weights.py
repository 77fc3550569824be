"""State dicts from untrusted weights files: nothing is executed, and only plain tensors are returned."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from models.backbones.weights_io.torchscript import is_script_archive, read_script_archive
from utils.errors import ModelError
from utils.text import one_line

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FETCH = "fetch the model's .safetensors file, or save its tensors alone"
# The keys under which training programs store a model's tensors, the averaged ones first, as in timm.
WRAPPINGS = (
    *("state_dict_ema", "model_ema", "ema", "teacher", "target_encoder", "state_dict", "model_state_dict"),
    *("model_state", "model", "module", "network", "net", "backbone", "encoder", "student", "weights"),
    "params",
)
DEEPEST = 4  # dictionaries within dictionaries
AVERAGED = re.compile(r"\b(teacher|ema|target)")
# Names of the patch embedding's weights in open_clip, in timm and Meta's code, and in transformers.
PATCHES = (
    *("visual.trunk.patch_embed.proj.weight", "visual.patch_embed.proj.weight", "visual.conv1.weight"),
    *("vision_model.embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
    *("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.weight", "conv1.weight"),
)
logger = logging.getLogger("fdsl")


def read_state(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Name -> dense tensor in memory, of a safetensors or torch file or a TorchScript archive; of the last
    only those with `prefix`, if there are any. Keys and prefixes of training programs (`model`, `teacher`,
    `backbone.`, `module.`, `_orig_mod.`) are removed.

    Raises ModelError, one sentence that names the file.
    """
    from safetensors import SafetensorError

    where = f"--pretrained {one_line(file, 300)}"
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, on kinds of tensors that are refused here
            state = _read(file, prefix)
    except (SafetensorError, BadZipFile, RuntimeError, OSError, ValueError, EOFError, LookupError) as error:
        raise ModelError(f"{where} is not a plain weights file ({_reason(error)}); {FETCH}.") from error
    except Exception as error:  # pickle.UnpicklingError and its kin
        raise ModelError(f"{where} was refused: {refused_object(error)}; {FETCH}.") from error
    state, keys = _unwrapped(state)
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{where} holds no state dict of tensors; {FETCH}.")
    try:
        prefix_of_model = _prefix(state) if all(isinstance(name, str) for name in state) else ""
    except ValueError as error:
        raise ModelError(f"{where} holds {one_line(error)}; save one of them alone.") from error
    if prefix_of_model:
        keys.append(prefix_of_model.rstrip("."))
        cut = len(prefix_of_model)
        state = {name[cut:]: value for name, value in state.items() if name.startswith(prefix_of_model)}
    if keys:
        logger.info(
            "%s: the weights under %s are taken", one_line(file, 300), one_line(" / ".join(keys), 120)
        )
    strange = [name for name, value in state.items() if not isinstance(name, str) or not is_plain(value)]
    if strange:
        raise ModelError(
            f"{where} holds no state dict of plain tensors ({one_line(strange[0], 60)} is none); {FETCH}."
        )
    return state


def _unwrapped(content: Any) -> tuple[Any, list[str]]:
    """The innermost dictionary under the keys WRAPPINGS, and the path of keys to it."""
    keys: list[str] = []
    while isinstance(content, dict) and len(keys) < DEEPEST:
        inner = next((key for key in WRAPPINGS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        keys.append(inner)
        content = content[inner]
    return content, keys


def _prefix(state: Mapping[str, Any]) -> str:
    """The prefix of the names of the image model, or of the CLIP that it is part of; "" for none. Of a
    teacher and its student the teacher's, which their authors publish. ValueError for several models of which
    none is that."""
    for last in PATCHES:
        prefixes = [name.removesuffix(last) for name in state if name == last or name.endswith(f".{last}")]
        outer = [one for one in prefixes if not any(one.startswith(other) for other in {*prefixes} - {one})]
        models = [one for one in outer if AVERAGED.search(one)] or outer
        if len(models) > 1:
            raise ValueError(f"several models ({', '.join(one.rstrip('.') for one in models)})")
        if models:
            return models[0]
    return ""


def refused_object(error: BaseException) -> str:
    """What a torch file holds besides tensors, in our own words: PyTorch's message advises to run it."""
    named = re.search(r"GLOBAL ([A-Za-z_][\w.]{0,80})", str(error))
    if named:
        return f"it holds a Python object ({named[1]}), and nothing in a file is executed here"
    advice = "weights_only" in str(error)
    return "it holds more than tensors" + ("" if advice else f" ({_reason(error)})")


def _read(file: Path, prefix: str) -> Any:
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        return load_file(file)
    if is_script_archive(file):
        return read_script_archive(file, prefix)
    return torch.load(file, map_location="cpu", weights_only=True)


def refuse_other_numbers(state: dict[str, Tensor], file: Path) -> None:
    """ModelError, with the name, for weights that are no floats of 16, 32 or 64 bits."""
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


def is_plain(value: object) -> bool:
    """Whether a value is a dense tensor whose memory holds all its values: a file of a few bytes may claim a
    billion."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    if value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
