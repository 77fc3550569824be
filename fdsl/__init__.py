"""FDSL in Python: a detector from a few normal images. The same code the commands use.

Three lines make one and use it:

    from fdsl import AnomalyDetector
    detector = AnomalyDetector.from_checkpoint("checkpoints/fdsl/visa.safetensors")
    detector.fit(["good/1.png", "good/2.png"])
    for prediction in detector.predict(["parts/7.png", "parts/8.png"]):
        print(prediction.score, prediction.is_anomalous, prediction.regions)
        prediction.save(f"out/{prediction.path.name}")

`predict` takes paths, PIL images, arrays and tensors.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdsl.api import (
        AnomalyDetector,
        ConfigError,
        DataError,
        ModelError,
        Prediction,
        Threshold,
        build_detector,
    )
    from fdsl.flags.detector_from_flags import detector_from_config
    from fdsl.inspection.regions import Region
    from utils.config import BackboneConfig
    from utils.hot_regions import Box

__all__ = [
    "AnomalyDetector",
    "BackboneConfig",
    "Box",
    "ConfigError",
    "DataError",
    "ModelError",
    "Prediction",
    "Region",
    "Threshold",
    "build_detector",
    "detector_from_config",
]
HOMES = {  # of what is not in fdsl.api
    "BackboneConfig": "utils.config",
    "Box": "utils.hot_regions",
    "Region": "fdsl.inspection.regions",
    "detector_from_config": "fdsl.flags.detector_from_flags",
}


def __getattr__(name: str) -> Any:
    """The interface is loaded, and PyTorch with it, when it is first asked for: commands parse their flags
    before."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES.get(name, "fdsl.api")), name)
