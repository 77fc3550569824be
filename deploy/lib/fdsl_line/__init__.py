"""Photographs in, rows out: what deploy/inspect.py runs. Imports onnxruntime, numpy and pillow alone."""
