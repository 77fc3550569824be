"""What one visitor of the page has: uploads, a detector of their own, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

from data.region_of_interest import Shape
from fdsl.api import AnomalyDetector
from fdsl.thresholds.threshold import FEWEST_OF_BATCH
from models.methods.batch import FEWEST
from page.collection import KINDS, Collection, Limits, Uploads
from page.findings import Photograph, drift_of, judged_by, picture_of, write_results
from page.fit import MODEL, Fit
from page.scratch import remove
from utils.config import AUTO
from utils.console import progress_to
from utils.errors import DataError

RATES = (0.001, 0.01, 0.05, 0.1, 0.2)


class Session:
    """One visitor's work. Safe to use from several threads; scoring of different visitors takes turns.

    `rotations`: how many rotated copies of references are asked for until a visitor asks for others; None: as
    many as the detector came with.
    """

    def __init__(
        self, detector: AnomalyDetector, folder: Path, limits: Limits, rotations: int | str | None = None
    ) -> None:
        if rotations is None:
            config = detector.config
            own = AUTO if config.rotations_chosen else config.rotations
            rotations = own if config.references else detector.method.rotations
        self.start = self.fit = Fit.of(detector.another(), rotations)
        self.uploads = Collection(folder, limits, detector.stored if self.fit.takes_references else None)
        self.progress = ""  # of a fit or a calibration
        self._work = Lock()  # held while the detector works or changes

    @property
    def detector(self) -> AnomalyDetector:
        return self.fit.detector

    def state(self) -> dict[str, Any]:
        """All that the page displays, as JSON values."""
        for photograph in self.uploads.of("photographs").values():
            photograph.regions_by(self.detector)  # take long: without the lock
        with self.uploads.lock:
            references, calibration, photographs = (self.uploads.of(kind).values() for kind in KINDS)
            fit, detector, normal = self.fit, self.detector, self.detector.decision.normal
            return {
                "references": [one.row for one in references],
                "calibration": [one.row for one in calibration],
                "calibrated": sorted(fit.calibrated),
                "calibrationScores": len(normal.scores) if normal and normal.is_calibrated else 0,
                "photographs": [one.row_by(detector) for one in photographs],
                "builtIn": 0 if fit.references else detector.config.references,
                "fitted": list(fit.references),
                "ready": fit.is_ready,
                "rate": fit.rate,
                "rates": sorted({*RATES, fit.rate or RATES[0]}) if normal or fit.has_bulk else [],
                "compares": fit.compares,
                "takesReferences": fit.takes_references,
                "compared": sorted(fit.compared),
                "fewest": {"compared": FEWEST, "bulk": FEWEST_OF_BATCH if fit.has_bulk else None},
                "rotations": fit.rotations,
                "shapes": [asdict(shape) for shape in fit.shapes],
                "rotated": detector.config.rotations,
                "threshold": detector.threshold and asdict(detector.threshold),
                "trust": detector.decision.trust,
                "drift": drift_of(photographs, detector),
                "fileBytes": self.uploads.limits.file_bytes,
            }

    def add(self, kind: str, content: bytes, name: str) -> dict[str, Any]:
        """Takes an upload of one of KINDS: a reference, to which `learn` fits the detector; a calibration
        image, from which `learn` or `calibrate` takes the threshold; or a photograph, which `score` scores.
        DataError as `Collection.add`."""
        (upload,) = self.uploads.add(kind, [(content, name)])
        return upload.row_by(self.detector) if isinstance(upload, Photograph) else upload.row

    def remove(self, number: int) -> None:
        """Removes one upload of any kind; KeyError where there is none. Without references the detector is as
        it started; without calibration images the threshold is that of the references."""
        self.uploads.remove(number)
        if self._left() is not self.fit:
            with self._work, self.uploads.lock:  # others may have come meanwhile
                self._take(self._left())

    def _left(self) -> Fit:
        """What the fit is without the uploads that were removed."""
        if self.fit.references and not self.uploads.of("references"):
            return self.start
        if self.fit.calibrated and not self.uploads.of("calibration"):
            return self.fit.uncalibrated()
        return self.fit

    def _take(self, fit: Fit) -> None:
        """Decides by this fit from now on; predictions of another memory bank are dropped."""
        with self.uploads.lock:
            if fit.own is not self.fit.own:
                for photograph in self.uploads.of("photographs").values():
                    photograph.prediction = None
            self.fit = fit

    def learn(self, rotations: int | str = 1, rate: float = 0.01, shapes: tuple[Shape, ...] = ()) -> None:
        """Fits a new detector as `Fit.fitted_to`, with the threshold of the calibration images where there
        are some; all photographs have to be scored anew. Where that raises, everything is as it was."""

        def make(references: Uploads, calibration: Uploads, compared: Uploads | None = None) -> Fit:
            fit = self.start.fitted_to(references, compared or {}, rotations, rate, shapes)
            return fit.calibrated_on(calibration, rate) if calibration else fit

        compared = ["photographs"] if self.start.is_transductive else []
        self._change(["references", "calibration", *compared], make)

    def calibrate(self, rate: float = 0.01) -> None:
        """Takes the threshold as `Fit.calibrated_on` from the calibration images that are here now;
        photographs keep their scores. Where that raises, everything is as it was."""
        self._change(["calibration"], lambda images: self.fit.calibrated_on(images, rate))

    def _change(self, kinds: Sequence[str], make: Callable[..., Fit]) -> None:
        """Takes what `make` makes of the uploads of these kinds, while others may come and go; where one of
        them is removed meanwhile, it begins again without it."""
        with self._work:
            while True:
                with self.uploads.lock:
                    uploads = [self.uploads.of(kind) for kind in kinds]
                try:
                    with self._watched():
                        fit = make(*uploads)
                except DataError:
                    if self.uploads.has(chain(*uploads)):
                        raise
                    continue
                with self.uploads.lock:
                    if self.uploads.has(chain(*uploads)):
                        return self._take(fit)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within it `progress` says how much is done."""

        def note(what: str, done: int, total: int | None) -> None:
            self.progress = what if total is None else f"{what}, {done} of {total}"

        try:
            with progress_to(note):
                yield
        finally:
            self.progress = ""

    def score(self, number: int) -> dict[str, Any]:
        """Scores one photograph by the detector as it is now; KeyError where there is none, DataError for
        one that was not among those that are compared."""
        with self._work:
            photograph = self.uploads.of("photographs")[number]
            if self.fit.compares and number not in self.fit.compared:
                raise DataError(f"{photograph.name}: is not compared with the others yet")
            photo = photograph.open(self.detector.reader.grey)
            with MODEL:
                batch = self.detector.to_batch([photo])
                work = self.detector.begin_batch(batch, [photo.size], [photograph.name])
                (photograph.prediction,) = work()
            return photograph.row_by(self.detector)

    def set_rate(self, rate: float) -> None:
        """Sets the threshold as `Fit.at_rate`."""
        with self._work:
            self._take(self.fit.at_rate(rate, [one.prediction for one in self._scored() if one.prediction]))

    def set_threshold(self, score: float) -> None:
        """Sets the threshold by hand."""
        with self._work:
            self._take(self.fit.at_score(score))

    def _scored(self) -> list[Photograph]:
        photographs = self.uploads.of("photographs").values()
        return [one for one in photographs if one.prediction is not None]

    def picture(self, number: int, kind: str) -> bytes:
        """JPEG of an upload: kind "photo", or "heat" for the heat map over it. KeyError where there is
        none."""
        with self.uploads.lock:
            upload, detector = self.uploads[number], self.detector
        if kind == "photo":
            return picture_of(upload)
        prediction = getattr(upload, "prediction", None)
        if prediction is None:
            raise KeyError(number)
        return picture_of(upload, judged_by(detector, prediction))

    def results(self) -> Path:
        """A ZIP file with what predict.py would have written; DataError where nothing is scored."""
        with self._work:
            scored = self._scored()
            if not scored:
                raise DataError("no photograph is scored yet")
            file = self.uploads.new_file(".zip")
            write_results(scored, self.detector, file)
            return file

    def saved_detector(self) -> Path:
        """The detector as predict.py --detector takes it; DataError where it is not fitted."""
        with self._work:
            if not self.fit.is_ready:
                raise DataError("the detector has no references yet")
            file = self.uploads.new_file(".safetensors")
            self.detector.save(file)
            return file

    def close(self) -> None:
        """Removes everything that was uploaded."""
        remove(self.uploads.folder)
