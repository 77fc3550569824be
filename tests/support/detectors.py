"""Detectors for tests."""

import torch

from fdsl.api import AnomalyDetector
from models.branches import Query
from utils.views import Views


def small_detector(configs, **more):
    """One of an untrained backbone of two blocks, at 32 px unless `more` says otherwise."""
    usual = {"image_size": 32, "layers": (1, 3), "pretrained": "none", "device": "cpu", "precision": "fp32"}
    return AnomalyDetector.from_backbone(
        **{"model": "ViT-tiny-test", "model_config": configs, **usual, **more}
    )


def final_tile_maps(detector, views):
    """The method's final maps of B images' tiles put together (M,B,H,W)."""
    with torch.no_grad():
        features = detector.method.features(detector.encode, views, detector.memories.whole)
        return detector.final_maps(views, features).tiles


def raw_window_maps(detector, images):
    """Images (B,3,S,S) -> raw maps stitched from windows, where none lies those of the whole images
    (M,B,G,G)."""
    raw, method, views = detector.raw_maps(images), detector.method, Views(images)
    query = Query(views, None, None, raw, method.refine(raw))
    with torch.no_grad():
        return detector.windows.raw_maps(method, detector.encode, detector.memory_of("windows"), query)
