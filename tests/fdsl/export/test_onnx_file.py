"""The ONNX file: what is written, and what is as before where it cannot be."""

import logging
from types import SimpleNamespace

import pytest
import torch

from fdsl.export import onnx_file
from utils.errors import ModelError

pytest.importorskip("onnxscript", reason="export needs requirements-export.txt")


class Untraceable:
    shape, outputs = (3, 8, 8), {"map": None}
    detector = SimpleNamespace(backbone=SimpleNamespace(mean=torch.zeros(3)))

    def __call__(self, pixels):
        return pixels


def test_a_graph_that_cannot_be_traced_leaves_logging_as_it_was(monkeypatch):
    def refuse(*_, **__):
        assert logging.root.manager.disable == logging.WARNING
        raise torch.onnx.errors.OnnxExporterError("no")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with pytest.raises(ModelError, match=r"by PyTorch \d.*; take the PyTorch of requirements\.txt"):
            onnx_file.traced(Untraceable())
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(before)
