"""The references that a fitted detector carries, so that others can be added to them and one be taken out."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.photographs import as_photograph
from utils.archives import opened
from utils.errors import ConfigError, DataError
from utils.files import parsed_json
from utils.text import one_line, printable

logger = logging.getLogger("fdsl")
MOST_BYTES = 2**28  # of all references' files together
LIST, FILE = "references.list", "references.file."  # names of tensors in a saved detector
DIGEST_DIGITS = 16
Photograph = str | Path | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class KeptReference:
    """One normal image: its file's name and bytes, their digest, and the day on which it was
    fitted (YYYY-MM-DD)."""

    name: str
    digest: str
    day: str
    content: bytes

    @property
    def facts(self) -> tuple[str, str, str]:
        """Name, digest and day."""
        return self.name, self.digest, self.day


def kept(photographs: Iterable[Photograph], known: Sequence[KeptReference] = ()) -> list[KeptReference]:
    """The photographs as they are kept, each content once; those of `known` keep their day. None where they
    take more than MOST_BYTES together."""
    days = {one.digest: one.day for one in known}
    found: dict[str, KeptReference] = {}
    size = 0
    for number, photograph in enumerate(photographs, start=1):
        name, content = _file_of(photograph, number)
        digest = _digest(content)
        if digest in found:
            continue
        day = days.get(digest, date.today().isoformat())
        found[digest] = KeptReference(name, digest, day, content)
        size += len(content)
        if size > MOST_BYTES:
            logger.info(
                "the references take more than %d MiB: a saved detector does not carry them, and none can be "
                "added to it later",
                MOST_BYTES >> 20,
            )
            return []
    return list(found.values())


def digest_of(photograph: Photograph, number: int = 1) -> str:
    """The digest by which a photograph is known; `number`: its place among several, for errors."""
    return _digest(_file_of(photograph, number)[1])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def _file_of(photograph: Photograph, number: int) -> tuple[str, bytes]:
    """A photograph's file name and bytes; of one that is no file those of a PNG."""
    if isinstance(photograph, (str, Path)):
        try:
            return Path(photograph).name, opened(photograph).read()
        except (OSError, ValueError) as error:  # ValueError: the name holds a zero
            reason = one_line(getattr(error, "strerror", None) or error)
            raise DataError(f"{printable(photograph)}: cannot be read ({reason}); check the path") from error
    stream = io.BytesIO()
    as_photograph(photograph).save(stream, "PNG", compress_level=1)
    return f"photograph {number}.png", stream.getvalue()


def tensors_of_references(references: Sequence[KeptReference]) -> dict[str, Tensor]:
    """What a saved detector holds of them."""
    if not references:
        return {}
    tensors = {
        f"{FILE}{number}": torch.from_numpy(np.frombuffer(one.content, np.uint8).copy())
        for number, one in enumerate(references)
    }
    listed = json.dumps([one.facts for one in references]).encode("utf-8", "surrogateescape")
    tensors[LIST] = torch.from_numpy(np.frombuffer(listed, np.uint8).copy())
    return tensors


def references_of(tensors: Mapping[str, Tensor]) -> list[KeptReference]:
    """The references that a saved detector holds; ConfigError for a list that is not theirs."""
    if LIST not in tensors:
        return []
    try:
        listed = parsed_json(tensors[LIST].numpy().tobytes().decode())
        found = [_restored(facts, tensors[f"{FILE}{number}"]) for number, facts in enumerate(listed)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"its list of references is none: {one_line(error)}") from error
    return found


def _restored(facts: Any, content: Tensor) -> KeptReference:
    name, digest, day = facts
    if not all(isinstance(text, str) for text in (name, digest, day)) or content.dtype != torch.uint8:
        raise ValueError("it holds what no reference is")
    file = content.numpy().tobytes()
    if hashlib.sha256(file).hexdigest()[:DIGEST_DIGITS] != digest:
        raise ValueError(f"{one_line(printable(name), 60)} is not the file that was fitted")
    return KeptReference(name, digest, day, file)


def without_named(references: Sequence[KeptReference], names: Iterable[str]) -> list[KeptReference]:
    """The references but for those of these names or digests; ConfigError for a name that none has, or
    several."""
    left = list(references)
    for name in names:
        others = [one for one in left if name not in (one.name, one.digest)]
        if len(others) < len(left) - 1:
            which = ", ".join(f"{one.digest} ({one.day})" for one in left if one.name == name)
            raise ConfigError(
                f"--forget {printable(name)}: which of the {len(left) - len(others)} references of this "
                f"name? Give a digest: {which}."
            )
        if len(others) == len(left):
            known = ", ".join(printable(one.name) for one in left[:5])
            raise ConfigError(
                f"--forget {printable(name)} is none of the references ({known or 'there are none'})."
            )
        left = others
    return left
