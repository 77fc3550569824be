"""The uploads of one visitor: references, calibration images and photographs to inspect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

from fdsl.references.reference_store import StoredReference
from page.findings import Photograph
from page.uploads import Upload, plain_name, receive, refuse_mask, unused_name
from utils.errors import DataError

MOST_REFERENCES = 16
MOST_PHOTOGRAPHS = 200
KINDS = {"references": "references", "calibration": "calibration images", "photographs": "photographs"}

Uploads = Mapping[int, Upload]  # by their numbers


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload: bytes per file, and how many of each kind; calibration images as many as
    photographs."""

    file_bytes: int
    references: int = MOST_REFERENCES
    photographs: int = MOST_PHOTOGRAPHS


class Collection:
    """Uploads of KINDS by their numbers. Safe to use from several threads: nothing is added or removed while
    `lock` is held. `built_in`: the references that the detector came with; None: its method takes none."""

    def __init__(self, folder: Path, limits: Limits, built_in: Sequence[StoredReference] | None) -> None:
        self.folder, self.limits, self.built_in = folder, limits, built_in
        self.lock = RLock()
        self._uploads: dict[int, Upload] = {}
        self._numbers = count(1)
        folder.mkdir()

    @property
    def is_empty(self) -> bool:
        return not self._uploads

    def of(self, kind: str) -> dict[int, Any]:
        """The uploads of a kind, as they are now."""
        with self.lock:
            return {number: one for number, one in self._uploads.items() if one.kind == kind}

    def __getitem__(self, number: int) -> Upload:
        """The upload of any kind; KeyError where there is none."""
        return self._uploads[number]

    def has(self, numbers: Iterable[int]) -> bool:
        """Whether all of these are still here."""
        with self.lock:
            return self._uploads.keys() >= set(numbers)

    def remove(self, number: int) -> None:
        """Removes an upload of any kind; KeyError where there is none."""
        with self.lock:
            self._uploads.pop(number).file.unlink(missing_ok=True)

    def new_file(self, suffix: str) -> Path:
        """A place in the folder that nothing else has."""
        return self.folder / f"{next(self._numbers)}{suffix}"

    def add(self, kind: str, given: Sequence[tuple[bytes, str]]) -> list[Upload]:
        """Takes several uploads (content, name) of one of KINDS: all of them or none. DataError for what is
        no photograph, for a normal image that is here already (it would be scored by itself), for a reference
        of a method without, and where there is no place for all."""
        most = self.limits.references if kind == "references" else self.limits.photographs
        received: list[Upload] = []
        if kind == "references" and self.built_in is None:
            raise DataError("this method takes no references: add photographs to inspect")
        with self.lock:
            here = [one.name for one in self.of(kind).values()]
            if len(here) + len(given) > most:
                raise DataError(
                    f"{most} {KINDS[kind]} are as many as this page holds; remove some, or use predict.py"
                )
            try:
                for content, name in given:
                    if kind != "photographs":
                        self._refuse_copy(kind, content, name, received)
                    refuse_mask(name, [*here, *(name for _, name in given)])
                    received.append(receive(content, kind, next(self._numbers), name, self.folder))
            except BaseException:
                for upload in received:
                    upload.file.unlink(missing_ok=True)
                raise
            if kind == "photographs":  # rows go by their names
                received = [
                    Photograph(**vars(one) | {"name": unused_name(one.name, here)}) for one in received
                ]
            self._uploads |= {upload.number: upload for upload in received}
        return received

    def _refuse_copy(self, kind: str, content: bytes, name: str, received: Iterable[Upload]) -> None:
        """DataError for a normal image that is here already, or among those just `received`."""
        if kind == "calibration" and any(one.content == content for one in self.built_in or ()):
            raise DataError(f"{plain_name(name)}: is among the references already")
        for one in (*self._uploads.values(), *received):
            if one.kind != "photographs" and one.holds(content):
                raise DataError(f"{plain_name(name)}: is among the {KINDS[one.kind]} already")

    def take_as_reference(self, number: int) -> None:
        """Takes a photograph as one of the references, with those that the detector came with. KeyError where
        there is none, and DataError as `add`: then nothing has changed."""
        with self.lock:
            photograph = self.of("photographs")[number]
            built_in = () if self.of("references") else self.built_in or ()
            given = [(one.content, one.name) for one in built_in]
            self.add("references", [*given, (photograph.file.read_bytes(), photograph.name)])
