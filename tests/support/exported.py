"""A detector as export.py writes it, and deploy/inspect.py with it, for the tests of deploy/."""

import subprocess
import sys

import export
from fdsl.api import AnomalyDetector
from tests.support.constants import ROOT
from tests.support.predictions import BACKBONE_OPTIONS


def exported_to(folder, references, tiny_configs, **more):
    """part.onnx, and what lies next to it, of a detector that is fitted to `references`."""
    encoder = {**BACKBONE_OPTIONS, "model_config": tiny_configs, "device": "cpu", "precision": "fp32"}
    made = AnomalyDetector.from_backbone(**encoder, **more)
    made.fit(references)
    made.save(folder / "part.safetensors")
    export.main(["--detector", str(folder / "part.safetensors"), "--output", str(folder / "part.onnx")])
    return folder / "part.onnx"


def inspect_command(*arguments):
    """The words that start deploy/inspect.py."""
    return [sys.executable, str(ROOT / "deploy/inspect.py"), *map(str, arguments)]


def inspect(*arguments, **more):
    """Runs deploy/inspect.py; exit code, output and errors."""
    done = subprocess.run(inspect_command(*arguments), capture_output=True, text=True, timeout=120, **more)
    return done.returncode, done.stdout, done.stderr
