"""The maps of one category's test images by one detector, for all runs that they serve."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from data.dataset import InspectionDataset
from data.region_of_interest import MaskFolders
from fdsl.evaluation.plan import PlannedRun
from fdsl.inspection.reading import Reading
from fdsl.references.rotation import fit_references
from fdsl.references.transductive import encode_test_images, standing_for_all
from fdsl.scoring import NotFinite, Scorer
from fdsl.store.maps import RunMaps
from fdsl.thresholds.leave_one_out import set_scales
from models.detector import NO_WINDOWS, Detector
from models.features import ScoreMaps, join_score_maps
from models.method import BankMethod
from utils.config import AUTO
from utils.errors import ModelError
from utils.text import printable


class Overflow(Exception):
    """Maps that are not finite, in a precision narrower than float32; the message says where."""


Problem = Overflow | ModelError  # why a run has no maps: float32 mends it, or the user


def problem_of(error: NotFinite) -> Problem:
    """What a test run makes of a map that is not finite."""
    if error.narrow:
        return Overflow(f"Values overflowed in {error.precision} at {printable(error.name)}.")
    return ModelError(
        f"The map of {printable(error.name)} is not finite; check this image and the checkpoint."
    )


class LargerBank(NamedTuple):
    """A fitted detector whose bank begins with the references of another one; it has so many itself."""

    detector: Detector
    references: int


def fit_shots(
    scorer: Scorer, shots: InspectionDataset, rotations: int | str, larger: LargerBank | None = None
) -> None:
    """Fits the detector to a category's references, each in `rotations` copies (AUTO: the references decide),
    and sets what the maps of a method with scales are measured against. With a `larger` bank both match once
    what they match alike. Raises NotFinite."""
    photographs = [shots.photograph(record) for record in shots.records]
    try:
        if larger is None or not isinstance(rotations, int):
            rotations = fit_references(scorer, photographs, rotations)
        else:
            larger.detector.matching_once()
            scorer.detector.take_first_references(larger.detector, len(photographs), larger.references)
        set_scales(scorer, photographs, rotations)
    except NotFinite as error:
        error.name = f"a reference of {shots.records[0].category}"
        raise


@dataclass
class CategoryJob:
    """One category's test images by one detector, for runs that differ in how maps are fused and evaluated
    alone.

    `runs`: those that its maps are kept for. `found`: the maps of the batches scored so far. `error`: why it
    was given up.
    """

    category: str
    scorer: Scorer
    shots: InspectionDataset
    tested: InspectionDataset
    runs: list[PlannedRun] = field(default_factory=list)
    found: list[ScoreMaps] = field(default_factory=list)
    error: NotFinite | None = None

    @classmethod
    def of(cls, run: PlannedRun, category: str, scorer: Scorer, reading: Reading) -> CategoryJob:
        """The job of a run; `scorer`: its own, of a detector that is not yet fitted."""
        split, detector = run.split, scorer.detector
        masks = MaskFolders.of(run.config.detector.options, detector.image_size, detector.grid)
        shots, tested = (
            InspectionDataset(
                split.root,
                records,
                detector.image_size,
                max_pixels=reading.max_pixels,
                grey=split.grey.get(category),
                masks=masks,
            )
            for records in (split.references[category], split.records[category])
        )
        detector.speak_of(category)
        return cls(category, scorer, shots, tested, [run])

    @property
    def detector(self) -> Detector:
        return self.scorer.detector

    def fit(self, what: str, larger: LargerBank | None = None) -> None:
        """Fits the detector to the references, and before that to the test images where it compares these;
        `what`: the job in the log."""
        try:
            if self.detector.is_transductive:
                self._take_test_images(f"{what}, encoded beforehand")
            if len(self.shots):
                fit_shots(self.scorer, self.shots, self.runs[0].config.rotations, larger)
        except NotFinite as error:
            self.give_up(error)
        self.tested.layout = self.detector.layout

    def _take_test_images(self, what: str) -> None:
        """Shows the detector those of the test images that stand for all."""
        chosen = standing_for_all(self.tested.records)
        photographs = map(self.tested.photograph, chosen)
        encode_test_images(self.scorer, photographs, len(chosen), what=what)

    def score(self, batch: dict) -> None:
        """Scores a batch of test images, unless it was given up."""
        if self.error is not None:
            return
        try:
            self.found.append(self.scorer(batch["image"], batch["path"]))
        except NotFinite as error:
            self.give_up(error)

    def keep(self, fingerprint: str) -> None:
        """Writes the maps as a finished part of each run: those of whole images alone where it has no
        windows."""
        if self.error is not None:
            return
        maps = join_score_maps(self.found)
        names = [record.image_path for record in self.tested.records]
        for run in self.runs:
            windowed = run.config.detector.windows.winmode != "nan"
            own = maps if windowed else ScoreMaps(maps.base, maps.base_score)
            run.folder.parts.save(run.key(self.category, fingerprint), RunMaps(names, own))

    def give_up(self, error: NotFinite) -> None:
        self.error = error.with_traceback(None)  # its frames would hold the detector
        self.release()

    def release(self) -> None:
        """Frees what the detector was fitted to and what it found: the next pass needs the memory."""
        self.scorer = Scorer(self.detector.another(), self.scorer)
        self.found.clear()

    @property
    def same_images(self) -> tuple:
        """Jobs that are equal in this score the same arrays."""
        names = tuple(record.image_path for record in self.tested.records)
        return names, self.tested.layout, self.tested.grey, str(self.tested.masks)

    @property
    def order(self) -> tuple:
        """Where it stands among the jobs of a category: those of the same windows together, those of the same
        references together, and first who wants most of the backbone, which then serves the others too, and
        who has most references, whose bank begins with the others'."""
        detector, config = self.detector, self.runs[0].config
        windows = detector.settings if detector.windows is not None else NO_WINDOWS
        shape = detector.windows is None, windows.win_size, windows.win_stride, windows.win_zip
        return shape, config.seed, -len(detector.looks_for), -config.k_shot

    def begins_with(self, other: CategoryJob) -> bool:
        """Whether its bank is the other's, or begins with it: fewer shots of a seed are the first of more."""
        mine, theirs = ([record.image_path for record in job.shots.records] for job in (self, other))
        if self._kind_of_bank != other._kind_of_bank or mine[: len(theirs)] != theirs:
            return False
        return self.detector.settings.tiles == 1 or len(mine) == len(theirs)

    @property
    def _kind_of_bank(self) -> tuple:
        """Jobs that are equal in this have the same bank of the same references."""
        detector, rotations = self.detector, self.runs[0].config.rotations
        method = detector.method
        alone = not isinstance(method, BankMethod) or rotations == AUTO
        windows = replace(detector.settings, winmode="nan", win_weight=0)
        counts = method.options.roi, method.options.ignore
        shared = rotations, windows, detector.windows is None, method.needs_references, counts
        return (id(self),) if alone else shared
