"""Starts deploy/inspect_command.py. Needs onnxruntime, numpy and pillow."""

import sys
from pathlib import Path

# This file is called as a module of the standard library is, which onnxruntime and numpy import: its folder
# must not be searched.
sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from deploy.inspect_command import command

    command()
