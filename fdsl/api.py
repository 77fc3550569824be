"""`AnomalyDetector`, the Python interface: the same code the commands use."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.grey import find_range
from data.images import open_image
from data.normalised import Normalisation, find_normalisation
from data.photographs import as_photograph, each_image, in_batches
from data.region_of_interest import MaskFolders
from fdsl.config.contradictions import Combined
from fdsl.config.presets import with_preset
from fdsl.config.run_config import LOWEST_RATE, FittedConfig, RunConfig, Threshold
from fdsl.detector_state import (
    NORMALISATION,
    facts_of_references,
    load_detector,
    restored,
    save_detector,
    tensors_of,
    with_masks,
)
from fdsl.factory import build_detector, detector_config, moved_config
from fdsl.prediction import Prediction
from fdsl.references.reference_checks import statistics_of_references, usable_references
from fdsl.references.reference_store import (
    Photograph,
    StoredReference,
    digest_of,
    references_of,
    tensors_of_references,
    to_store,
    without_named,
)
from fdsl.references.rotation import fit_references
from fdsl.references.transductive import encode_test_images, standing_for_all
from fdsl.scoring import Scorer, fused_scores
from fdsl.store.checkpoint import load_checkpoint, warn_of_narrow_training
from fdsl.store.detector_metadata import FORMAT_VERSION, DetectorMetadata
from fdsl.thresholds.leave_one_out import calibration_scores, normal_scores, set_scales
from fdsl.thresholds.threshold import NormalScores, batch_threshold, labelled_threshold, require_both_kinds
from models.backbone import Backbone
from models.detector import Detector
from models.features import CHANNELS, ScoreMaps, fuse
from models.method import Method
from models.methods.registry import DEFAULT, METHODS, WITH_HEADS
from utils.archives import held_in_memory
from utils.config import AUTO, BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError, DataError, ModelError
from utils.grey_range import GreyRange
from utils.image_statistics import PER_IMAGE, reason_of, statistics_of
from utils.numbers import TINY, is_finite
from utils.options import HEADS, options_of, takes_options
from utils.text import as_file, one_line, printable

logger = logging.getLogger("fdsl")

BATCH = 4
HEAT_RATE = 0.01  # pictures without a pixel threshold: what this share of normal images reaches is opaque
USUAL_RATE = 0.5  # and what this share reaches is where heat begins


Function = TypeVar("Function", bound=Callable[..., Any])


def _whatever_the_default_device(function: Function) -> Function:
    """`function` as if nobody had called torch.set_default_device: a detector says where its tensors lie.
    Where nobody has, nothing is done, for that costs 2 us in each call of PyTorch."""

    @wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        if torch.empty(0).device.type == "cpu":
            return function(*args, **named)
        with torch.device("cpu"):
            return function(*args, **named)

    return cast(Function, wrapped)


def _require_rate(rate: float) -> None:
    if not is_finite(rate) or not LOWEST_RATE <= rate < 1:
        raise ConfigError(
            f"false_alarm_rate is {one_line(rate, 40)}, which is not a number between 0 and 1 (from "
            f"{LOWEST_RATE:g} on)."
        )


def _name_of(image: Photograph, number: int) -> str:
    """What messages call the `number`-th of several images."""
    return printable(Path(image).name) if isinstance(image, (str, Path)) else f"image {number}"


def _outlier_sentence(given: Sequence[Photograph], number: int) -> str:
    return (
        f"{_name_of(given[number], number + 1)} scores far above the other references; it may show a defect. "
        "It is ignored for the threshold but stays in the memory bank, so that similar defects will be "
        "missed. Remove it if it is defective."
    )


class AnomalyDetector:
    """Finds defects in photographs of one kind of part, from a few normal images.

    Make one with `from_checkpoint`, `from_backbone` or `load`; `fit` the references; `predict`.
    `threshold` (None: no decision) is set by `fit`, `calibrate`, `set_threshold` or `learn_threshold`.
    Not thread-safe.
    """

    def __init__(self, detector: Detector, config: FittedConfig) -> None:
        self.config = replace(config, fingerprint=detector.backbone.fingerprint)
        self.scorer = Scorer(detector)
        self.masks: MaskFolders | None = None  # of its photographs, where --roi or --ignore names folders
        if detector.roi is None:
            self.masks = MaskFolders.of(config.detector.options, detector.image_size, detector.grid)
        self.threshold: Threshold | None = None
        self.normal: NormalScores | None = None
        self.grey: GreyRange | None = None  # of photographs of more than 8 bits
        self.normalisation: Normalisation | None = None  # of float tensors
        self.statistics = np.empty((0, PER_IMAGE))  # of each reference; photographs are held against them
        self.stored: list[StoredReference] = []  # the references' files, so that others can be added to them
        self.min_area = 1  # of a region that predictions name: pixels of the photograph
        self.reference_sizes: list[tuple[int, int]] = []  # (width, height) of each

    def __repr__(self) -> str:
        made, count, limit = self.config.detector, self.config.references, self.threshold
        what = f"method {made.method}, {made.backbone.model} at {self.image_size} px"
        fitted = f"{count} reference(s) in {self.config.rotations} rotation(s)" if count else "no reference"
        return (
            f"AnomalyDetector, {what}, {fitted}:\n"
            f"  {'no threshold' if limit is None else f'threshold {limit.score:.4g}, {limit.source}'}"
        )

    @classmethod
    @takes_options(BackboneConfig, MethodConfig, WindowConfig)
    @_whatever_the_default_device
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        method: str = WITH_HEADS,
        preset: str | None = None,
        image_score: str = "max",
        device: str = "auto",
        precision: str = "auto",
        **options: Any,
    ) -> AnomalyDetector:
        """A detector with trained heads: a checkpoint of train.py, or one of the published code with the
        backbone named.

        `method`: fdsl (the heads), nearest (training-free distance on the checkpoint's backbone) or both.
        `preset`: as of `from_backbone`.
        Raises ConfigError, ModelError for what does not fit the checkpoint, TypeError for an unknown option.
        """
        checkpoint = load_checkpoint(as_file("checkpoint", path))
        given = with_preset(preset, options)
        made = detector_config(method, given, device, precision, checkpoint)
        config = FittedConfig(made, image_score, str(path), checkpoint.trained_on)
        if METHODS[method].needs_heads:
            warn_of_narrow_training(checkpoint)
        return cls(build_detector(made, checkpoint), config)

    @classmethod
    @takes_options(BackboneConfig, MethodConfig, WindowConfig, but_for=HEADS)
    @_whatever_the_default_device
    def from_backbone(
        cls,
        *,
        method: str = DEFAULT,
        preset: str | None = None,
        image_score: str = "max",
        device: str = "auto",
        precision: str = "auto",
        **options: Any,
    ) -> AnomalyDetector:
        """A detector without training, by default method `plus`.

        `preset`: the short name of a backbone, clip-large, dinov2-small or dinov2-large (docs/methods.md);
        options override it. Without `winmode` it has no local windows. Raises ConfigError and ModelError as
        the commands do, TypeError for an unknown option.
        """
        made = detector_config(method, with_preset(preset, options), device, precision)
        return cls(build_detector(made, None), FittedConfig(made, image_score))

    @property
    def backbone(self) -> Backbone:
        return self.scorer.detector.backbone

    @property
    def method(self) -> Method:
        return self.scorer.detector.method

    @property
    def image_size(self) -> int:
        """The side in pixels that images are resized to."""
        return self.scorer.detector.image_size

    @property
    def grid(self) -> int:
        """Patches along a side of its maps."""
        return self.scorer.detector.side

    @property
    def ready(self) -> bool:
        """Whether it can score: it has references, or needs none."""
        detector = self.scorer.detector
        return detector.memories.whole is not None or not detector.method.needs_references

    @property
    def false_alarm_rate(self) -> float | None:
        """The target false-positive rate for which its own scores of normal images gave its threshold; None
        for any other threshold."""
        return None if self.threshold is None or self.normal is None else self.threshold.rate

    @property
    def trust(self) -> str:
        """How far its threshold is to be trusted; "" where it is not of scores of normal images."""
        return "" if self.normal is None or self.false_alarm_rate is None else self.normal.trust

    @_whatever_the_default_device
    def another(self) -> AnomalyDetector:
        """A copy of this detector that changes by itself from now on; they share the
        backbone's weights."""
        other = copy.copy(self)
        other.scorer = Scorer(self.scorer.detector.copied())
        return other

    def restrict(self, mask: np.ndarray, name: str = "a mask") -> None:
        """From now on patches count where `mask` is 255, by area, as with --roi; call `fit` then.

        `mask` (S,S) uint8 with S the `image_size`; `name`: what reports call it. ConfigError for another mask
        or for settings that know no region of interest, ModelError where it leaves no patch.
        """
        detector = self.scorer.detector
        shape, kind = getattr(mask, "shape", None), getattr(mask, "dtype", type(mask).__name__)
        if shape != (self.image_size,) * 2 or kind != np.uint8:
            raise ConfigError(f"mask is {shape} {kind}; give ({self.image_size},) * 2 uint8.")
        options = replace(self.config.detector.options, roi=name, ignore=None)
        config = replace(self.config, detector=replace(self.config.detector, options=options))
        detector.restrict(torch.from_numpy(mask.copy()))
        self.config, detector.method.options, self.masks = config, options, None

    @_whatever_the_default_device
    def fit(
        self,
        references: Photograph | Iterable[Photograph] = (),
        *,
        rotations: int | str | None = None,
        false_alarm_rate: float | None = 0.01,
        test_images: Photograph | Iterable[Photograph] = (),
    ) -> None:
        """Fits the memory bank to references; what it held before is forgotten.

        `references`: a folder, or one or more photographs as `predict` takes them. `rotations`: copies of
        each, rotated by 360/rotations degrees, itself among them; "auto": see fdsl/references/rotation.py;
        None: auto for `plus`, else 1. Take 1 where a wrong orientation is a defect. `false_alarm_rate`:
        target false-positive rate of the threshold, which comes from the references alone (better:
        `calibrate` with normal images); None: no threshold, sooner done. `test_images`: for method batch and
        `with_batch`, the test images, two or more; of many, 200 are drawn. Near copies count
        once, and a reference that shows no part is left out, with a warning. Raises DataError, ModelError.
        """
        if false_alarm_rate is not None:
            _require_rate(false_alarm_rate)
        if rotations is None:
            rotations = self.method.rotations
        options_of(RunConfig)["rotations"].refuse(rotations)
        given = list(each_image(references, "references")[0])
        tested = standing_for_all(list(each_image(test_images, "test_images")[0]))
        normalisation = find_normalisation(given or tested)
        if normalisation is not None:
            given, tested = ([normalisation.plain(one) for one in images] for images in (given, tested))
        grey = find_range(given or tested, self.config.detector.options.grey_range)
        given, photographs, files = self._usable(given, grey)
        if not photographs and self.scorer.detector.method.needs_references:
            raise DataError("references: there is no photograph; give at least one normal image")
        made = self.config.detector
        Combined(made.method, made.options, made.windows, len(photographs)).refuse()
        self.threshold = self.normal = None
        self.reference_sizes, self.grey = [photo.size for photo in photographs], grey
        self.normalisation = normalisation
        self.statistics = statistics_of_references(photographs, self.image_size)
        self.stored = files
        self.config = replace(self.config, references=len(photographs), rotations=1)
        if self.scorer.detector.is_transductive:
            seen = (self._photograph(image, grey, "a test image") for image in tested)
            encode_test_images(self.scorer, seen, len(tested))
        if not photographs:
            return
        with self.scorer.detector.encoding_once():
            rotations = fit_references(self.scorer, photographs, rotations)
            self.config = replace(self.config, rotations=rotations)
            set_scales(self.scorer, photographs, rotations)
            if false_alarm_rate is not None:
                self.normal = normal_scores(self.scorer, photographs, rotations, self.config.image_score)
        if self.normal is not None and false_alarm_rate is not None:
            if self.normal.outlier is not None:
                logger.warning("warning: %s", _outlier_sentence(given, self.normal.outlier))
            self.calibrate(false_alarm_rate)

    def _plain(self, image: Photograph, name: str) -> Photograph:
        """One image; a tensor that was normalised as the references were is given before that."""
        return image if self.normalisation is None else self.normalisation.plain(image, name)

    def _photograph(self, image: Photograph, grey: GreyRange | None, name: str) -> Image.Image:
        """One image as an upright RGB photograph, with its own mask where there are some; DataError, which
        calls it by its `name`."""
        photo = as_photograph(image, grey, name)
        if self.masks is None:
            return photo
        if not isinstance(image, (str, Path)):
            raise DataError(f"{name} has no path, by which its mask in {self.masks} is found; give paths")
        return self.masks.on(photo, image)

    def _usable(
        self, given: Sequence[Photograph], grey: GreyRange | None
    ) -> tuple[list[Photograph], list[Image.Image], list[StoredReference]]:
        """The references that count (fdsl/references/reference_checks.py): as given, as RGB photographs and
        as files."""
        photographs = [
            self._photograph(image, grey, f"references[{place}]") for place, image in enumerate(given)
        ]
        names = [_name_of(image, number) for number, image in enumerate(given, start=1)]
        usable, files = (usable_references(photographs, names, self.image_size), to_store(given, self.stored))
        if len(usable) < len(given):
            digests = {digest_of(given[place], place + 1) for place in usable}
            files = [one for one in files if one.digest in digests]
        return [given[place] for place in usable], [photographs[place] for place in usable], files

    def _reason(self, statistics: np.ndarray) -> str:
        """Why a photograph of these statistics cannot be judged; "" where it can, or there are no
        references."""
        return reason_of(statistics, self.statistics) if len(self.statistics) else ""

    def add_references(
        self, references: Photograph | Iterable[Photograph], *, false_alarm_rate: float | str | None = AUTO
    ) -> None:
        """Adds references to those it has, as if all had been given at once.

        `false_alarm_rate`: as in `fit`; "auto": the rate that its threshold was made for, or, where the
        threshold was given or calibrated on labels or a batch, this threshold. Raises as `fit`, and
        ConfigError for a detector that does not carry its references.
        """
        self._require_stored()
        more = [self._plain(one, "a reference") for one in each_image(references, "references")[0]]
        self._refit(self.stored, more, false_alarm_rate)

    def forget(self, *names: str, false_alarm_rate: float | str | None = AUTO) -> None:
        """Takes references out, by their names or digests (`stored`), as if they had never been given.
        `false_alarm_rate` and errors as in `add_references`; ConfigError for a name that none has, or
        several."""
        self._require_stored()
        self._refit(without_named(self.stored, names), [], false_alarm_rate)

    def _require_stored(self) -> None:
        if not self.stored:
            raise ConfigError(
                "This detector does not carry its references, so none can be added or taken out; make it "
                "anew from their photographs."
            )
        if self.scorer.detector.is_transductive:
            raise ConfigError(
                "This detector compares test images with each other: make it anew from its "
                "references and theirs."
            )

    def _refit(
        self, references: Sequence[StoredReference], more: Sequence[Photograph], rate: float | str | None
    ) -> None:
        """Fits these references and more; nothing has changed where that fails."""
        if isinstance(rate, str) and rate != AUTO:
            raise ConfigError(f"false_alarm_rate is {one_line(rate, 40)}: give a number, None or {AUTO}.")
        before, other, chosen = self.stored, self.another(), self.threshold
        own = self.false_alarm_rate
        usual = None if self.normal is None else 0.01
        wanted = (own or usual) if isinstance(rate, str) else rate
        with held_in_memory([(one.name, one.content) for one in references]) as files:
            other.fit([*files, *more], rotations=self.config.rotations, false_alarm_rate=wanted)
        other.normalisation = self.normalisation or other.normalisation
        if isinstance(rate, str) and own is None:
            other.threshold = chosen
        elif self.normal is not None and self.normal.is_calibrated and wanted is not None:
            logger.warning(
                "warning: the calibration was of the references before; the threshold now comes from the "
                "references alone: give the calibration images again."
            )
        names = {one.digest: one for one in (*before, *to_store(more))}
        other.stored = [names.get(one.digest, one) for one in other.stored]
        self.__dict__.update(other.__dict__)

    def calibrate(
        self, false_alarm_rate: float, images: Photograph | Iterable[Photograph] | None = None
    ) -> None:
        """Sets the threshold for a target false-positive rate.

        `images`: calibration images, normal ones that are no references, of which a rate of 1 / (n + 1) takes
        n; the threshold is their conformal quantile (fdsl/thresholds/threshold.py). None: from the scores
        that are known, of earlier calibration images or of the references. Raises ConfigError for a rate
        outside 0 to 1, or where no scores are known; DataError where no image can be judged.
        """
        _require_rate(false_alarm_rate)
        if images is not None:
            plain = [self._plain(one, "a calibration image") for one in each_image(images)[0]]
            self.normal = self._calibration_scores(plain)
        if self.normal is None:
            raise ConfigError(
                "No scores of normal images are known, so no false-positive rate can be aimed at: give "
                "calibration images, fit the references with a rate, or set a threshold."
            )
        self.threshold = self.normal.threshold(false_alarm_rate)

    def _calibration_scores(self, images: Sequence[Photograph]) -> NormalScores:
        """Scores of calibration images, each once; references, and those that cannot be judged, are left out
        with a warning."""
        digests, once = {one.digest for one in self.stored}, dict[str, Photograph]()
        for number, image in enumerate(images, start=1):
            digest = digest_of(image, number)
            if digest in digests:
                name = _name_of(image, number)
                logger.warning("warning: %s is a reference, and is left out of the calibration", name)
            else:
                once.setdefault(digest, image)
        images = list(once.values())
        photographs = [self._photograph(image, self.grey, "a calibration image") for image in images]
        reasons = [self._reason(one) for one in statistics_of_references(photographs, self.image_size)]
        for number, (image, reason) in enumerate(zip(images, reasons), start=1):
            if reason:
                name = _name_of(image, number)
                logger.warning("warning: %s is left out of the calibration: %s", name, reason)
        usable = [photo for photo, reason in zip(photographs, reasons) if not reason]
        if not usable:
            raise DataError("no calibration image shows what the references show; give some")
        return calibration_scores(self.scorer, usable, len(usable), self.config.image_score)

    def set_threshold(self, score: float) -> None:
        """Calls a photograph anomalous from this score on; ConfigError unless it is a finite number."""
        if not is_finite(score):
            raise ConfigError(f"score is {one_line(score, 40)}, which is not a finite number.")
        self.threshold = Threshold(float(score), None, "given")

    def learn_threshold(self, images: Iterable[Photograph], labels: Sequence[bool]) -> None:
        """Sets the threshold with the best F1 on labelled photographs (True: anomalous); see
        `labelled_threshold`."""
        if not isinstance(labels, Iterable):
            raise ConfigError(
                f"labels are a {type(labels).__name__}; give True or False for each photograph."
            )
        try:
            labels = list(labels)
            known = all(label in (True, False) for label in labels)
        except (TypeError, ValueError, RuntimeError):  # an array's or tensor's, which is no list of truths
            known = False
        if not known:
            raise ConfigError("labels hold what is neither True nor False; give True where it is anomalous.")
        require_both_kinds(labels)
        scores = np.array([one.score for one in self.stream(images)])
        if len(scores) != len(labels):
            raise ConfigError(f"There are {len(scores)} labelled photographs but {len(labels)} labels.")
        self.threshold = labelled_threshold(scores, np.asarray(labels, bool))

    def learn_threshold_from_batch(
        self, images: Photograph | Iterable[Photograph] | Sequence[Prediction], false_alarm_rate: float = 0.01
    ) -> None:
        """Sets the threshold from the bulk of the input images, of which most are to be normal; of many, 200
        are drawn. Their predictions, where they are there already, are taken as they are. See
        `batch_threshold`. ConfigError for a rate outside 0 to 1 or too few photographs."""
        _require_rate(false_alarm_rate)
        if isinstance(images, list) and all(isinstance(one, Prediction) for one in images):
            found = images
        else:
            found = list(self.stream(standing_for_all(list(each_image(images)[0]))))
        scores = np.array([one.score for one in found])
        peaks = np.array([one.patch_map.max() for one in found], np.float64)
        self.threshold = batch_threshold(scores, peaks, false_alarm_rate)

    @property
    def heat_scale(self) -> tuple[float, float]:
        """The map values from which on pictures show heat, and show it opaque: what the map of every other
        normal image reaches, and the pixel threshold. Where one is not known it is made up from the other, or
        from what the method's maps reach."""
        normal, limit = self.normal, self.threshold
        high = limit.pixel_threshold if limit is not None and limit.pixel_threshold is not None else None
        if high is None:
            high = self.method.hottest / 2 if normal is None else normal.pixel_threshold(HEAT_RATE)
        low = high / 2 if normal is None else normal.pixel_threshold(USUAL_RATE)
        return min(low, high / 2) if low >= high else low, max(high, TINY)

    def predict(
        self, images: Photograph | Iterable[Photograph], batch_size: int = BATCH
    ) -> Prediction | list[Prediction]:
        """What is wrong with each photograph: one Prediction for one, a list for several (or a folder).

        Takes paths, PIL images, arrays (H,W,3) uint8 RGB, tensors (3,H,W) uint8 or float, in [0,1] or
        normalised as the references were, stacks of them, or any iterable. Raises DataError for what is no
        photograph, ModelError before `fit`.
        """
        items, single = each_image(images)
        predictions = list(self.stream(items, batch_size))
        return predictions[0] if single else predictions

    def stream(self, images: Iterable[Photograph], batch_size: int = BATCH) -> Iterator[Prediction]:
        """`predict` for any number of photographs: yields as it goes and holds one batch at a time.
        ConfigError for a `batch_size` that is no whole number from 1 on."""
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size is {one_line(batch_size, 40)}; give a whole number from 1 on.")
        opened = (
            (image, self._photograph(self._plain(image, f"images[{place}]"), self.grey, f"images[{place}]"))
            for place, image in enumerate(each_image(images)[0])
        )
        for batch in in_batches(opened, batch_size):
            photographs = [photo for _, photo in batch]
            predictions = self.predict_batch(
                self.to_batch(photographs), [photo.size for photo in photographs]
            )
            for (image, _), one in zip(batch, predictions):
                if isinstance(image, (str, Path)):
                    opens = partial(open_image, image, self.grey)
                    one = replace(one, path=Path(image), opens=opens)
                yield one

    @_whatever_the_default_device
    def to_batch(self, photographs: Iterable[Image.Image]) -> Tensor:
        """RGB photographs -> (B,3,S,S) uint8, resized; with tiles (B,1+T,3,S,S); their own masks are a fourth
        channel."""
        return self.scorer.to_batch(photographs)

    @_whatever_the_default_device
    def predict_batch(
        self, batch: Tensor, sizes: Sequence[tuple[int, int]], names: Sequence[str] = ()
    ) -> list[Prediction]:
        """Predictions for a batch (B,3,S,S) of `to_batch`; `sizes` are the photographs' (width, height).

        `names`: what errors call the photographs. Raises ModelError for a map that is not finite.
        """
        return self.begin_batch(batch, sizes, names)()

    @_whatever_the_default_device
    def begin_batch(
        self, batch: Tensor, sizes: Sequence[tuple[int, int]], names: Sequence[str] = ()
    ) -> Callable[[], list[Prediction]]:
        """What gives the predictions of `predict_batch` once they are asked for; a GPU works on them from now
        on. It raises the ModelError."""
        named = names or [f"photograph {number} of {len(sizes)}" for number in range(1, len(sizes) + 1)]
        raw = self.scorer.begin(batch, named)
        whole = (batch if batch.dim() == 4 else batch[:, 0]).cpu().numpy()
        statistics = [statistics_of(image[:CHANNELS]) for image in whole]
        return lambda: self._predictions(raw(), sizes, statistics)

    def _predictions(
        self, raw: ScoreMaps, sizes: Sequence[tuple[int, int]], statistics: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """Those of photographs with these score maps, (width, height) and image statistics (10,)."""
        maps, scores = fused_scores(raw, self.scorer.detector.settings, self.config.image_score)
        limit, scale = self.threshold, self.heat_scale
        return [
            Prediction(
                score=score,
                threshold=None if limit is None else limit.score,
                size=(width, height),
                maps=raw.of(i),
                patch_map=maps[i],
                map_threshold=None if limit is None else limit.pixel_threshold,
                normal_percentile=None if self.normal is None else self.normal.percentile(score),
                reason=self._reason(statistics[i]),
                heat_scale=scale,
                min_area=self.min_area,
                statistics=statistics[i],
            )
            for i, ((width, height), score) in enumerate(zip(sizes, map(float, scores)))
        ]

    def fuse(self, base: np.ndarray, window: np.ndarray | None) -> np.ndarray:
        """Maps or scores of the whole image and of the windows -> the detector's own."""
        return fuse(base, window, self.scorer.detector.settings)

    def save(self, file: str | Path) -> None:
        """Writes memory bank, heads, threshold and configuration to one safetensors file, whole or not at
        all.

        Raises ModelError before `fit`, ConfigError for what is no file's name, OSError where it cannot
        be written.
        """
        path = as_file("detector", file)
        if not self.ready:
            raise ModelError("The detector has no references yet: call fit() before save().")
        references = tuple(one.facts for one in self.stored)
        save_detector(
            path, self.tensors(), DetectorMetadata(FORMAT_VERSION, self.config, self.threshold, references)
        )

    @_whatever_the_default_device
    def tensors(self) -> dict[str, Tensor]:
        """Everything that was fitted: `heads.*`, `bank.*`, `window_bank.*`, `tile_bank.*`, `normal.*` for
        thresholds, and the references' sizes."""
        fitted = tensors_of(
            self.scorer.detector, self.normal, self.reference_sizes, self.statistics, self.grey
        )
        if self.normalisation is not None:
            fitted[NORMALISATION] = torch.tensor(astuple(self.normalisation), dtype=torch.float64)
        return fitted | tensors_of_references(self.stored)

    @classmethod
    @_whatever_the_default_device
    def load(
        cls,
        file: str | Path,
        *,
        pretrained: str | None = None,
        model_config: str | None = None,
        device: str = "auto",
        precision: str | None = None,
        roi: str | Path | None = None,
        ignore: str | Path | None = None,
    ) -> AnomalyDetector:
        """The detector that `save` wrote; on the same machine it gives the same scores to the last bit.

        `pretrained` and `model_config` say where the backbone's files lie now; `roi` and `ignore` where the
        masks of the photographs lie, of a detector that was fitted with folders of them. Raises ModelError
        for another backbone, ConfigError for another precision or a file that `save` did not write.
        """
        tensors, stored = load_detector(as_file("detector", file))
        config = moved_config(stored.fitted, file, pretrained, model_config, device, precision)
        config = with_masks(config, file, tensors, roi, ignore)
        detector, normal = restored(file, config, tensors)
        self = cls(detector, config)
        self.threshold, self.normal = stored.threshold, normal
        self.reference_sizes, self.statistics, self.grey = facts_of_references(tensors)
        if NORMALISATION in tensors:
            self.normalisation = Normalisation(*(tuple(one) for one in tensors[NORMALISATION].tolist()))
        self.stored = references_of(stored.reference_files, tensors)
        return self
