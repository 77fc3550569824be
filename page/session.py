"""What one visitor of the page has: references, calibration images, photographs, and a detector of their
own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import numpy as np
from PIL import Image

from data.region_of_interest import Shape, drawn_roi
from fdsl.api import AnomalyDetector, Prediction, Threshold
from fdsl.inspection.regions import Region
from fdsl.inspection.score_files import draw, finish, inspected_row, run_config
from fdsl.references.rotation import ROTATIONS
from fdsl.report import drawing
from fdsl.store.prediction_folder import PredictionFolder
from fdsl.thresholds.threshold import FEWEST_OF_BATCH, NormalScores
from models.methods.batch import FEWEST
from page.uploads import (
    SIDE,
    Upload,
    holds,
    jpeg,
    plain_name,
    receive,
    refuse_mask,
    remove,
    unused_name,
    zipped,
)
from utils.config import AUTO
from utils.drift import WINDOW, Drift
from utils.errors import ConfigError, DataError
from utils.hot_regions import upsample
from utils.log import progress_to

MODEL = Lock()  # one photograph at a time goes through the backbone
MOST_REFERENCES = 16
MOST_PHOTOGRAPHS = 200
MOST_COMPARED = 50  # with each other: their tokens lie on the disk, and each is compared with all others
MOST_COPIES = 48  # references times rotations: each is a part of the memory bank
RATES = (0.001, 0.01, 0.05, 0.1, 0.2)
DRAWN = "the mask drawn on the page"
ENOUGH = {  # where there is no place for one more upload of a kind
    "references": "are enough; remove one first",
    "calibration": "are as many as this page holds; remove some, or use predict.py",
    "photographs": "are as many as this page holds; remove some, or use predict.py",
}
KINDS = {"references": "references", "calibration": "calibration images", "photographs": "photographs"}

Uploads = Mapping[int, Upload]  # by their numbers


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload: bytes per file, pixels per photograph, how many of each kind; calibration
    images as many as photographs."""

    file_bytes: int
    references: int = MOST_REFERENCES
    photographs: int = MOST_PHOTOGRAPHS


@dataclass
class Photograph(Upload):
    """An upload to inspect and, once it is scored by the detector as it is now, its prediction."""

    prediction: Prediction | None = None
    _regions: tuple[Any, float | None, list[Region]] = None, None, []  # of a map, at a pixel threshold

    def regions_at(self, threshold: float | None) -> list[Region]:
        """Its regions at a pixel threshold, which are displayed where it is anomalous (the browser decides
        that). They take long, so they are stored."""
        prediction = self.prediction
        if prediction is None:
            return []
        patch_map, at, regions = self._regions
        if patch_map is not prediction.patch_map or at != threshold:
            # of a copy: its map is as large as the photograph, and is not stored
            regions = replace(prediction, threshold=None, map_threshold=threshold).regions
            self._regions = prediction.patch_map, threshold, regions
        return regions


class Session:
    """One visitor's work. Safe to use from several threads; scoring of different visitors takes turns."""

    def __init__(
        self, detector: AnomalyDetector, folder: Path, limits: Limits, rotations: int | str | None = None
    ) -> None:
        """`rotations`: how many rotated copies of references are asked for until a visitor asks for others;
        None: as many as the detector came with."""
        self.start, self.folder, self.limits = detector, folder, limits
        own = detector.config.rotations if detector.config.references else detector.method.rotations
        self.usual: int | str = own if rotations is None else rotations
        self.shapes: tuple[Shape, ...] = ()  # of the region of interest that is drawn
        self.references: dict[int, Upload] = {}
        self.calibration: dict[int, Upload] = {}
        self.photographs: dict[int, Photograph] = {}
        self.progress = ""  # of what the detector is at
        self._count = 0
        self._lock = RLock()  # what is here
        self._work = Lock()  # the detector
        self._take(detector.another(), [], detector.false_alarm_rate, self.usual)
        folder.mkdir()

    def _take(
        self,
        detector: AnomalyDetector,
        fitted: list[int],
        rate: float | None,
        rotations: int | str,
        compared: Iterable[int] = (),
    ) -> None:
        """From now on this detector, fitted to the references `fitted` in the `rotations` that were asked
        for, and to the photographs `compared` where it compares them, with a threshold that is of no
        calibration images; predictions of another one are forgotten."""
        self.detector, self.fitted, self.rotations = detector, fitted, rotations
        self.compared = set(compared)
        for photograph in self.photographs.values():
            photograph.prediction = None
        self.own = detector.normal, detector.threshold, rate
        self._judge_by(detector.normal, detector.threshold, rate)

    def _judge_by(
        self,
        normal: NormalScores | None,
        threshold: Threshold | None,
        rate: float | None,
        calibrated: Iterable[int] = (),
    ) -> None:
        """From now on these scores of normal images and this threshold, which are of the calibration images
        `calibrated`; scores of photographs stay, percentiles follow."""
        self.detector.normal, self.detector.threshold, self.rate = normal, threshold, rate
        self.calibrated = set(calibrated)
        self.pixel_threshold = None if threshold is None else threshold.pixel_threshold
        for photograph in self.photographs.values():
            if (prediction := photograph.prediction) is not None:
                percentile = None if normal is None else normal.percentile(prediction.score)
                photograph.prediction = replace(prediction, normal_percentile=percentile)

    def _by_references(self) -> tuple[NormalScores | None, Threshold | None, float | None]:
        """What `_judge_by` takes to be back at the threshold without calibration images, at the rate that is
        chosen now."""
        normal, threshold, rate = self.own
        if normal is not None and rate is not None:
            rate = self.rate or rate
            threshold = normal.threshold(rate)
        return normal, threshold, rate

    def state(self) -> dict[str, Any]:
        """All that the page shows, as JSON values."""
        with self._lock:
            photographs = list(self.photographs.values())
        for photograph in photographs:
            photograph.regions_at(self.pixel_threshold)  # takes long: without the lock
        with self._lock:
            threshold, normal = self.detector.threshold, self.detector.normal
            return {
                "references": [_listed(one) for one in self.references.values()],
                "calibration": [_listed(one) for one in self.calibration.values()],
                "calibrated": sorted(self.calibrated),
                "calibrationScores": len(normal.scores) if normal and normal.is_calibrated else 0,
                "photographs": [self._row(one) for one in self.photographs.values()],
                "builtIn": 0 if self.fitted else self.detector.config.references,
                "fitted": self.fitted,
                "ready": self.ready,
                "rate": self.rate,
                "rates": sorted({*RATES, self.rate or RATES[0]}) if normal or self.has_bulk else [],
                "compares": self.compares,
                "takesReferences": self.takes_references,
                "compared": sorted(self.compared),
                "fewest": {"compared": FEWEST, "bulk": FEWEST_OF_BATCH if self.has_bulk else None},
                "rotations": self.rotations,
                "shapes": [asdict(shape) for shape in self.shapes],
                "rotated": self.detector.config.rotations,
                "threshold": None if threshold is None else asdict(threshold),
                "trust": self._trust(),
                "drift": self._drift(),
                "limits": asdict(self.limits),
            }

    def _trust(self) -> str:
        """How far the threshold is to be trusted; "" where it is not of scores of normal images."""
        return self.detector.trust.replace("with --calibration", "as calibration images")

    def _drift(self) -> list[dict[str, str]]:
        """In which ways the last photographs as a whole do not look like the references, each with one that
        shows it."""
        drift = Drift(self.detector.statistics, WINDOW)
        for one in self.photographs.values():
            found = one.prediction
            if found is not None and found.statistics is not None and not found.reason:
                drift.add(one.name, found.statistics, found.normal_percentile)
        return [change._asdict() for change in drift.changes.values()]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was uploaded, so that nothing is lost when its visitor has to come again."""
        with self._lock:
            return not (self.references or self.calibration or self.photographs)

    @property
    def ready(self) -> bool:
        """Whether the detector is fitted to references, or to the photographs that it compares."""
        return self.detector.ready and not (self.compares and not self.compared)

    @property
    def compares(self) -> bool:
        """Whether photographs are compared with each other here, and not with those of a saved detector."""
        looks = self.start.scorer.detector.is_transductive
        return looks and (bool(self.fitted) or self.start.scorer.detector.memories.whole is None)

    @property
    def takes_references(self) -> bool:
        """Whether the method takes references."""
        return not self.start.scorer.detector.method.added_by

    @property
    def has_bulk(self) -> bool:
        """Whether a threshold comes from the photographs' own bulk: there is neither a reference nor a
        calibration image."""
        return self.compares and not self.takes_references and not self.calibrated

    def add(self, kind: str, content: bytes, name: str) -> dict[str, Any]:
        """Takes an upload of one of KINDS: a normal image as a reference, to which `learn` fits the detector;
        one that is no reference, from which `learn` or `calibrate` takes the threshold; or a photograph,
        which `score` scores. DataError for what is no photograph, for a normal image that is here already
        (it would be scored by itself), and where there is no place for it."""
        return self._add(kind, [(content, name)])[0]

    def _add(self, kind: str, given: Sequence[tuple[bytes, str]]) -> list[dict[str, Any]]:
        """`add` of several uploads (content, name): all of them or none."""
        uploads: dict[int, Any] = getattr(self, kind)
        most = self.limits.references if kind == "references" else self.limits.photographs
        received: list[Upload] = []
        if kind == "references" and not self.takes_references:
            raise DataError("this method takes no references: add photographs to inspect")
        with self._lock:
            if len(uploads) + len(given) > most:
                raise DataError(f"{most} {KINDS[kind]} {ENOUGH[kind]}")
            names = [*(one.name for one in uploads.values()), *(name for _, name in given)]
            try:
                for content, name in given:
                    if kind != "photographs":
                        self._refuse_known(kind, content, name, received)
                    refuse_mask(name, names)
                    received.append(receive(content, self._next(), name, self.folder))
            except BaseException:
                for upload in received:
                    upload.file.unlink(missing_ok=True)
                raise
            for place, upload in enumerate(received):
                if kind == "photographs":
                    name = unused_name(upload.name, [one.name for one in uploads.values()])
                    received[place] = upload = Photograph(**(vars(upload) | {"name": name}))
                uploads[upload.number] = upload
        return [self._row(one) if isinstance(one, Photograph) else _listed(one) for one in received]

    def take_as_reference(self, number: int) -> dict[str, Any]:
        """Takes a photograph as one of the references, with those that the detector came with;
        `learn` fits it to them. Returns the new state; KeyError where there is none, and DataError as `add`:
        then nothing has changed."""
        with self._lock:
            photograph = self.photographs[number]
            built_in = [] if self.references else self.start.stored
        given = [(one.content, one.name) for one in built_in]
        self._add("references", [*given, (photograph.file.read_bytes(), photograph.name)])
        return self.state()

    def _refuse_known(self, kind: str, content: bytes, name: str, received: Iterable[Upload]) -> None:
        """DataError for a normal image that is here already, or among those just `received`."""
        if kind == "calibration" and any(one.content == content for one in self.start.stored):
            raise DataError(f"{plain_name(name)}: is among the references already")
        here = {one: [*getattr(self, one).values()] for one in ("references", "calibration")}
        here[kind] += received
        for known, uploads in here.items():
            if any(holds(one, content) for one in uploads):
                raise DataError(f"{plain_name(name)}: is among the {KINDS[known]} already")

    def remove(self, number: int) -> None:
        """Forgets one upload of any kind; KeyError where there is none. Without references it is as it
        started; without calibration images the threshold is that of the references."""
        with self._lock:
            kinds: tuple[dict[int, Any], ...] = (self.references, self.calibration, self.photographs)
            upload = next(kind for kind in kinds if number in kind or kind is self.photographs).pop(number)
            upload.file.unlink(missing_ok=True)
            settled = not self._is_unfit and not self._is_uncalibrated
        if settled:
            return
        with self._work:  # others may have come while the detector was at work
            judged = self._by_references()
            with self._lock:
                if self._is_unfit:
                    self.shapes = ()
                    self._take(self.start.another(), [], self.start.false_alarm_rate, self.usual)
                elif self._is_uncalibrated:
                    self._judge_by(*judged)

    @property
    def _is_unfit(self) -> bool:
        """Whether all references of the detector are removed."""
        return not self.references and bool(self.fitted)

    @property
    def _is_uncalibrated(self) -> bool:
        """Whether all calibration images of the threshold are removed."""
        return not self.calibration and bool(self.calibrated)

    def learn(self, rotations: int | str = 1, rate: float = 0.01, shapes: tuple[Shape, ...] = ()) -> None:
        """Fits a new detector to the references and takes the threshold for the target false-positive `rate`
        from the calibration images, or where there are none from the references; all photographs have to be
        scored anew. `shapes`: of the region of interest, none: that which the detector came with. Where
        photographs are compared with each other, it is fitted to them too.

        AUTO leaves references as they are where there are many: then they differ by themselves. Raises
        DataError without references or with too few photographs to compare, ConfigError for too many copies,
        and as `AnomalyDetector.fit`; then everything is as it was.
        """
        compares = self.start.scorer.detector.is_transductive

        def fitted(references: Uploads, calibration: Uploads, photographs: Uploads) -> list[AnomalyDetector]:
            if self.takes_references and not references:
                raise DataError("there is no reference yet")
            if compares and len(photographs) < FEWEST:
                raise DataError(f"photographs are compared with each other: add {FEWEST} or more to inspect")
            if isinstance(rotations, int) and len(references) * rotations > MOST_COPIES:
                raise ConfigError(
                    f"{len(references)} references with {rotations} rotated copies each are more than "
                    f"{MOST_COPIES}: remove some, or take fewer copies"
                )
            other = self.start.another()
            if shapes:
                other.restrict(drawn_roi(shapes, other.image_size), DRAWN)
            too_many = rotations == AUTO and len(references) * ROTATIONS > MOST_COPIES
            with MODEL:
                other.fit(
                    [upload.file for upload in references.values()],
                    rotations=1 if too_many else rotations,
                    false_alarm_rate=rate,
                    test_images=[upload.file for upload in photographs.values()],
                )
            names = {upload.file.name: upload.name for upload in references.values()}
            other.stored = [replace(one, name=names.get(one.name, one.name)) for one in other.stored]
            return [other, *([_calibrated(other, calibration, rate)] if calibration else [])]

        def take(made: list[AnomalyDetector], uploads: list[Uploads]) -> None:
            other, references = made[0], list(uploads[0])
            self.shapes = shapes
            self._take(other, references, rate if other.threshold else None, rotations, uploads[2])
            if len(made) > 1:
                self._judge_by(made[1].normal, made[1].threshold, rate, uploads[1])

        kinds = "references", "calibration", "photographs" if compares else ""
        self._without_removed(kinds, fitted, take)

    def calibrate(self, rate: float = 0.01) -> None:
        """Takes the threshold for the target false-positive `rate` from the calibration images that are here
        now; photographs keep their scores. DataError without any, or where the detector is not fitted yet;
        then everything is as it was."""

        def calibrated(images: Uploads) -> AnomalyDetector:
            if not images:
                raise DataError("there is no calibration image yet")
            if not self.ready:
                raise DataError("there is no reference yet: calibration images need a fitted detector")
            return _calibrated(self.detector, images, rate)

        def take(other: AnomalyDetector, uploads: list[Uploads]) -> None:
            self._judge_by(other.normal, other.threshold, rate, uploads[0])

        self._without_removed(("calibration",), calibrated, take)

    def _without_removed(
        self, kinds: Sequence[str], work: Callable[..., Any], take: Callable[[Any, list[Uploads]], None]
    ) -> None:
        """`work` with the uploads of these kinds ("": none), while others may come and go, then `take` with
        what it made; where one of the uploads is removed meanwhile, it begins again without it."""
        with self._work:
            while True:
                with self._lock:
                    uploads: list[Uploads] = [dict(getattr(self, kind)) if kind else {} for kind in kinds]
                try:
                    with self._watched():
                        made = work(*uploads)
                except DataError:
                    if self._has(uploads):
                        raise
                    continue
                with self._lock:
                    if self._has(uploads):
                        take(made, uploads)
                        return

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within it `progress` is how far it is."""

        def note(what: str, done: int, total: int | None) -> None:
            self.progress = what if total is None else f"{what}, {done} of {total}"

        try:
            with progress_to(note):
                yield
        finally:
            self.progress = ""

    def _has(self, uploads: Sequence[Uploads]) -> bool:
        """Whether all of these are still here."""
        with self._lock:
            here = {*self.references, *self.calibration, *self.photographs}
            return all(here.issuperset(some) for some in uploads)

    def score(self, number: int) -> dict[str, Any]:
        """Scores one photograph by the detector as it is now; KeyError where there is none, DataError for
        one that was not among those that are compared."""
        with self._work:
            with self._lock:
                photograph = self.photographs[number]
                if self.compares and number not in self.compared:
                    raise DataError(f"{photograph.name}: is not compared with the others yet")
            photo = photograph.open(self.detector.grey)
            with MODEL:
                batch = self.detector.to_batch([photo])
                (photograph.prediction,) = self.detector.predict_batch(batch, [photo.size], [photograph.name])
            return self._row(photograph)

    def decide(self, score: float | None, rate: float | None) -> dict[str, Any]:
        """Sets the threshold to a score, or to what normal images reach at a target false-positive rate, by
        the calibration images, the references or the bulk of the photographs that are compared; the new
        state."""
        with self._work:
            if rate is not None and self.has_bulk:
                self._take_bulk(rate)
                return self.state()
            if rate is not None:
                other = self.detector.another()
                other.calibrate(rate)
                decided = other.threshold
            elif score is not None and np.isfinite(score):
                decided = Threshold(float(score), None, "set by hand")
            else:
                raise ConfigError("a threshold is a score or a target false-positive rate between 0 and 1")
            with self._lock:
                self.detector.threshold = replace(decided, pixel_threshold=self.pixel_threshold)
                self.rate = rate
                return self.state()

    def _take_bulk(self, rate: float) -> None:
        """The threshold and the pixel threshold from what the photographs themselves score; ConfigError where
        too few are scored."""
        other = self.detector.another()
        with self._lock:
            scored = [one.prediction for one in self.photographs.values() if one.prediction is not None]
        other.learn_threshold_from_batch(scored, rate)
        with self._lock:
            self._judge_by(self.detector.normal, other.threshold, rate)

    def picture(self, number: int, kind: str) -> bytes:
        """JPEG of an upload: kind "photo", or "heat" for the heat map over it. KeyError where there is
        none."""
        with self._lock:
            normal = self.references.get(number) or self.calibration.get(number)
            upload = normal or self.photographs[number]
            prediction, scale = getattr(upload, "prediction", None), self.detector.heat_scale
        if kind == "heat" and prediction is None:
            raise KeyError(number)
        photo = upload.open(most=SIDE)
        if kind == "photo":
            return jpeg(photo)
        values = upsample(prediction.patch_map, photo.height, photo.width)
        return jpeg(Image.fromarray(drawing.heat(np.asarray(photo), values, scale)))

    def results(self) -> Path:
        """A ZIP file with what predict.py would have written; DataError where nothing is scored."""
        with self._work, self._scratch("results") as folder:
            with self._lock:
                scored = [one for one in self.photographs.values() if one.prediction is not None]
            if not scored:
                raise DataError("no photograph is scored yet")
            output = PredictionFolder(folder, run_config(self.detector))
            for photograph in scored:
                name = photograph.name
                try:
                    photo = photograph.open(self.detector.grey)
                except KeyError:  # removed meanwhile
                    continue
                decided = self._decided(photograph.prediction)
                row = inspected_row(name, decided) | {"picture": draw(name, photo, decided, folder)}
                output.add(row, decided.base_map, decided.window_map)
            finish(self.detector, output)
            return zipped(folder, self.folder / f"{self._next()}.zip")

    def saved_detector(self) -> Path:
        """The detector as predict.py --detector takes it; DataError where it is not fitted."""
        with self._work:
            if not self.ready:
                raise DataError("the detector has no references yet")
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

    def _decided(self, prediction: Prediction) -> Prediction:
        """The same prediction, judged by the threshold as it stands now."""
        threshold = self.detector.threshold
        return replace(
            prediction,
            threshold=None if threshold is None else threshold.score,
            map_threshold=None if threshold is None else threshold.pixel_threshold,
        )

    def _row(self, photograph: Photograph) -> dict[str, Any]:
        prediction = photograph.prediction
        return _listed(photograph) | {
            "score": None if prediction is None else prediction.score,
            "normal_percentile": None if prediction is None else prediction.normal_percentile,
            "reason": "" if prediction is None else prediction.reason,
            "regions": [region.to_dict() for region in photograph.regions_at(self.pixel_threshold)],
        }

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _calibrated(detector: AnomalyDetector, images: Uploads, rate: float) -> AnomalyDetector:
    """Another one with the threshold of calibration images; DataError where one is gone or none can be
    judged."""
    other = detector.another()
    with MODEL:
        other.calibrate(rate, [upload.file for upload in images.values()])
    return other


def _listed(upload: Upload) -> dict[str, Any]:
    return {"number": upload.number, "name": upload.name, "width": upload.size[0], "height": upload.size[1]}
