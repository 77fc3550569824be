"""Detectors for tests."""

from fdsl.api import AnomalyDetector


def small_detector(configs, **more):
    """One of an untrained backbone of two blocks, at 32 px unless `more` says otherwise."""
    usual = {"image_size": 32, "layers": (1, 3), "pretrained": "none", "device": "cpu", "precision": "fp32"}
    return AnomalyDetector.from_backbone(
        **{"model": "ViT-tiny-test", "model_config": configs, **usual, **more}
    )
