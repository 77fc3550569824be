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
from page.uploads import Upload, holds, plain_name, receive, refuse_mask, unused_name
from utils.errors import DataError

MOST_REFERENCES = 16
MOST_PHOTOGRAPHS = 200
ENOUGH = {  # where there is no place for one more upload of a kind
    "references": "are enough; remove one first",
    "calibration": "are as many as this page holds; remove some, or use predict.py",
    "photographs": "are as many as this page holds; remove some, or use predict.py",
}
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
    """The uploads of each of KINDS by their numbers; no number is given twice. Safe to use from several
    threads: nothing is added or removed while `lock` is held.

    `built_in`: the references that the detector came with; None: its method takes none.
    """

    def __init__(self, folder: Path, limits: Limits, built_in: Sequence[StoredReference] | None) -> None:
        self.folder, self.limits, self.built_in = folder, limits, built_in
        self.references: dict[int, Upload] = {}
        self.calibration: dict[int, Upload] = {}
        self.photographs: dict[int, Photograph] = {}
        self.lock = RLock()
        self._numbers = count(1)
        folder.mkdir()

    def new_file(self, suffix: str) -> Path:
        """A place in the folder that nothing else has."""
        return self.folder / f"{next(self._numbers)}{suffix}"

    def of(self, kinds: Iterable[str]) -> list[dict[int, Any]]:
        """The uploads of some kinds, as they are now."""
        with self.lock:
            return [dict(getattr(self, kind)) for kind in kinds]

    def has(self, uploads: Iterable[Uploads]) -> bool:
        """Whether all of these are still here."""
        with self.lock:
            here = {*self.references, *self.calibration, *self.photographs}
            return all(here.issuperset(some) for some in uploads)

    def add(self, kind: str, given: Sequence[tuple[bytes, str]]) -> list[Upload]:
        """Takes several uploads (content, name) of one of KINDS: all of them or none. DataError for what is
        no photograph, for a normal image that is here already (it would be scored by itself), for a reference
        of a method without, and where there is no place for all."""
        uploads: dict[int, Any] = getattr(self, kind)
        most = self.limits.references if kind == "references" else self.limits.photographs
        received: list[Upload] = []
        if kind == "references" and self.built_in is None:
            raise DataError("this method takes no references: add photographs to inspect")
        with self.lock:
            if len(uploads) + len(given) > most:
                raise DataError(f"{most} {KINDS[kind]} {ENOUGH[kind]}")
            names = [*(one.name for one in uploads.values()), *(name for _, name in given)]
            try:
                for content, name in given:
                    if kind != "photographs":
                        self._refuse_copy(kind, content, name, received)
                    refuse_mask(name, names)
                    received.append(receive(content, next(self._numbers), name, self.folder))
            except BaseException:
                for upload in received:
                    upload.file.unlink(missing_ok=True)
                raise
            if kind == "photographs":
                received = [self._to_inspect(upload) for upload in received]
            uploads.update((upload.number, upload) for upload in received)
        return received

    def _to_inspect(self, upload: Upload) -> Photograph:
        """The upload as a photograph to inspect, under a name that no other one has: rows go by it."""
        name = unused_name(upload.name, [one.name for one in self.photographs.values()])
        return Photograph(upload.number, name, upload.file, upload.size)

    def _refuse_copy(self, kind: str, content: bytes, name: str, received: Iterable[Upload]) -> None:
        """DataError for a normal image that is here already, or among those just `received`."""
        if kind == "calibration" and any(one.content == content for one in self.built_in or ()):
            raise DataError(f"{plain_name(name)}: is among the references already")
        here = {one: [*getattr(self, one).values()] for one in ("references", "calibration")}
        here[kind] += received
        for other, uploads in here.items():
            if any(holds(one, content) for one in uploads):
                raise DataError(f"{plain_name(name)}: is among the {KINDS[other]} already")

    def take_as_reference(self, number: int) -> None:
        """Takes a photograph as one of the references, with those that the detector came with. KeyError where
        there is none, and DataError as `add`: then nothing has changed."""
        with self.lock:
            photograph = self.photographs[number]
            built_in = () if self.references else self.built_in or ()
            given = [(one.content, one.name) for one in built_in]
            self.add("references", [*given, (photograph.file.read_bytes(), photograph.name)])

    def remove(self, number: int) -> None:
        """Removes one upload of any kind; KeyError where there is none."""
        with self.lock:
            kinds: tuple[dict[int, Any], ...] = (self.references, self.calibration, self.photographs)
            uploads = next((kind for kind in kinds if number in kind), self.photographs)
            uploads.pop(number).file.unlink(missing_ok=True)

    def __getitem__(self, number: int) -> Upload:
        """The upload of any kind; KeyError where there is none."""
        with self.lock:
            normal = self.references.get(number) or self.calibration.get(number)
            return normal or self.photographs[number]

    @property
    def is_empty(self) -> bool:
        with self.lock:
            return not (self.references or self.calibration or self.photographs)
