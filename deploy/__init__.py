"""Images in, rows out, with a detector that export.py wrote: imports onnxruntime, numpy and Pillow alone."""
