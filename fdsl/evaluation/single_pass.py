"""The maps of one or several test runs on one backbone: each batch of test images is encoded once for all.

A run gets the same maps with others as by itself, byte for byte: the same batches go through the same
backbone, and each run matches them against its own memory. The maps of a category are written to each run's
folder (fdsl/store/maps.py), so that an interrupted command can go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.dataset import InspectionDataset, make_loader
from data.values import doubts_of
from fdsl.config.evaluation_options import Reading
from fdsl.evaluation.compute_maps import CategoryJob
from fdsl.evaluation.plan import PlannedRun
from fdsl.factory import build_detector
from fdsl.scoring import NotFinite, Scorer
from models.detector import Detector
from models.encoder import Encoder
from utils.console import progress, warn
from utils.device import worker_count
from utils.limits import AUTO_TILES, MOST_TILES
from utils.memory import free_bytes
from utils.options import as_stored
from utils.signals import how_to_continue
from utils.text import printable

logger = logging.getLogger("fdsl")
GIB = 2**30


def grouped_by_backbone(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """The runs in groups of the same backbone, feature layers, image side and machine."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        values = as_stored(run.config.detector)
        key = [values[name] for name in ("backbone", "machine")]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    return list(groups.values())


class Detectors:
    """The scorers of the runs of one group, with empty memories. They share the backbone, and those that
    differ only in their windows share the heads."""

    def __init__(self, runs: Iterable[PlannedRun]) -> None:
        """Makes those of `runs`; ModelError as build_detector."""
        self._made: dict[str, Detector] = {}
        self._scorers = {run.folder.path: Scorer(self._detector_of(run)) for run in runs}
        self.fingerprint = next((one.backbone.fingerprint for one in self._made.values()), "")

    def of(self, run: PlannedRun) -> Scorer:
        return self._scorers[run.folder.path]

    def release(self) -> None:
        """Frees the detectors; the fingerprint of the backbone's weights stays."""
        self._made.clear()
        self._scorers.clear()

    def _detector_of(self, run: PlannedRun) -> Detector:
        made = run.config.detector
        values = as_stored(made)
        key = json.dumps([values["method"], values["options"], run.config.checkpoint_digest], sort_keys=True)
        if key not in self._made:
            like = next(iter(self._made.values()), None)
            self._made[key] = build_detector(made, run.checkpoint, like, run.split.catalogue.test)
        detector = self._made[key]
        return detector if detector.settings == made.windows else detector.another(made.windows)


def compute_maps(
    runs: Sequence[PlannedRun], detectors: Detectors, reading: Reading, memory_gib: float | None = None
) -> dict[Path, NotFinite]:
    """Computes the missing maps of runs of one group; returns folder -> error for runs without maps.

    Runs share one pass over the test images. `memory_gib`: the memory for memory banks and encoded batches,
    by default half of the free one. Banks that do not fit at once are used one after the other; where not
    even one batch fits, each run has a pass of its own. So has a transductive run, and one whose maps were
    not finite in a pass with others.

    Where memory is short, fewer images and then fewer windows are encoded at once. Raises DataError for an
    image that cannot be read.
    """
    sharing = [run for run in runs if not detectors.of(run).detector.takes_test_images]
    done: set[PlannedRun] = set()
    if len(sharing) > 1:
        shared = [detectors.of(run).detector for run in sharing]
        most = int(GIB * memory_gib) if memory_gib else free_bytes(shared[0].backbone.device) // 2
        batch = max(_bytes_of_a_batch(detector, reading.batch_size) for detector in shared)
        if batch > most:
            logger.info(
                "one encoded batch takes %.1f GiB, --memory gives %.1f: each run encodes for itself",
                batch / GIB,
                most / GIB,
            )
        else:
            with _encoding_once(shared, 2 * batch):
                failed = SinglePass(sharing, detectors, reading, max(most - 2 * batch, 1)).go()
            done = set(sharing) - set(failed)
    problems: dict[Path, NotFinite] = {}
    for run in runs:
        if run not in done:
            failed = SinglePass([run], detectors, reading).go()
            if run in failed:
                problems[run.folder.path] = failed[run]
    return problems


def _bytes_of_a_batch(detector: Detector, batch_size: int) -> int:
    """An upper bound of the bytes of the tokens of so many images, with their windows or tiles."""
    backbone, size = detector.backbone, detector.backbone.dtype.itemsize
    patches = detector.grid**2 * (1 + _most_tiles(detector.settings.tiles))
    patches += detector.window_patches
    raw = 4 * bool(detector.method.want)
    return batch_size * patches * backbone.width * len(backbone.layers) * (size + raw)


def _most_tiles(tiles: int) -> int:
    """About the largest number of tiles of a photograph that is not square."""
    along = MOST_TILES if tiles == AUTO_TILES else tiles
    return 0 if tiles == 1 else 2 * along**2


@contextlib.contextmanager
def _encoding_once(detectors: Sequence[Detector], most: int) -> Iterator[None]:
    """Within it the detectors share what each of them encodes, references included, up to `most` bytes."""
    shared = Encoder(detectors[0].backbone, most)
    for detector in detectors:
        detector.encode = shared
    try:
        yield
    finally:
        for detector in detectors:
            detector.encode = Encoder(detector.backbone)


class SinglePass:
    """One pass over the test images for runs of one group, category by category, without those that are
    finished. `budget`: bytes for memory banks, if there are several."""

    def __init__(
        self, runs: Sequence[PlannedRun], detectors: Detectors, reading: Reading, budget: int = 1
    ) -> None:
        self.runs, self.detectors, self.reading, self.budget = runs, detectors, reading, budget
        self.failed: dict[PlannedRun, NotFinite] = {}

    def go(self) -> dict[PlannedRun, NotFinite]:
        """Computes all categories; returns run -> error for those that were given up."""
        categories = list(dict.fromkeys(name for run in self.runs for name in run.split.records))
        for number, category in enumerate(categories, start=1):
            what = f"{printable(category)} ({number}/{len(categories)})"
            waiting = self._jobs(category, what)
            while waiting:
                fitted = self._fitted(waiting, what)
                waiting = waiting[len(fitted) :]
                if waiting:
                    logger.info("%s: the banks of %d more runs wait for another pass", what, len(waiting))
                label = self._label(what, sum(len(job.runs) for job in fitted))
                compute_category(fitted, self.reading, label, self.detectors.fingerprint)
                self.failed |= {run: job.error for job in fitted if job.error for run in job.runs}
            if len(self.failed) == len(self.runs):
                break
            how_to_continue(f"the same command goes on after {number} of {len(categories)} categories")
        return self.failed

    def _label(self, what: str, count: int) -> str:
        """`what` in the log, with the number of runs if there are several."""
        return what if len(self.runs) == 1 else f"{what}, {count} runs"

    def _jobs(self, category: str, what: str) -> list[CategoryJob]:
        """The jobs of a category that are not finished, in their order; runs that need the same maps share
        one. Runs without windows share those of whole images of a run with windows."""
        jobs: dict[str, CategoryJob] = {}
        finished = 0
        for run in sorted(self.runs, key=lambda run: run.config.detector.windows.winmode == "nan"):
            if category not in run.split.records or run in self.failed:
                continue
            if run.finished_category(category, self.detectors.fingerprint) is not None:
                finished += 1
                continue
            same = _same_maps(run.key(category, self.detectors.fingerprint), jobs)
            if same in jobs:
                jobs[same].runs.append(run)
            else:
                scorer = self.detectors.of(run)
                own = Scorer(scorer.detector.another(), scorer)
                jobs[same] = CategoryJob.of(run, category, own, self.reading)
        if finished:
            logger.info("%s: finished before.", self._label(what, finished))
        return sorted(jobs.values(), key=lambda job: job.order)

    def _fitted(self, jobs: Sequence[CategoryJob], what: str) -> list[CategoryJob]:
        """The first jobs whose banks fit into the budget, at least one, fitted to their references. Jobs
        share a bank where one begins with another's."""
        taken: list[CategoryJob] = []
        banks: list[CategoryJob] = []
        used = 0  # bytes
        for job in jobs:
            larger = next((one for one in banks if one.begins_with(job)), None)
            if larger is None and banks and used + used // len(banks) > self.budget:
                break
            job.fit(what, larger)
            if larger is None and job.error is None:
                banks.append(job)
                used += job.detector.memories.bytes
            taken.append(job)
        for job in taken:
            job.detector.memories.forget_matched()
        return taken


def _same_maps(key: Mapping[str, Any], jobs: Iterable[str]) -> str:
    """The name of the job that computes the maps of this key: all settings that they depend on. Without
    windows, the name of one of `jobs` with the same maps of whole images, if there is one."""
    windows = key["windows"]
    base = json.dumps({**key, "windows": {"tiles": windows["tiles"]}}, sort_keys=True, default=str)
    if windows["winmode"] != "nan":
        return base + json.dumps({**windows, "winmode": ""}, sort_keys=True)
    return next((name for name in jobs if name.startswith(base)), base)


def compute_category(jobs: Sequence[CategoryJob], reading: Reading, what: str, fingerprint: str) -> None:
    """Scores the images of one category for all fitted jobs, and writes their maps."""
    score_category(jobs, reading, what)
    for job in jobs:
        job.write(fingerprint)
        job.release()


def score_category(jobs: Sequence[CategoryJob], reading: Reading, what: str) -> None:
    """Scores the test and then the validation images of one category for all fitted jobs."""
    _score_together(jobs, [job.tested for job in jobs], reading, what)
    _score_together(jobs, [job.validation for job in jobs], reading, f"{what}, validation images")


def _score_together(
    jobs: Sequence[CategoryJob], images: Sequence[InspectionDataset], reading: Reading, what: str
) -> None:
    """Scores each job's images; those of jobs that have the same are read and encoded once."""
    groups: dict[tuple, list[tuple[CategoryJob, InspectionDataset]]] = {}
    for job, own in zip(jobs, images):
        if job.error is None and len(own):
            groups.setdefault(job.same(own), []).append((job, own))
    for group in groups.values():
        _score_all([job for job, _ in group], group[0][1], reading, what)


def _score_all(jobs: Sequence[CategoryJob], images: InspectionDataset, reading: Reading, what: str) -> None:
    """Scores images for those of the jobs that are not given up."""
    paths = [images.root / record.image_path for record in images.records]
    warn(doubts_of(paths, images.reader.grey))
    pin = jobs[0].detector.backbone.device.type == "cuda"
    loader = make_loader(images, reading.batch_size, worker_count(reading.workers), pin=pin)
    for batch in progress(loader, len(images), what, lambda batch: len(batch["path"])):
        active = [job for job in jobs if job.error is None]
        if not active:
            break
        _score(active, batch)


def _score(jobs: Sequence[CategoryJob], batch: dict) -> None:
    """Scores a batch for all jobs. Cached matches are dropped before a job with another bank."""
    for job, following in zip(jobs, [*jobs[1:], None]):
        job.score(batch)
        if following is None or not job.begins_with(following):
            job.detector.memories.forget_matched()
