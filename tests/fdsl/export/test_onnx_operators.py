"""An encoder's attention and GELU become onnxruntime's own operators, which give what PyTorch gives."""

import numpy as np
import pytest
import torch
from torch import nn

from fdsl.export import onnx_operators

onnxruntime = pytest.importorskip("onnxruntime", reason="export needs requirements-export.txt")
onnx = pytest.importorskip("onnx", reason="export needs requirements-export.txt")
pytest.importorskip("onnxscript", reason="export needs requirements-export.txt")

HEADS, WIDTH = 2, 8


class AttentionBlock(nn.Module):
    """A block as image encoders write it."""

    def __init__(self, approximate):
        super().__init__()
        self.product, self.gelu = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH), nn.GELU(approximate)

    def forward(self, tokens):
        query, key, value = (
            self.product(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.gelu(mixed.transpose(1, 2).flatten(2))


@torch.no_grad()
def both(block, tmp_path):
    """What PyTorch and onnxruntime say of two photographs' tokens, and the graph's nodes."""
    program = torch.onnx.export(
        block.eval(),
        (torch.rand(2, 5, HEADS * WIDTH),),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        custom_translation_table=onnx_operators.fused_operators(),
        verbose=False,
    )
    program.save(tmp_path / "block.onnx")
    nodes = onnx.load(tmp_path / "block.onnx").graph.node
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
    tokens = 3 * torch.randn(3, 5, HEADS * WIDTH)
    (given,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    return block(tokens).numpy(), given, nodes


@pytest.mark.parametrize("approximate, operator", [("none", "Gelu"), ("tanh", "FastGelu")])
def test_attention_and_gelu_are_one_operator_each(approximate, operator, tmp_path):
    torch.manual_seed(0)
    wanted, given, nodes = both(AttentionBlock(approximate), tmp_path)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6)
    kinds = [node.op_type for node in nodes]
    assert kinds.count(onnx_operators.ATTENTION) == kinds.count(operator) == 1
    assert not {"Erf", "Softmax"} & set(kinds)
