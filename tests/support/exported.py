"""A detector as export.py writes it, for the tests of deploy/."""

import export
from fdsl.api import AnomalyDetector
from tests.support.predictions import BACKBONE_OPTIONS


def exported_to(folder, references, tiny_configs, **more):
    """part.onnx, and what lies next to it, of a detector that is fitted to `references`."""
    encoder = {**BACKBONE_OPTIONS, "model_config": tiny_configs, "device": "cpu", "precision": "fp32"}
    made = AnomalyDetector.from_backbone(**encoder, **more)
    made.fit(references)
    made.save(folder / "part.safetensors")
    export.main(["--detector", str(folder / "part.safetensors"), "--output", str(folder / "part.onnx")])
    return folder / "part.onnx"
