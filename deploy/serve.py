"""Starts deploy/serve_command.py. Needs onnxruntime, numpy and pillow."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as in inspect.py

if __name__ == "__main__":
    from deploy.serve_command import command

    command()
