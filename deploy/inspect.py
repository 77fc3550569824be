"""Inspects photographs with a detector that export.py wrote. Needs onnxruntime, numpy and pillow, and nothing
else of this repository than the folder deploy/.

    python deploy/inspect.py part.onnx parts/ --output results/parts
    python deploy/inspect.py part.onnx 'line/**/*.png' --format json --exit-code | jq .score
"""

import sys
from pathlib import Path

# This file is called as a module of the standard library is, which onnxruntime and numpy import: its folder
# must not be searched.
sys.path[0] = str(Path(__file__).resolve().parent / "lib")

if __name__ == "__main__":
    from fdsl_line.command import command

    command()
