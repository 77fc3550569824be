"""Makes the frozen image tower with open_clip: its weights from a hub, a file or a fixed seed."""

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
from torch import Tensor, nn

from models.backbone import FrozenBackbone, ModelError, require_square_vit

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


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to `limit` characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:limit]


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
    table = state.get("positional_embedding")
    fits = {name for name in own if name in state and state[name].shape == own[name].shape}
    if (
        table is not None
        and table.dim() == 2
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
        told = "; ".join(
            f"{what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for what, names in faults.items()
            if names
        )
        raise ModelError(f"--pretrained {source} does not fill the image tower ({told}); check --model.")
    bad = sorted(name for name, value in state.items() if not torch.isfinite(value).all())
    if bad:
        raise ModelError(f"--pretrained {source} holds values that are not finite ({', '.join(bad[:5])}).")
    visual.positional_embedding = nn.Parameter(table.detach().float().clone())
    visual.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()},
        strict=True,
        assign=True,
    )


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
