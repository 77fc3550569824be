"""What one visitor of the page has: references, photographs, and a detector of their own."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import numpy as np
from PIL import Image

from data.images import MAX_PIXELS
from data.masks import key, unmarked
from fdsl.api import AnomalyDetector, Prediction, Threshold
from fdsl.boxes import Box, find_boxes
from fdsl.inspection import draw, finish, row_of, run_config
from fdsl.report import drawing
from fdsl.rotation import ROTATIONS
from fdsl.store.prediction_folder import PredictionFolder
from fdsl.thresholds import FEWEST_OF_BATCH
from models.methods.batch import FEWEST
from page.uploads import Upload, jpeg, plain_name, receive, remove
from utils.config import AUTO
from utils.errors import ConfigError, DataError
from utils.room import OnDisk

MODEL = Lock()  # one photograph at a time goes through the backbone
MOST_REFERENCES = 16
MOST_PHOTOGRAPHS = 200
MOST_COMPARED = 50  # with each other: their tokens lie on the disk, and each is compared with all others
MOST_COPIES = 48  # references times rotations: each is a part of the memory bank
RATES = (0.001, 0.01, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload: bytes per file, pixels per photograph, how many of each kind."""

    file_bytes: int
    max_pixels: int = MAX_PIXELS
    references: int = MOST_REFERENCES
    photographs: int = MOST_PHOTOGRAPHS


@dataclass
class Photograph(Upload):
    """An upload to inspect and, once scored with what the detector knows now, what was found."""

    found: Prediction | None = None
    boxes: list[Box] = field(default_factory=list)


class Session:
    """One visitor's work. Safe to use from several threads; scoring of different visitors takes turns."""

    def __init__(
        self, detector: AnomalyDetector, folder: Path, limits: Limits, rotations: int | str | None = None
    ) -> None:
        """`rotations`: how many copies of good parts are asked for until a visitor asks for others; None: as
        many as the detector came with."""
        self.start, self.folder, self.limits = detector, folder, limits
        own = detector.config.rotations if detector.config.references else detector.method.rotations
        self.usual: int | str = own if rotations is None else rotations
        self.references: dict[int, Upload] = {}
        self.photographs: dict[int, Photograph] = {}
        self._count = 0
        self._coming = {"references": 0, "photographs": 0}  # uploads that are being received
        self._lock = RLock()  # what is here
        self._work = Lock()  # the detector
        self._take(detector.another(), [], None, self.usual)
        folder.mkdir()

    def _take(
        self,
        detector: AnomalyDetector,
        learnt: list[int],
        rate: float | None,
        rotations: int | str,
        compared: Iterable[int] = (),
    ) -> None:
        """From now on this detector, which knows the references `learnt` in the `rotations` that were asked
        for, and the photographs `compared` where it compares them; what another one found is forgotten."""
        self.detector, self.learnt, self.rate, self.rotations = detector, learnt, rate, rotations
        self.compared = set(compared)
        self.level = (
            None if detector.threshold is None else detector.threshold.level
        )  # from which a patch is boxed
        for photograph in self.photographs.values():
            photograph.found, photograph.boxes = None, []

    def state(self) -> dict[str, Any]:
        """All that the page shows, as JSON values."""
        with self._lock:
            threshold = self.detector.threshold
            return {
                "references": [_listed(one) for one in self.references.values()],
                "photographs": [self._row(one) for one in self.photographs.values()],
                "builtIn": 0 if self.learnt else self.detector.config.references,
                "learnt": self.learnt,
                "ready": self.ready,
                "rate": self.rate,
                "rates": RATES if self.detector.normal or self.has_bulk else (),
                "compares": self.compares,
                "takesReferences": self.takes_references,
                "compared": sorted(self.compared),
                "fewest": {"compared": FEWEST, "bulk": FEWEST_OF_BATCH if self.has_bulk else None},
                "rotations": self.rotations,
                "turned": self.detector.config.rotations,
                "threshold": None if threshold is None else asdict(threshold),
                "limits": asdict(self.limits),
            }

    @property
    def is_empty(self) -> bool:
        """Whether nothing was uploaded, so that nothing is lost when its visitor has to come again."""
        with self._lock:
            return not (self.references or self.photographs or any(self._coming.values()))

    @property
    def ready(self) -> bool:
        """Whether the detector knows good parts, or the photographs that it compares."""
        return self.detector.ready and not (self.compares and not self.compared)

    @property
    def compares(self) -> bool:
        """Whether photographs are compared with each other here, and not with those of a saved detector."""
        looks = self.start.scorer.detector.looks_at_inspected
        return looks and (bool(self.learnt) or self.start.scorer.detector.memory is None)

    @property
    def takes_references(self) -> bool:
        """Whether the method looks at good parts."""
        return not self.start.scorer.detector.method.added_by

    @property
    def has_bulk(self) -> bool:
        """Whether a threshold comes from the photographs' own bulk: no good part says what is normal."""
        return self.compares and not self.takes_references

    def add_reference(self, content: bytes, name: str) -> dict[str, Any]:
        """Takes a photograph of a good part; `learn` shows it to the detector. DataError for what is no
        photograph, and where the method looks at no good parts."""
        if not self.takes_references:
            raise DataError("this method looks at no good parts: add photographs to inspect")
        enough = f"{self.limits.references} good parts are enough; remove one first"
        with self._place("references", self.references, self.limits.references, enough) as number:
            with self._lock:
                self._refuse_known(content, name)
                _refuse_mask(name, self.references.values())
            upload = receive(content, number, name, self.folder, self.limits.max_pixels)
            with self._lock:
                try:
                    self._refuse_known(content, name)  # the same one may have come meanwhile
                except DataError:
                    upload.file.unlink(missing_ok=True)
                    raise
                self.references[number] = upload
        return _listed(upload)

    def take_as_good(self, number: int) -> dict[str, Any]:
        """Takes an inspected photograph as one of the good parts, beside those that the detector came with;
        `learn` shows them. Returns the new state; KeyError where there is none, DataError as
        `add_reference`."""
        with self._lock:
            photograph = self.photographs[number]
            built_in = [] if self.references else self.start.kept
        for known in built_in:
            self.add_reference(known.content, known.name)
        self.add_reference(photograph.file.read_bytes(), photograph.name)
        return self.state()

    def _refuse_known(self, content: bytes, name: str) -> None:
        """DataError for a good part that is here already: it would be held out against itself."""
        for known in self.references.values():
            if known.file.stat().st_size == len(content) and known.file.read_bytes() == content:
                raise DataError(f"{plain_name(name)}: is among the good parts already")

    @contextmanager
    def _place(self, kind: str, known: Mapping[int, Upload], most: int, enough: str) -> Iterator[int]:
        """The number of an upload that is being received, which takes its place from the beginning: DataError
        with the words `enough` where there is none."""
        with self._lock:
            if len(known) + self._coming[kind] >= most:
                raise DataError(enough)
            self._coming[kind] += 1
            number = self._next()
        try:
            yield number
        finally:
            with self._lock:
                self._coming[kind] -= 1

    def add_photograph(self, content: bytes, name: str) -> dict[str, Any]:
        """Takes a photograph to inspect; `score` scores it. DataError for what is no photograph."""
        most = self.limits.photographs
        enough = f"{most} photographs are as many as this page holds; remove some, or use predict.py"
        with self._place("photographs", self.photographs, most, enough) as number:
            with self._lock:
                _refuse_mask(name, self.photographs.values())
            upload = receive(content, number, name, self.folder, self.limits.max_pixels)
            with self._lock:
                *_, name = _distinct([*(known.name for known in self.photographs.values()), upload.name])
                self.photographs[number] = photograph = Photograph(**(vars(upload) | {"name": name}))
        return self._row(photograph)

    def remove(self, number: int) -> None:
        """Forgets one upload of either kind; KeyError where there is none. Without references it is as it
        started."""
        with self._lock:
            upload = self.references.pop(number, None) or self.photographs.pop(number)
            upload.file.unlink(missing_ok=True)
            forgotten = not self.references and bool(self.learnt)
        if forgotten:
            with self._work, self._lock:
                self._take(self.start.another(), [], None, self.usual)

    def learn(self, rotations: int | str = 1, rate: float = 0.01) -> None:
        """Shows the references to a new detector and estimates the threshold; all photographs have to be
        scored anew. Where photographs are compared with each other, it is shown them too. Where some are
        removed meanwhile, the lesson begins again without them.

        AUTO leaves references as they are where there are many: then they differ by themselves. Raises
        DataError without references or with too few photographs to compare, ConfigError for too many copies,
        and as `AnomalyDetector.remember`; then everything is as it was.
        """
        looks_at_inspected = self.start.scorer.detector.looks_at_inspected
        with self._work:
            while True:
                with self._lock:
                    references = dict(self.references)
                    inspected = dict(self.photographs) if looks_at_inspected else {}
                if self.takes_references and not references:
                    raise DataError("there is no photograph of a good part yet")
                if looks_at_inspected and len(inspected) < FEWEST:
                    raise DataError(
                        f"photographs are compared with each other: add {FEWEST} or more to inspect"
                    )
                if isinstance(rotations, int) and len(references) * rotations > MOST_COPIES:
                    raise ConfigError(
                        f"{len(references)} good parts with {rotations} rotated copies each are more than "
                        f"{MOST_COPIES}: remove some, or turn them less"
                    )
                if self._learn_these(references, inspected, rotations, rate):
                    return

    def _learn_these(
        self,
        references: dict[int, Upload],
        inspected: dict[int, Photograph],
        rotations: int | str,
        rate: float,
    ) -> bool:
        """One lesson; False, and nothing is changed, where one of the uploads is gone at its end."""
        other = self.start.another()
        photos = [upload.file for upload in references.values()]
        too_many = rotations == AUTO and len(photos) * ROTATIONS > MOST_COPIES
        try:
            with MODEL:
                other.remember(
                    photos,
                    rotations=1 if too_many else rotations,
                    false_alarm_rate=rate,
                    inspected=[upload.file for upload in inspected.values()],
                    room=OnDisk(self.folder, "Tokens of the photographs", "inspect fewer at once"),
                )
        except DataError:
            if self._has(references, inspected):
                raise
            return False
        names = {upload.file.name: upload.name for upload in references.values()}
        other.kept = [replace(one, name=names.get(one.name, one.name)) for one in other.kept]
        with self._lock:
            if not self._has(references, inspected):
                return False
            self._take(other, list(references), rate if other.threshold else None, rotations, inspected)
        return True

    def _has(self, references: Mapping[int, Upload], inspected: Mapping[int, Upload]) -> bool:
        """Whether all of these are still here."""
        with self._lock:
            return references.keys() <= self.references.keys() and inspected.keys() <= self.photographs.keys()

    def score(self, number: int) -> dict[str, Any]:
        """Scores one photograph with what the detector knows now; KeyError where there is none, DataError for
        one that was not among those that are compared."""
        with self._work:
            with self._lock:
                photograph = self.photographs[number]
                if self.compares and number not in self.compared:
                    raise DataError(f"{photograph.name}: is not compared with the others yet")
            photo = photograph.open(self.detector.grey)
            with MODEL:
                (found,) = self.detector.predict_batch(
                    self.detector.to_batch([photo]), [photo.size], [photograph.name]
                )
            boxes = self._boxes(found)
            with self._lock:
                photograph.found, photograph.boxes = found, boxes
                return self._row(photograph)

    def _boxes(self, found: Prediction) -> list[Box]:
        return find_boxes(drawing.upsample(found.patch_map, found.size[1], found.size[0]), self.level)

    def decide(self, score: float | None, rate: float | None) -> dict[str, Any]:
        """Sets the threshold to a score, or to what good parts reach at a rate, by the good parts or by the
        bulk of the photographs that are compared; the new state."""
        with self._work, self._lock:
            if rate is not None and self.has_bulk:
                self._take_bulk(rate)
                decided = self.detector.threshold
            elif rate is not None:
                self.detector.calibrate(rate)
                decided = self.detector.threshold
            elif score is not None and np.isfinite(score):
                decided = Threshold(float(score), None, "set by hand")
            else:
                raise ConfigError("a threshold is a score or a false-alarm rate between 0 and 1")
            self.detector.threshold, self.rate = replace(decided, level=self.level), rate
            return self.state()

    def _take_bulk(self, rate: float) -> None:
        """The threshold and the level of boxes from what the photographs themselves score; ConfigError where
        too few are scored."""
        scored = {number: one.found for number, one in self.photographs.items() if one.found is not None}
        self.detector.take_threshold_of_bulk(list(scored.values()), rate)
        self.level = self.detector.threshold.level if self.detector.threshold else None
        for number, found in scored.items():
            self.photographs[number].boxes = self._boxes(found)

    def picture(self, number: int, kind: str) -> bytes:
        """JPEG of an upload: kind "photo", or "heat" for the heat map over it. KeyError where there is
        none."""
        with self._lock:
            upload = self.references.get(number) or self.photographs[number]
            found, detector = getattr(upload, "found", None), self.detector
        if kind == "heat" and found is None:
            raise KeyError(number)
        photo = upload.open_small()
        if kind == "photo":
            return jpeg(photo)
        scale = detector.heat_scale
        values = drawing.upsample(found.patch_map, photo.height, photo.width)
        return jpeg(Image.fromarray(drawing.heat(np.asarray(photo), values, scale, drawing.ALONE)))

    def results(self) -> Path:
        """A ZIP file with what predict.py would have written; DataError where nothing is scored."""
        with self._work, self._scratch("results") as folder:
            with self._lock:
                scored = [
                    photograph for photograph in self.photographs.values() if photograph.found is not None
                ]
            if not scored:
                raise DataError("no photograph is scored yet")
            output = PredictionFolder(folder, run_config(self.detector))
            for photograph in scored:
                name = photograph.name
                try:
                    photo = photograph.open(self.detector.grey)
                except KeyError:  # removed meanwhile
                    continue
                found = self._decided(photograph.found)
                row = row_of(name, found) | {"picture": draw(self.detector, name, photo, found, folder)}
                output.add(row, found.base_map, found.window_map)
            finish(self.detector, output)
            return _zipped(folder, self.folder / f"{self._next()}.zip")

    def saved_detector(self) -> Path:
        """The detector as predict.py --detector takes it; DataError where it knows no good parts."""
        with self._work:
            if not self.ready:
                raise DataError("the detector knows no good parts yet")
            file = self.folder / f"{self._next()}.safetensors"
            self.detector.save(file)
            return file

    def close(self) -> None:
        """Removes everything that was uploaded."""
        remove(self.folder)

    def _next(self) -> int:
        with self._lock:
            self._count += 1
            return self._count

    def _decided(self, found: Prediction) -> Prediction:
        """The same finding, judged by the threshold as it stands now."""
        threshold = self.detector.threshold
        return replace(
            found,
            threshold=None if threshold is None else threshold.score,
            map_threshold=None if threshold is None else threshold.level,
        )

    def _row(self, photograph: Photograph) -> dict[str, Any]:
        found = photograph.found
        return _listed(photograph) | {
            "score": None if found is None else found.score,
            "normal_percentile": None if found is None else found.normal_percentile,
            "boxes": [] if found is None else [asdict(box) for box in photograph.boxes],
        }

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_mask(name: str, others: Iterable[Upload]) -> None:
    """DataError for a file that is called as the mask of a photograph which is here: it is none itself."""
    stem = unmarked(Path(plain_name(name)).stem)
    photo = next((one.name for one in others if stem and key(Path(one.name).stem) == key(stem)), None)
    if photo is not None:
        raise DataError(f"{plain_name(name)}: is called as the mask of {photo}; only photographs are taken")


def _listed(upload: Upload) -> dict[str, Any]:
    return {"number": upload.number, "name": upload.name, "width": upload.size[0], "height": upload.size[1]}


def _distinct(names: list[str]) -> Iterator[str]:
    """The names, with a number before the ending where one was there already."""
    seen: set[str] = set()
    for name in names:
        stem, dot, ending = name.rpartition(".")
        stem, ending = (stem, dot + ending) if stem else (name, "")
        candidate, number = name, 1
        while candidate in seen:
            number += 1
            candidate = f"{stem} ({number}){ending}"
        seen.add(candidate)
        yield candidate


def _zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # almost all of it is JPEG
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                archive.write(path, path.relative_to(folder).as_posix())
    return file
