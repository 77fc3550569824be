"""A visitor's detector: what it is fitted to, and how it decides. A change makes another one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from data.region_of_interest import Shape, drawn_roi
from fdsl.api import AnomalyDetector, Prediction, Threshold
from fdsl.prediction import threshold_of_bulk
from fdsl.references.rotation import ROTATIONS
from fdsl.thresholds.decision import Decision
from models.methods.batch import FEWEST
from page.collection import Uploads
from utils.config import AUTO
from utils.errors import ConfigError, DataError

MODEL = Lock()  # one photograph at a time goes through the backbone
MOST_COPIES = 48  # references times rotations: each is a part of the memory bank
DRAWN = "the mask drawn on the page"


@dataclass(frozen=True)
class Fit:
    """A detector and the uploads, by their numbers, that it is fitted to.

    own: what the fit decided by; the detector has what it decides by now. rotations: as they were asked for.
    rate: the target false-positive rate of the threshold; None where there is none, or where it was set by
    hand. compared: the photographs that it compares with each other. shapes: of the region of interest that
    was drawn. calibrated: the calibration images that the threshold is of.
    """

    detector: AnomalyDetector
    own: Decision
    rotations: int | str
    rate: float | None
    references: tuple[int, ...] = ()
    compared: frozenset[int] = frozenset()
    shapes: tuple[Shape, ...] = ()
    calibrated: frozenset[int] = frozenset()

    @classmethod
    def of(cls, detector: AnomalyDetector, rotations: int | str, **more: Any) -> Fit:
        """Of a detector with its own decision. `more`: fields."""
        decision = detector.decision
        return cls(detector, decision, rotations, decision.rate, **more)

    @property
    def takes_references(self) -> bool:
        """Whether the method takes references."""
        return not self.detector.method.added_by

    @property
    def is_transductive(self) -> bool:
        """Whether the method compares photographs with each other."""
        return self.detector.takes_test_images

    @property
    def compares(self) -> bool:
        """Whether the photographs of this page are compared with each other, and not with those of a saved
        detector."""
        memory = self.detector.scorer.detector.memories.whole
        return self.is_transductive and (bool(self.compared) or memory is None)

    @property
    def is_ready(self) -> bool:
        """Whether it is fitted to references, or to the photographs that it compares."""
        return self.detector.ready and not (self.compares and not self.compared)

    @property
    def has_bulk(self) -> bool:
        """Whether a threshold comes from the photographs' own bulk: there is neither a reference nor a
        calibration image."""
        return self.compares and not self.takes_references and not self.calibrated

    def fitted_to(
        self,
        references: Uploads,
        photographs: Uploads,
        rotations: int | str,
        rate: float,
        shapes: tuple[Shape, ...],
    ) -> Fit:
        """Another one, fitted to these references and to the `photographs` that are compared, with the
        threshold of the references. `shapes`: none for the region of interest of this one.

        AUTO leaves references as they are where there are many: then they differ by themselves. DataError
        without references or with too few photographs to compare, ConfigError for too many copies, and as
        `AnomalyDetector.fit`.
        """
        if self.takes_references and not references:
            raise DataError("there is no reference yet")
        if self.is_transductive and len(photographs) < FEWEST:
            raise DataError(f"photographs are compared with each other: add {FEWEST} or more to inspect")
        if isinstance(rotations, int) and len(references) * rotations > MOST_COPIES:
            raise ConfigError(
                f"{len(references)} references with {rotations} rotated copies each are more than "
                f"{MOST_COPIES}: remove some, or take fewer copies"
            )
        detector = self.detector.another()
        if shapes:
            detector.restrict(drawn_roi(shapes, detector.image_size), DRAWN)
        too_many = rotations == AUTO and len(references) * ROTATIONS > MOST_COPIES
        with MODEL:
            detector.fit(
                [upload.file for upload in references.values()],
                rotations=1 if too_many else rotations,
                false_alarm_rate=rate,
                test_images=[upload.file for upload in photographs.values()],
            )
        names = {upload.file.name: upload.name for upload in references.values()}
        stored = [replace(one, name=names.get(one.name, one.name)) for one in detector.stored]
        detector.references = replace(detector.references, stored=stored)
        fitted_to = {"references": tuple(references), "compared": frozenset(photographs)}
        return Fit.of(detector, rotations, shapes=shapes, **fitted_to)

    def calibrated_on(self, images: Uploads, rate: float) -> Fit:
        """Another one with the threshold of calibration images; DataError without any, where it is not fitted
        yet, and where none can be judged."""
        if not images:
            raise DataError("there is no calibration image yet")
        if not self.is_ready:
            raise DataError("there is no reference yet: calibration images need a fitted detector")
        other = self.detector.another()
        with MODEL:
            other.calibrate(rate, [upload.file for upload in images.values()])
        return self._decided_by(other.decision, rate, frozenset(images))

    def uncalibrated(self) -> Fit:
        """Another one with the threshold that its fit gave, at the rate that is chosen now."""
        rate = self.own.rate and (self.rate or self.own.rate)
        return self._decided_by(self.own if rate is None else self.own.at(rate), rate, frozenset())

    def at_rate(self, rate: float, scored: Iterable[Prediction]) -> Fit:
        """Another one with what normal images reach at this target false-positive rate, by the calibration
        images, the references or the bulk of the photographs that are `scored`. ConfigError where too few
        are, where there are no scores of normal images, and for a rate outside 0 to 1."""
        decision = self.detector.decision
        if self.has_bulk:
            threshold = threshold_of_bulk(list(scored), rate)
            return self._decided_by(replace(decision, threshold=threshold), rate, self.calibrated)
        return self._of_images(decision.at(rate).threshold, rate)

    def at_score(self, score: float) -> Fit:
        """Another one with a threshold that was set by hand."""
        return self._of_images(Threshold(score, None, "set by hand"), None)

    def _of_images(self, threshold: Threshold | None, rate: float | None) -> Fit:
        """Another one with this threshold of images; that of pixels stays."""
        decision = self.detector.decision
        if threshold is not None and decision.threshold is not None:
            threshold = replace(threshold, pixel_threshold=decision.threshold.pixel_threshold)
        return self._decided_by(replace(decision, threshold=threshold), rate, self.calibrated)

    def _decided_by(self, decision: Decision, rate: float | None, calibrated: frozenset[int]) -> Fit:
        detector = self.detector.another()
        detector.decision = decision
        return replace(self, detector=detector, rate=rate, calibrated=calibrated)
