"""From photographs to predictions, with the fitted parts of a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.images import open_image
from data.photographs import Photograph, PhotographReader, each_image, in_batches
from fdsl.prediction import Prediction
from fdsl.references.fitted_references import FittedReferences
from fdsl.scoring import Scorer, fused_scores
from fdsl.thresholds.decision import Decision
from models.features import ScoreMaps
from utils.device import whatever_the_default_device
from utils.errors import ConfigError, DataError
from utils.image_statistics import reason_of_map, statistics_of
from utils.text import one_line
from utils.views import Views


@dataclass(frozen=True)
class Predictor:
    """`image_score`: its kind. `min_area`: of a region that predictions name, in pixels of the photograph."""

    scorer: Scorer
    image_score: str
    reader: PhotographReader
    references: FittedReferences
    decision: Decision
    min_area: int

    def stream(self, images: Iterable[Photograph], batch_size: int) -> Iterator[Prediction]:
        """The predictions of images, one batch at a time; ConfigError for a `batch_size` that is no whole
        number from 1 on."""
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"batch_size is {one_line(batch_size, 40)}; give a whole number from 1 on.")
        opened = (
            (image, self.reader.read(self.reader.plain(image, name := f"images[{place}]"), name))
            for place, image in enumerate(each_image(images)[0])
        )
        for batch in in_batches(opened, batch_size):
            photographs = [photo for _, photo in batch]
            work = self.begin(self.to_batch(photographs), [photo.size for photo in photographs])
            for (image, _), one in zip(batch, work()):
                if isinstance(image, (str, Path)):
                    opens = partial(open_image, image, self.reader.grey)
                    one = replace(one, path=Path(image), opens=opens)
                yield one

    @whatever_the_default_device
    def to_batch(self, photographs: Iterable[Image.Image]) -> Views:
        """RGB photographs -> the input of `begin`; DataError for what are none."""
        try:
            given = list(photographs)
            for one in given:
                one.load()
        except (AttributeError, TypeError, ValueError, OSError):  # no images, or closed or cut off ones
            given = []
        if not given or not all(isinstance(one, Image.Image) and one.mode == "RGB" for one in given):
            raise DataError(f"{one_line(photographs, 60)}: are no RGB photographs; give PIL images")
        return self.scorer.to_batch(given)

    @whatever_the_default_device
    def begin(
        self, batch: Views, sizes: Sequence[tuple[int, int]], names: Sequence[str] = ()
    ) -> Callable[[], list[Prediction]]:
        """A function that gives the predictions of a batch of photographs with these (width, height); a GPU
        works on them from now on. `names`: what errors call them; none: their numbers."""
        self._refuse_other(batch, sizes)
        named = names or [f"photograph {number} of {len(sizes)}" for number in range(1, len(sizes) + 1)]
        raw = self.scorer.begin(batch, named)
        statistics = [statistics_of(image) for image in batch.whole.cpu().numpy()]
        return lambda: self._predictions(raw(), sizes, statistics)

    def reason(self, statistics: np.ndarray, patch_map: np.ndarray) -> str:
        """Why an image of these statistics (11,) and this map (G,G) cannot be judged normal; "" where it
        can."""
        normal = self.decision.map_median(self.scorer.detector.of_distances)
        return self.references.reason(statistics) or reason_of_map(patch_map, normal)

    def _predictions(
        self, found: ScoreMaps, sizes: Sequence[tuple[int, int]], statistics: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """Those of photographs with these score maps, (width, height) and image statistics (11,)."""
        detector, limit = self.scorer.detector, self.decision.threshold
        maps, scores = fused_scores(found, detector.settings, self.image_score)
        heat_scale = self.decision.heat_scale(detector.method.hottest)
        return [
            Prediction(
                score=score,
                threshold=None if limit is None else limit.score,
                size=(width, height),
                maps=found.of(i),
                patch_map=maps[i],
                map_threshold=None if limit is None else limit.pixel_threshold,
                normal_percentile=self.decision.percentile(score),
                reason=self.reason(statistics[i], maps[i]),
                heat_scale=heat_scale,
                min_area=self.min_area,
                statistics=statistics[i],
            )
            for i, ((width, height), score) in enumerate(zip(sizes, map(float, scores)))
        ]

    def _refuse_other(self, batch: object, sizes: object) -> None:
        """DataError for a batch that `to_batch` did not make, and for sizes that are not of its images."""
        detector = self.scorer.detector
        side, tiles = detector.image_size, 0 if detector.layout is None else len(detector.layout)
        wanted = torch.uint8, side, tiles
        if (
            not isinstance(batch, Views)
            or (batch.whole.dtype, batch.whole.shape[-1], batch.tile_count) != wanted
        ):
            raise DataError("the batch is none of to_batch; give what that makes of the photographs")
        given = list(sizes) if isinstance(sizes, Sequence) else []
        if len(given) != len(batch) or not all(isinstance(one, tuple) and len(one) == 2 for one in given):
            raise DataError(f"sizes are not {len(batch)} pairs; give the width and height of each photograph")
