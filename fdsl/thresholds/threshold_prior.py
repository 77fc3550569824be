"""How far new normal images lie above what references score when left out, measured on other products.

The numbers are what `python benchmarks/thresholds.py` prints (docs/measurements.md has the command and how
they hold on products that they were not measured on).
"""

from __future__ import annotations

from fdsl.thresholds.threshold import Prior
from models.detector import Detector
from utils.config import MethodConfig

# (method, whether the references are rotated) -> for so many references, and for more, short of twice as many
PRIORS: dict[tuple[str, bool], dict[int, Prior]] = {
    ("plus", True): {
        1: Prior(0.17, 0.15, 0.29, 0.31),
        2: Prior(0.08, 0.10, 0.17, 0.22),
        4: Prior(-0.05, 0.10, -0.10, 0.21),
    },
    ("plus", False): {2: Prior(0.03, 0.15, 0.12, 0.30)},
}


def prior_of(detector: Detector, image_score: str, references: int, rotations: int) -> Prior | None:
    """What was measured for as many references; None where nothing was, and for a detector whose scores are
    of another kind: another image score, through windows, with text or mutual scoring, or without one of the
    method's components."""
    options = detector.method.options
    if image_score != "max" or detector.windows is not None or options != MethodConfig(options.use_nam):
        return None
    priors = PRIORS.get((detector.method.name, rotations > 1), {})
    return next((prior for count, prior in priors.items() if count <= references < 2 * count), None)
