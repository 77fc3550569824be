"""Answers over HTTP what a detector of export.py predicts. Needs onnxruntime, numpy and pillow. export.py
writes it, with all of the project that it imports, as serve.pyz, with the detector.

    python deploy/serve.py part.onnx --port 8000
    curl --data-binary @part.png 'http://127.0.0.1:8000/inspect?name=part.png'
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as in inspect.py

if __name__ == "__main__":
    from deploy.serve_command import command

    command()
