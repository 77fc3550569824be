"""Which weights a model is filled with: random ones, those of a file, or those of a tag; what a hub gives is
announced before."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from utils.config import UNTRAINED
from utils.errors import ModelError
from utils.text import first_line

logger = logging.getLogger("fdsl")
PATIENCE = 5  # seconds to wait for a hub's answer
UNTRAINED_SEED = 2025
Built = TypeVar("Built")


def of_weights(
    model: str,
    pretrained: str,
    untrained: Callable[[str], Any],
    of_file: Callable[[str, Path], Any],
    downloaded: Callable[[str, str], Any],
) -> Any:
    """What one of three gives for a model: untrained weights for "none", those of a file, or of a tag."""
    if pretrained == UNTRAINED:
        return untrained(model)
    file = Path(pretrained)
    return of_file(model, file) if file.is_file() else downloaded(model, pretrained)


def seeded(build: Callable[[], Built]) -> Built:
    """What `build` gives with random weights, always the same; the global random state is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return build()


def announce(weights: str, repository: str, names: Sequence[str], shape: Callable[[], nn.Module]) -> None:
    """Logs size and address of the first of these files that the hub's repository has, unless one is in the
    cache. ModelError, with the file to download, where the hub does not answer within PATIENCE; other errors
    are left to `fetched`. `shape` gives the model on the meta device, whose float32 tensors are about as
    large as the file."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if first_in_cache(repository, names) is not None:
        return
    for name in names:
        address = hf_hub_url(repository, name)
        try:
            size = get_hf_file_metadata(address, timeout=PATIENCE).size
        except EntryNotFoundError:
            continue
        except HfHubHTTPError:
            return
        except Exception as error:  # of several network libraries
            expected = sum(4 * tensor.numel() for tensor in shape().parameters())
            raise ModelError(
                f"The weights {weights} are not on this machine and could not be fetched "
                f"({first_line(error)}); download {address} (about {_size(expected)}) where there is a "
                "network, copy it to this machine and pass the file as --pretrained FILE."
            ) from error
        logger.info("fetching %s (once): %s", "weights" if size is None else _size(size), address)
        return


def first_in_cache(repository: str, names: Sequence[str]) -> Path | None:
    """The first of these files of a hub's repository that is in the cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _size(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def fetched(load: Callable[[], Any], weights: str, file: str) -> Any:
    """The result of `load`, which fetches the weights; ModelError, with the file to download, where it
    fails."""
    try:
        with quiet():
            return load()
    except Exception as error:  # hubs raise many kinds: all mean that the weights are not here
        closed = any(mark in f"{type(error).__name__} {error}" for mark in ("Gated", "401", "403"))
        cure = "accept its terms on the hub and log in, or " if closed else ""
        raise ModelError(
            f"The weights {weights} could not be fetched ({first_line(error)}); {cure}download {file} where "
            "there is a network and pass it as --pretrained FILE."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it timm, open_clip and their hub are silent, which log to the root logger, warn and print; this
    project logs what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
