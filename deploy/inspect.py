"""Inspects photographs with a detector that export.py wrote. Needs onnxruntime, numpy and pillow. export.py
writes it, with all of the project that it imports, as inspect.pyz, with the detector.

    python deploy/inspect.py part.onnx parts/ --output results/parts
    python deploy/inspect.py part.onnx 'line/**/*.png' --format json --exit-code | jq .score
"""

import sys
from pathlib import Path

# This file is called as a module of the standard library is, which onnxruntime and numpy import: its folder
# must not be searched.
sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from deploy.inspect_command import command

    command()
