"""The prior of thresholds: the difference of new normal images to left-out references, on other products.

`python benchmarks/thresholds.py` prints these numbers. docs/measurements.md has the command, and the results
on products that they were not measured on.
"""

from __future__ import annotations

from dataclasses import replace

from fdsl.thresholds.threshold import Prior
from models.detector import Detector
from utils.config import MethodConfig

# (method, whether the references are rotated) -> from so many references on, up to twice as many (exclusive)
PRIORS: dict[tuple[str, bool], dict[int, Prior]] = {
    ("plus", True): {
        1: Prior(0.17, 0.15, 0.29, 0.31),
        2: Prior(0.08, 0.10, 0.17, 0.22),
        4: Prior(-0.05, 0.10, -0.10, 0.21),
    },
    ("plus", False): {2: Prior(0.03, 0.15, 0.12, 0.30)},
}


def prior_of(detector: Detector, image_score: str, references: int, rotations: int) -> Prior | None:
    """The prior for that number of references; None where nothing was measured: with another image score,
    local windows, text or mutual scoring, or without one of the method's components."""
    # These do not change how far normal images differ from each other.
    options = replace(detector.method.options, grey_range=None, roi=None, ignore=None)
    if image_score != "max" or detector.windows is not None or options != MethodConfig(options.use_nam):
        return None
    priors = PRIORS.get((detector.method.name, rotations > 1), {})
    return next((prior for count, prior in priors.items() if count <= references < 2 * count), None)
