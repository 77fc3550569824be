"""A vision encoder's attention and GELU as fused operators of onnxruntime.

Source of their inputs and attributes: ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

DOMAIN, VERSION = "com.microsoft", 1
ATTENTION, GELU, TANH_GELU = "MultiHeadAttention", "Gelu", "FastGelu"


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
