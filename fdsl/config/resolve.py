"""Settings from given values and from those that a checkpoint or a run has stored.

`given` maps a setting's name to the value of its flag or argument; a missing name, and None, mean that it was
not given.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from fdsl.config.contradictions import OF_DETECTORS, WORDS, Combined
from models.methods.registry import METHODS, WITH_HEADS
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.options import given_of, nearest_name
from utils.text import as_text, in_words

Function = TypeVar("Function", bound=Callable[..., Any])


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


def takes_options(but_for: str = "") -> Callable[[Function], Function]:
    """Decorates a function whose `**options` are a detector's, except those that need `but_for`. Another
    keyword is a TypeError that names the nearest one; help() and the signature list them all."""
    taken = [name for name, one in OF_DETECTORS.items() if not but_for or one.needs != but_for]

    def decorated(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        names = [*(one.name for one in own if one.name != "cls"), *taken]

        @wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            for name in named:
                if name not in names:
                    near = nearest_name(name, names) or f"there are {', '.join(names)}"
                    raise TypeError(f"{function.__name__}() has no option {name}; {near}")
            return function(*args, **named)

        listed = textwrap.fill(", ".join(taken), 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
        wrapped.__doc__ = (
            f"{function.__doc__}\n        Options, as the flags of these names (None: not given):\n{listed}\n"
        )
        keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in taken]
        cast(Any, wrapped).__signature__ = signature.replace(parameters=[*own, *keywords])
        return cast(Function, wrapped)

    return decorated
