"""Settings from given values and from those that a checkpoint or a run has stored.

`given` maps a setting's name to the value of its flag or argument; a missing name, and None, mean that it was
not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.method_facts import MethodFacts
from models.methods.registry import METHODS, WITH_HEADS
from utils.config import WHOLE_IMAGE, BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.options import COMPONENTS, HEADS, SEARCH, TEXT, WINDOWS, Option, given_of, options_of
from utils.text import as_text, in_words

OF_DETECTORS: Mapping[str, Option] = {
    **options_of(WindowConfig),
    **options_of(MethodConfig),
    **options_of(BackboneConfig),
}
OF_HEADS, WORDS, OF_WINDOWS, OF_SEARCH = (
    tuple(name for name, one in OF_DETECTORS.items() if one.needs == needs)
    for needs in (HEADS, TEXT, WINDOWS, SEARCH)
)
EFFECTS = {  # setting that a method or a window mode may have no use for -> where it has an effect
    **dict.fromkeys(
        OF_SEARCH, "does not go with --method {method}, which searches for no patches: change it"
    ),
    **dict.fromkeys(
        (*OF_HEADS, "checkpoint", "checkpoints"),
        "does not go with --method {method}, which has no trained heads: add --method " + WITH_HEADS,
    ),
    **dict.fromkeys(WORDS, "is for text: add --with-text, take --method text"),
    **dict.fromkeys(OF_WINDOWS, "is for local windows: add --winmode mul or onlywin"),
    "index_memory": "chooses among the windows of references that are searched: add --winmode mul or onlywin "
    "to a method that searches for patches",
    "win_weight": "is the share of local windows: add --winmode mul",
}


def backbone_config(given: Mapping[str, Any], stored: BackboneConfig | None = None) -> BackboneConfig:
    """The given backbone, or a checkpoint's `stored` one, with which the given values must agree.

    Values that were not given follow from the model. `pretrained` and `model_config` may name another place
    (files move): the weights' fingerprint is compared when they are loaded.
    """
    values = given_of(BackboneConfig, given)
    if stored is None and "model" in values:
        from models.backbones.backbone_registry import defaults_of  # PyTorch: not before flags are parsed

        folder = replace(BackboneConfig(), model_config=values.get("model_config")).model_config
        base = defaults_of(as_text("--model", values["model"]), folder)
    else:
        base = stored or BackboneConfig()
    for name, value in values.items():
        option = OF_DETECTORS[name]
        if stored is not None and not option.place and value != getattr(base, name):
            raise ConfigError(
                f"{option.flag} {in_words(value)} does not match the checkpoint, which was trained with "
                f"{in_words(getattr(base, name))}; leave the flag out or train again."
            )
    return replace(base, **values)


def method_config(
    given: Mapping[str, Any], stored: MethodConfig | None = None, has_nam: bool | None = None
) -> MethodConfig:
    """The given options on top of a checkpoint's `stored` ones; ConfigError for those that its heads lack."""
    base = stored or MethodConfig()
    if has_nam is not None:
        base = replace(base, use_nam=base.use_nam and has_nam)
    values = given_of(MethodConfig, given)
    for name in values.keys() & set(WORDS):
        from models.backbones.text.prompts import refuse_strange_words

        refuse_strange_words(name.replace("_", "-"), [values[name]] if name == "object" else values[name])
    if has_nam is False and values.get("use_nam"):
        raise ConfigError("--use-nam 1 needs a checkpoint that was trained with NAM; this one was not.")
    if stored is not None and "fd" in values and values["fd"] != base.fd:
        raise ConfigError(
            f"--fd {values['fd']} does not match the checkpoint, whose heads were trained on "
            f"--fd {base.fd}; train again with it."
        )
    return replace(base, **values)


def window_config(given: Mapping[str, Any]) -> WindowConfig:
    """LFE's settings: the given ones, for the others the defaults."""
    values = given_of(WindowConfig, given)
    if values.get("tiles", 1) != 1 and "winmode" not in values:
        values["winmode"] = "nan"  # tiles take the place of windows
    config = WindowConfig(**values)
    return replace(config, win_zip=0) if config.win_zip == config.win_size else config


def refuse_without_effect(given: Mapping[str, Any]) -> None:
    """ConfigError for a given setting that the method or window mode does not use. The rules of
    fdsl/config/contradictions.py refuse the other names of `without_effect`."""
    for name in without_effect(given):
        if name in EFFECTS and given.get(name) is not None:
            flag, method = name.replace("_", "-"), given.get("method") or WITH_HEADS
            raise ConfigError(f"--{flag} {EFFECTS[name].format(method=method)}, or leave it out.")


def lacking(method: type[MethodFacts], winmode: str, fd: str | None, with_text: bool | None) -> list[str]:
    """What options may need (utils/options.py) and a detector of these settings does not have."""
    has = {
        WINDOWS: winmode != "nan",
        HEADS: method.needs_heads,
        SEARCH: method.matches and fd != "none",
        COMPONENTS: method.components,
        TEXT: method.reads_text or with_text,
    }
    return [need for need, is_there in has.items() if not is_there]


def without_effect(given: Mapping[str, Any]) -> list[str]:
    """The names of settings that the given method and window mode do not use: with them a run would be
    refused, or be the same as without."""
    method = METHODS[given.get("method") or WITH_HEADS]
    tiled = given.get("tiles") not in (None, 1)
    winmode = given.get("winmode") or ("mul" if method.needs_heads and not tiled else "nan")
    lacks = lacking(method, winmode, given.get("fd"), given.get("with_text"))
    names = [name for name, option in OF_DETECTORS.items() if option.needs in lacks]
    names += [] if method.needs_heads else ["checkpoint", "checkpoints"]
    names += ["k_shot", "rotate_references", "with_batch"] if method.added_by else []
    names += ["winmode"] if method.transductive else ["tiles"] if method.added_by else []
    names += [] if method.takes_text else ["with_text"]
    names += ["win_weight"] if winmode == "onlywin" else []
    unsearched = not method.matches or given.get("window_memory") == WHOLE_IMAGE
    return names + (["index_memory"] if unsearched else [])
