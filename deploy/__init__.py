"""Images in, rows out, with a detector that export.py wrote: imports onnxruntime, numpy and Pillow alone."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads it when it is imported
