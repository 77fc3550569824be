"""Detectors for tests."""

import torch

from fdsl.api import AnomalyDetector
from models.features import views_of


def small_detector(configs, **more):
    """One of an untrained backbone of two blocks, at 32 px unless `more` says otherwise."""
    usual = {"image_size": 32, "layers": (1, 3), "pretrained": "none", "device": "cpu", "precision": "fp32"}
    return AnomalyDetector.from_backbone(
        **{"model": "ViT-tiny-test", "model_config": configs, **usual, **more}
    )


def final_tile_maps(detector, images):
    """Images (B,1+T,3,S,S) -> the method's final maps of their tiles put together (M,B,H,W)."""
    views = views_of(images)
    with torch.no_grad():
        return detector.final_maps(views, detector.features(views, views)).tiles
