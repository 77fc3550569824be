"""FDSL in Python: a detector from a few photographs of good parts. The same code the commands use.

Three lines make one and use it:

    from fdsl import AnomalyDetector
    detector = AnomalyDetector.from_checkpoint("checkpoints/fdsl/visa.safetensors")
    detector.fit(["good/1.png", "good/2.png"])
    for found in detector.predict(["parts/7.png", "parts/8.png"]):
        print(found.score, found.is_anomalous, found.boxes)

`predict` takes paths, PIL images, arrays and tensors.
"""

from fdsl.api import (
    AnomalyDetector,
    BackboneConfig,
    Box,
    ConfigError,
    DataError,
    ModelError,
    Prediction,
    Threshold,
    WindowConfig,
    build_detector,
)

__all__ = [
    "AnomalyDetector",
    "BackboneConfig",
    "Box",
    "ConfigError",
    "DataError",
    "ModelError",
    "Prediction",
    "Threshold",
    "WindowConfig",
    "build_detector",
]
