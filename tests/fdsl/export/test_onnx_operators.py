"""An encoder's attention and GELU become onnxruntime's own operators, which say what PyTorch says."""

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
    """A block as image encoders write it. `order`: which third of the product is query, key and value."""

    def __init__(self, order=(0, 1, 2), approximate="none", normed=False, bias=True, products=1):
        super().__init__()
        self.order, self.normed = order, normed
        self.products = nn.ModuleList(
            nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH, bias) for _ in range(products)
        )
        self.gelu = nn.GELU(approximate)

    def forward(self, tokens):
        thirds = [
            product(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            for product in self.products
        ]
        query, key, value = thirds[0][self.order[0]], thirds[-1][self.order[1]], thirds[0][self.order[2]]
        if self.normed:
            query = nn.functional.normalize(query, dim=-1)
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
    onnx_operators.unpack_attention(program.model)
    program.save(tmp_path / "block.onnx")
    nodes = onnx.load(tmp_path / "block.onnx").graph.node
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
    tokens = 3 * torch.randn(3, 5, HEADS * WIDTH)
    (given,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    return block(tokens).numpy(), given, nodes


@pytest.mark.parametrize(
    "options, handed_on",
    (
        ({}, True),
        ({"approximate": "tanh"}, True),
        ({"order": (1, 0, 2)}, False),
        ({"order": (0, 1, 1)}, False),
        ({"normed": True}, False),
        ({"bias": False}, False),
        ({"products": 2}, False),
    ),
    ids=("usual", "tanh", "swapped", "twice", "normed", "no-bias", "two"),
)
def test_thirds_of_one_product_are_handed_on_as_they_are(options, handed_on, tmp_path):
    torch.manual_seed(0)
    wanted, given, nodes = both(AttentionBlock(**options), tmp_path)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6)
    kinds = [node.op_type for node in nodes]
    (attention,) = [node for node in nodes if node.op_type == onnx_operators.ATTENTION]
    assert len(attention.input) == (4 if handed_on else 3)
    assert ("Slice" in kinds) != handed_on
    assert kinds.count("FastGelu" if "approximate" in options else "Gelu") == 1 and "Erf" not in kinds
