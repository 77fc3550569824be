"""A fitted detector as an ONNX file."""
