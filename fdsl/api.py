"""`AnomalyDetector`, the Python interface: the same code the commands use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.photographs import Photograph, PhotographReader, each_image
from data.region_of_interest import MaskFolders, checked_roi
from fdsl.config.contradictions import Combined
from fdsl.config.presets import with_preset
from fdsl.config.resolve import takes_options
from fdsl.config.run_config import FittedConfig, RunConfig, Threshold
from fdsl.detector_state import (
    load_detector,
    reader_of,
    references_of,
    restored,
    save_detector,
    tensors_of,
    with_masks,
)
from fdsl.factory import build_detector, detector_config, moved_config
from fdsl.inspection.predictor import Predictor
from fdsl.prediction import Prediction, threshold_of_bulk
from fdsl.references.fitted_references import FittedReferences, take_references
from fdsl.references.reference_store import StoredReference, without_named
from fdsl.references.rotation import fit_references
from fdsl.references.transductive import encode_test_images, sample_of
from fdsl.scoring import Scorer
from fdsl.store.checkpoint import load_checkpoint, warn_of_narrow_training
from fdsl.store.detector_metadata import FORMAT_VERSION, DetectorMetadata
from fdsl.thresholds.decision import USUAL_RATE, Decision, checked_labels, require_rate
from fdsl.thresholds.leave_one_out import calibration_scores, normal_scores, set_scales
from fdsl.thresholds.threshold import labelled_threshold
from models.backbone import Backbone
from models.detector import Detector
from models.method import Method
from models.methods.registry import DEFAULT, METHODS, WITH_HEADS
from utils.config import AUTO
from utils.device import whatever_the_default_device
from utils.errors import ConfigError, DataError, ModelError
from utils.numbers import is_finite
from utils.options import HEADS, options_of
from utils.sources import held_in_memory
from utils.text import as_file, one_line
from utils.views import Views

BATCH = 4


class AnomalyDetector:
    """Finds defects in photographs of one kind of part, from a few normal images.

    Make one with `from_checkpoint`, `from_backbone` or `load`; `fit` the references; `predict`.
    `threshold` (None: no decision) is set by `fit`, `calibrate`, `set_threshold` or `learn_threshold`.
    Not thread-safe. Its parts are immutable and are replaced: `reader` reads photographs as the references
    were read, `references` is what it keeps of these, `decision` is what it decides by.
    """

    def __init__(self, detector: Detector, config: FittedConfig) -> None:
        self.config = replace(config, fingerprint=detector.backbone.fingerprint)
        self.scorer = Scorer(detector)
        masks = None
        if detector.counted.roi is None:
            masks = MaskFolders.of(config.detector.options, detector.image_size, detector.grid)
        self.reader = PhotographReader(masks=masks)
        self.references = FittedReferences()
        self.decision = Decision()
        self.min_area = 1  # of a region that predictions name: pixels of the photograph

    def __repr__(self) -> str:
        made, count, limit = self.config.detector, self.config.references, self.threshold
        what = f"method {made.method}, {made.backbone.model} at {self.image_size} px"
        fitted = f"{count} reference(s) in {self.config.rotations} rotation(s)" if count else "no reference"
        return (
            f"AnomalyDetector, {what}, {fitted}:\n"
            f"  {'no threshold' if limit is None else f'threshold {limit.score:.4g}, {limit.source}'}"
        )

    @classmethod
    @takes_options()
    @whatever_the_default_device
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
    @takes_options(but_for=HEADS)
    @whatever_the_default_device
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
    def takes_test_images(self) -> bool:
        """Whether it compares test images with each other, which `fit` needs then."""
        return self.scorer.detector.takes_test_images

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
    def threshold(self) -> Threshold | None:
        """From which scores on an image and a patch are anomalous; None: nothing is decided."""
        return self.decision.threshold

    @threshold.setter
    def threshold(self, threshold: Threshold | None) -> None:
        self.decision = replace(self.decision, threshold=threshold)

    @property
    def heat_scale(self) -> tuple[float, float]:
        """The map values from which on pictures show heat, and show it opaque."""
        return self.decision.heat_scale(self.method.hottest)

    @property
    def stored(self) -> list[StoredReference]:
        """The references' files, so that others can be added to them."""
        return self.references.stored

    @whatever_the_default_device
    def another(self) -> AnomalyDetector:
        """A copy of this detector that changes by itself from now on; they share the backbone's weights."""
        other = copy.copy(self)
        other.scorer = Scorer(self.scorer.detector.copied())
        return other

    def restrict(self, mask: np.ndarray, name: str = "a mask") -> None:
        """From now on patches count where `mask` is 255, by area, as with --roi; call `fit` then.

        `mask` (S,S) uint8 with S the `image_size`; `name`: what reports call it. ConfigError for another mask
        or for settings that know no region of interest, ModelError where it leaves no patch.
        """
        roi = torch.from_numpy(checked_roi(mask, self.image_size))
        options = replace(self.config.detector.options, roi=name, ignore=None)
        config = replace(self.config, detector=replace(self.config.detector, options=options))
        self.scorer.detector.restrict(roi)
        self.config, self.method.options = config, options
        self.reader = replace(self.reader, masks=None)

    @whatever_the_default_device
    def fit(
        self,
        references: Photograph | Iterable[Photograph] = (),
        *,
        rotations: int | str | None = None,
        false_alarm_rate: float | None = USUAL_RATE,
        test_images: Photograph | Iterable[Photograph] = (),
    ) -> None:
        """Fits the memory bank to references; what it held before is forgotten.

        `references`: a folder, or one or more photographs as `predict` takes them, in any order. `rotations`:
        copies of each, rotated by 360/rotations degrees, itself among them; "auto": see
        fdsl/references/rotation.py; None: auto for `plus`, else 1. Take 1 where a wrong orientation is a
        defect. `false_alarm_rate`: target false-positive rate of the threshold, which comes from the
        references alone (better: `calibrate` with normal images); None: no threshold, sooner done.
        `test_images`: for method batch and `with_batch`, the test images, two or more; of many, 200 are
        sampled. Near copies count once, and a reference that shows no part is left out, with a warning.
        Raises DataError, ModelError.
        """
        if false_alarm_rate is not None:
            require_rate(false_alarm_rate)
        if rotations is None:
            rotations = self.method.rotations
        options_of(RunConfig)["rotations"].refuse(rotations)
        detector, made = self.scorer.detector, self.config.detector
        given = list(each_image(references, "references")[0])
        tested = sample_of(list(each_image(test_images, "test_images")[0]))
        reader = self.reader.suited_to(given or tested, made.options.grey_range)
        given, tested = (list(map(reader.plain, images)) for images in (given, tested))
        fitted, photographs, names = take_references(given, reader, self.image_size, self.stored)
        if not photographs and self.method.needs_references:
            raise DataError("references: there is no photograph; give at least one normal image")
        Combined(made.method, made.options, made.windows, len(photographs)).refuse()
        self.reader, self.references, self.decision = reader, fitted, Decision()
        chosen = rotations == AUTO
        self.config = replace(self.config, references=len(photographs), rotations=1, rotations_chosen=chosen)
        if self.takes_test_images:
            seen = (reader.read(image, "a test image") for image in tested)
            encode_test_images(self.scorer, seen, len(tested))
        if not photographs:
            return
        with detector.encoding_once():
            rotations = fit_references(self.scorer, photographs, rotations)
            self.config = replace(self.config, rotations=rotations)
            set_scales(self.scorer, photographs, rotations)
            if false_alarm_rate is None:
                return
            normal = normal_scores(self.scorer, photographs, rotations, self.config.image_score)
        self.decision = Decision.of_references(normal, names, false_alarm_rate)

    def add_references(
        self, references: Photograph | Iterable[Photograph], *, false_alarm_rate: float | str | None = AUTO
    ) -> None:
        """Adds references to those it has, as if all had been given at once.

        `false_alarm_rate`: as in `fit`; "auto": the rate that its threshold was made for, or, where the
        threshold was given or calibrated on labels or a batch, this threshold. Raises as `fit`, and
        ConfigError for a detector that does not carry its references.
        """
        self._refit((), each_image(references, "references")[0], false_alarm_rate)

    def forget(self, *names: str, false_alarm_rate: float | str | None = AUTO) -> None:
        """Takes references out, by their names or digests (`stored`), as if they had never been given.
        `false_alarm_rate` and errors as in `add_references`; ConfigError for a name that none has, or
        several."""
        self._refit(names, (), false_alarm_rate)

    def _refit(self, names: Sequence[str], more: Iterable[Photograph], rate: float | str | None) -> None:
        """Fits its references but for these names, and more; nothing has changed where that fails."""
        if self.takes_test_images:
            what = "This detector compares test images with each other"
            raise ConfigError(f"{what}: make it anew from its references and theirs.")
        kept = without_named(self.stored, names)
        plain = [self.reader.plain(one, "a reference") for one in more]
        wanted, other = self.decision.rate_of_refit(rate), self.another()
        rotations = AUTO if self.config.rotations_chosen else self.config.rotations
        with held_in_memory([(one.name, one.content) for one in kept]) as files:
            other.fit([*files, *plain], rotations=rotations, false_alarm_rate=wanted)
        normalisation = self.reader.normalisation or other.reader.normalisation
        other.reader = replace(other.reader, normalisation=normalisation)
        other.decision = self.decision.refitted(other.decision, rate)
        vars(self).update(vars(other))

    def calibrate(
        self, false_alarm_rate: float, images: Photograph | Iterable[Photograph] | None = None
    ) -> None:
        """Sets the threshold for a target false-positive rate.

        `images`: calibration images, normal ones that are no references, of which a rate of 1 / (n + 1) takes
        n; the threshold is their conformal quantile (fdsl/thresholds/threshold.py). None: from the scores
        that are known, of earlier calibration images or of the references. Raises ConfigError for a rate
        outside 0 to 1, or where no scores are known; DataError where no image can be judged.
        """
        require_rate(false_alarm_rate)
        decision = self.decision
        if images is not None:
            usable = self.references.calibration_images(each_image(images)[0], self.reader, self.image_size)
            normal = calibration_scores(self.scorer, usable, len(usable), self.config.image_score)
            decision = Decision(normal=normal)
        self.decision = decision.at(false_alarm_rate)

    def set_threshold(self, score: float) -> None:
        """Calls a photograph anomalous from this score on; ConfigError unless it is a finite number."""
        if not is_finite(score):
            raise ConfigError(f"score is {one_line(score, 40)}, which is not a finite number.")
        self.threshold = Threshold(float(score), None, "given")

    def learn_threshold(self, images: Iterable[Photograph], labels: Sequence[bool]) -> None:
        """Sets the threshold with the best F1 on labelled photographs (True: anomalous); see
        `labelled_threshold`."""
        checked = checked_labels(labels)
        scores = np.array([one.score for one in self.stream(images)])
        if len(scores) != len(checked):
            raise ConfigError(f"There are {len(scores)} labelled photographs but {len(checked)} labels.")
        self.threshold = labelled_threshold(scores, checked)

    def learn_threshold_from_batch(
        self, images: Photograph | Iterable[Photograph], false_alarm_rate: float = USUAL_RATE
    ) -> None:
        """Sets the threshold from the bulk of the input images, of which most are to be normal; of many, 200
        are sampled. See `batch_threshold`. ConfigError for a rate outside 0 to 1 or too few photographs."""
        require_rate(false_alarm_rate)
        sample = sample_of(list(each_image(images)[0]))
        self.threshold = threshold_of_bulk(list(self.stream(sample)), false_alarm_rate)

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
        return self._predictor.stream(images, batch_size)

    def to_batch(self, photographs: Iterable[Image.Image]) -> Views:
        """RGB photographs as the detector takes them, resized, with their tiles and masks where there are
        some. DataError for what are none."""
        return self._predictor.to_batch(photographs)

    def begin_batch(
        self, batch: Views, sizes: Sequence[tuple[int, int]], names: Sequence[str] = ()
    ) -> Callable[[], list[Prediction]]:
        """A function that gives the predictions of a batch of `to_batch`; a GPU works on them from now on.

        `sizes`: the photographs' (width, height). `names`: what errors call them. The function raises
        ModelError for a map that is not finite. DataError for a batch or sizes of another kind.
        """
        return self._predictor.begin(batch, sizes, names)

    def reason(self, prediction: Prediction) -> str:
        """Why the image of a prediction cannot be judged normal, by the references and the scores of normal
        images as they are now; "" where it can."""
        statistics = prediction.statistics
        return "" if statistics is None else self._predictor.reason(statistics, prediction.patch_map)

    @property
    def _predictor(self) -> Predictor:
        fitted = self.reader, self.references, self.decision
        return Predictor(self.scorer, self.config.image_score, *fitted, self.min_area)

    def save(self, file: str | Path) -> None:
        """Writes memory bank, heads, threshold and configuration to one safetensors file, whole or not at
        all. Raises ModelError before `fit`, ConfigError for what is no file's name, OSError where it cannot
        be written."""
        path = as_file("detector", file)
        if not self.ready:
            raise ModelError("The detector has no references yet: call fit() before save().")
        stored = tuple(one.facts for one in self.stored)
        metadata = DetectorMetadata(FORMAT_VERSION, self.config, self.threshold, stored)
        save_detector(path, self.tensors(), metadata)

    @whatever_the_default_device
    def tensors(self) -> dict[str, Tensor]:
        """Everything that was fitted, by the names that a saved detector has it under (docs/design.md)."""
        return tensors_of(self.scorer.detector, self.reader, self.references, self.decision.normal)

    @classmethod
    @whatever_the_default_device
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
        self.reader = reader_of(tensors, self.reader.masks)
        self.references = references_of(tensors, stored.reference_files)
        self.decision = Decision(stored.threshold, normal)
        return self
