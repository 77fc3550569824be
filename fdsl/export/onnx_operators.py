"""A vision encoder's attention and GELU as fused operators of onnxruntime.

Source of their inputs and attributes: ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

DOMAIN, VERSION = "com.microsoft", 1
ATTENTION, GELU, TANH_GELU = "MultiHeadAttention", "Gelu", "FastGelu"
TO_A_THIRD = ("Reshape", "Transpose", "Squeeze", "Slice", "Transpose", "Reshape", "Add")  # backwards
THIRDS_FIRST = (2, 0, 3, 1, 4)  # (B,N,3,H,d) -> (3,B,H,N,d)


def fused_operators() -> dict[Callable, Callable]:
    """Translations for torch.onnx.export. Without them ONNX 18 computes attention as products and a softmax,
    which write all scores (B,H,N,N) and read them again, and GELU in five passes."""
    from onnxscript import opset18
    from onnxscript.values import Opset

    register_operators()
    onnx: Any = opset18
    onnxruntime: Any = Opset(DOMAIN, VERSION)

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        """Of (B,H,N,d), passed on as (B,N,H*d), the only shape that onnxruntime computes block by block."""
        if attn_mask is not None or is_causal or enable_gqa:
            raise NotImplementedError("attention with a mask or shared keys is no operator of its own")
        heads, width = query.shape[1], query.shape[3]
        flat = [
            onnx.Reshape(onnx.Transpose(part, perm=[0, 2, 1, 3]), [0, 0, heads * width])
            for part in (query, key, value)
        ]
        scale = width**-0.5 if scale is None else scale
        mixed = onnxruntime.MultiHeadAttention(*flat, num_heads=heads, scale=scale)
        return onnx.Transpose(onnx.Reshape(mixed, [0, 0, heads, width]), perm=[0, 2, 1, 3])

    def gelu(tokens: Any, approximate: str = "none") -> Any:  # torch passes it where it is not the default
        return onnxruntime.Gelu(tokens) if approximate == "none" else onnxruntime.FastGelu(tokens)

    torch_s = torch.ops.aten
    return {torch_s.scaled_dot_product_attention.default: attention, torch_s.gelu.default: gelu}


def register_operators() -> None:
    """Registers the inputs and attributes of the operators, which the trace looks up, with onnx."""
    from onnx.defs import OpSchema

    register_operator(
        ATTENTION,
        ("query", "key", "value"),
        OpSchema.Attribute("num_heads", OpSchema.AttrType.INT),
        OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT),
    )
    register_operator(GELU, ("X",))
    register_operator(TANH_GELU, ("X",))


def register_operator(name: str, inputs: Sequence[str], *attributes: Any) -> None:
    """Registers an operator with one output, unless it is registered."""
    from onnx.defs import OpSchema, has, register_schema

    if has(name, VERSION, DOMAIN):
        return
    given = [OpSchema.FormalParameter(one, "T") for one in inputs]
    made = [OpSchema.FormalParameter("output", "T")]
    of_floats = [("T", ["tensor(float)"], "")]
    register_schema(
        OpSchema(
            name,
            DOMAIN,
            VERSION,
            inputs=given,
            outputs=made,
            type_constraints=of_floats,
            attributes=list(attributes),
        )
    )


def unpack_attention(model: Any) -> None:
    """Gives the attention of an onnx_ir model the thirds of the product (B,N,3*H*d) that its query, key and
    value are cut from, and the bias (3*H*d,) as an input: the operator adds it while it copies them.

    Attention with other inputs (rotated by their positions, normalised) stays unchanged.
    """
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        packed = packed_of(node) if (node.domain, node.op_type) == (DOMAIN, ATTENTION) else None
        if packed is None:
            continue
        thirds = onnx_ir.node("Split", [packed[0]], {"axis": -1, "num_outputs": 3}, num_outputs=3)
        model.graph.insert_before(node, thirds)
        given = onnx_ir.node(ATTENTION, [*thirds.outputs, packed[1]], node.attributes, domain=DOMAIN)
        model.graph.insert_before(node, given)
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], given.outputs[0])
    RemoveUnusedNodesPass()(model)


def packed_of(attention: Any) -> tuple[Any, Any] | None:
    """The product and the bias whose sum's thirds are an attention's query, key and value, in this order;
    None for other inputs."""
    thirds = [third_of(value) for value in attention.inputs]
    sums = [third[1] for third in thirds if third is not None]
    if [third[0] for third in thirds if third is not None] != [0, 1, 2] or len(set(map(id, sums))) > 1:
        return None
    product, bias = sums[0].inputs
    values = bias.const_value
    return (product, bias) if values is not None and len(values.shape) == 1 else None


def third_of(value: Any) -> tuple[int, Any] | None:
    """The index of the third of a sum (B,N,3*H*d) that a value (B,N,H*d) is, and the sum's node; None for
    other values."""
    nodes = producers(value, TO_A_THIRD)
    if nodes is None or tuple(nodes[4].attributes["perm"].as_ints()) != THIRDS_FIRST:
        return None
    begin, _, axis = (one.const_value for one in nodes[3].inputs[1:4])
    if begin is None or axis is None or axis.numpy().tolist() != [0] or nodes[5].outputs[0].shape[2] != 3:
        return None
    return int(begin.numpy()[0]), nodes[6]


def producers(value: Any, operators: Sequence[str]) -> list[Any] | None:
    """The chain of nodes that produces a value, the last one first, each the producer of the next one's first
    input; None unless they are these `operators`."""
    nodes = []
    for operator in operators:
        node = value.producer()
        if node is None or node.op_type != operator:
            return None
        nodes.append(node)
        value = node.inputs[0]
    return nodes
