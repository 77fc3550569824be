"""Settings from given values and from those that a checkpoint or a run has stored.

`given` maps a setting's name to the value of its flag or argument; a missing name, and None, mean that it was
not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fdsl.config.contradictions import OF_DETECTORS, WORDS, Combined
from models.methods.registry import METHODS, WITH_HEADS
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.options import given_of
from utils.text import as_text, in_words


def backbone_config(given: Mapping[str, Any], stored: BackboneConfig | None = None) -> BackboneConfig:
    """The given backbone, or a checkpoint's `stored` one, with which the given values must agree.

    Values that were not given follow from the model. `pretrained` and `model_config` may name another place
    (files move): the weights' fingerprint is compared when they are loaded.
    """
    values = given_of(BackboneConfig, given)
    if stored is None and "model" in values:
        from models.backbones.backbone_registry import family_of  # PyTorch: not before flags are parsed

        folder = replace(BackboneConfig(), model_config=values.get("model_config")).model_config
        model = as_text("--model", values["model"])
        base = family_of(model).defaults(model, folder)
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


def given_settings(given: Mapping[str, Any]) -> Combined:
    """What a command's flags ask for, with the defaults of the method, for the rules of
    fdsl/config/contradictions.py."""
    name = given.get("method") or WITH_HEADS
    has_windows = {"winmode": "nan"} if not METHODS[name].needs_heads and not given.get("winmode") else {}
    windows, options = window_config({**given, **has_windows}), MethodConfig(**given_of(MethodConfig, given))
    return Combined(name, options, windows, given.get("k_shot"), given.get("rotate_references"), given)
