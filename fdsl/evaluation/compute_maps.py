"""The maps of one category's test images from one detector, for all runs that share them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from data.dataset import InspectionDataset
from data.photographs import PhotographReader
from data.region_of_interest import MaskFolders
from fdsl.config.evaluation_options import Reading
from fdsl.evaluation.plan import PlannedRun
from fdsl.references.rotation import fit_references
from fdsl.references.transductive import encode_test_images, sample_of
from fdsl.scoring import NotFinite, Scorer
from fdsl.store.maps import RunMaps
from fdsl.thresholds.leave_one_out import set_scales
from models.detector import NO_WINDOWS, Detector
from models.features import ScoreMaps, join_score_maps
from models.method import BankMethod
from utils.config import AUTO
from utils.text import printable


@dataclass
class CategoryJob:
    """One category's test images and a detector, for runs that differ only in how maps are fused and
    evaluated.

    `runs`: those that its maps are for. `maps`: of the batches scored so far. `error`: why it was given up.
    """

    category: str
    scorer: Scorer
    shots: InspectionDataset
    tested: InspectionDataset
    validation: InspectionDataset
    runs: list[PlannedRun] = field(default_factory=list)
    maps: list[ScoreMaps] = field(default_factory=list)
    error: NotFinite | None = None

    @classmethod
    def of(cls, run: PlannedRun, category: str, scorer: Scorer, reading: Reading) -> CategoryJob:
        """The job of a run; `scorer`: of a detector of its own that is not yet fitted."""
        split, detector = run.split, scorer.detector
        masks = MaskFolders.of(run.config.detector.options, detector.image_size, detector.grid)
        reader = PhotographReader(split.grey.get(category), masks=masks)
        shots, tested, validation = (
            InspectionDataset(split.root, records, detector.image_size, reader)
            for records in (
                split.references[category],
                split.records[category],
                split.validation.get(category, []),
            )
        )
        detector.method.set_category(category)
        return cls(category, scorer, shots, tested, validation, [run])

    @property
    def detector(self) -> Detector:
        return self.scorer.detector

    def fit(self, what: str, larger: CategoryJob | None = None) -> None:
        """Fits the detector to the test images if it is transductive, then to the references; `what`: the
        job's name in the log. With a `larger` job, whose bank begins with this one's references, matches with
        references of both are computed once."""
        try:
            if self.detector.takes_test_images:
                self._take_test_images(f"{what}, encoded beforehand")
            if len(self.shots):
                self._fit_references(larger)
        except NotFinite as error:
            error.name = f"a reference of {printable(self.category)}"
            self.give_up(error)
        self.tested.layout = self.validation.layout = self.detector.layout

    def _fit_references(self, larger: CategoryJob | None) -> None:
        photographs = [self.shots.photograph(record) for record in self.shots.records]
        rotations = self.runs[0].config.rotations
        if larger is None:
            rotations = fit_references(self.scorer, photographs, rotations)
        else:
            memories = larger.detector.memories.matching_once()
            larger.detector.memories, self.detector.layout = memories, larger.detector.layout
            self.detector.memories = memories.beginning(len(photographs), len(larger.shots))
        set_scales(self.scorer, photographs, int(rotations))

    def _take_test_images(self, what: str) -> None:
        """Fits the detector to a sample of the test images."""
        chosen = sample_of(self.tested.records)
        photographs = map(self.tested.photograph, chosen)
        encode_test_images(self.scorer, photographs, len(chosen), what=what)

    def score(self, batch: dict) -> None:
        """Scores a batch of test or validation images, unless the job was given up."""
        if self.error is not None:
            return
        try:
            self.maps.append(self.scorer(batch["views"], batch["path"]))
        except NotFinite as error:
            self.give_up(error)

    def write(self, fingerprint: str) -> None:
        """Writes the maps as a finished category of each run; only those of whole images for a run without
        windows."""
        if self.error is not None:
            return
        maps = join_score_maps(self.maps)
        names = [record.image_path for record in (*self.tested.records, *self.validation.records)]
        for run in self.runs:
            windowed = run.config.detector.windows.winmode != "nan"
            own = maps if windowed else ScoreMaps(maps.base, maps.base_score)
            run.folder.finished.save(run.key(self.category, fingerprint), RunMaps(names, own))

    def give_up(self, error: NotFinite) -> None:
        self.error = error.with_traceback(None)  # its frames would hold the detector
        self.release()

    def release(self) -> None:
        """Frees the memory bank and the maps, for the next pass."""
        self.scorer = Scorer(self.detector.another(), self.scorer)
        self.maps.clear()

    def same(self, images: InspectionDataset) -> tuple:
        """Equal for jobs that score the same arrays of images."""
        reader, paths = images.reader, tuple(one.image_path for one in images.records)
        return paths, images.layout, reader.grey, str(reader.masks)

    @property
    def order(self) -> tuple:
        """The sort key among the jobs of a category: jobs with the same windows and the same references are
        together. Jobs that need most of the backbone come first, for their features serve the others, and so
        do those with most references, whose bank begins with the others'."""
        detector, config = self.detector, self.runs[0].config
        windows = detector.settings if detector.windows is not None else NO_WINDOWS
        shape = detector.windows is None, windows.win_size, windows.win_stride, windows.win_zip
        return shape, config.seed, -len(detector.looks_for), -config.k_shot

    def begins_with(self, other: CategoryJob) -> bool:
        """Whether its bank begins with the other's: fewer shots of a seed are the first of more."""
        own, others = ([record.image_path for record in job.shots.records] for job in (self, other))
        if self._bank_settings != other._bank_settings or own[: len(others)] != others:
            return False
        return self.detector.settings.tiles == 1 or len(own) == len(others)

    @property
    def _bank_settings(self) -> tuple:
        """Equal for jobs that have the same bank of the same references."""
        detector, rotations = self.detector, self.runs[0].config.rotations
        method = detector.method
        alone = not isinstance(method, BankMethod) or rotations == AUTO
        windows = replace(detector.settings, winmode="nan", win_weight=0)
        counts = method.options.roi, method.options.ignore
        shared = rotations, windows, detector.windows is None, method.needs_references, counts
        return (id(self),) if alone else shared
