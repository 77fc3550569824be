"""Attention as the one operator of onnxruntime that computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DOMAIN, VERSION, OPERATOR = "com.microsoft", 1, "MultiHeadAttention"


def fused_attention() -> dict[Callable, Callable]:
    """A translation for torch.onnx.export: attention of (B,H,N,d) becomes onnxruntime's MultiHeadAttention.

    As products and a softmax, which ONNX 18 has alone, all scores (B,H,N,N) would be written and read again.
    Its query is (B,N,H*d), key and value stay (B,H,N,d). Source: ContribOperators.md of onnxruntime.
    """
    from onnxscript import opset18
    from onnxscript.values import Opset

    make_known()
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
        if attn_mask is not None or is_causal or enable_gqa:
            raise NotImplementedError("attention with a mask or shared keys is no operator of its own")
        heads, width = query.shape[1], query.shape[3]
        flat = onnx.Reshape(onnx.Transpose(query, perm=[0, 2, 1, 3]), [0, 0, heads * width])
        scale = width**-0.5 if scale is None else scale
        mixed = onnxruntime.MultiHeadAttention(flat, key, value, num_heads=heads, scale=scale)
        return onnx.Transpose(onnx.Reshape(mixed, [0, 0, heads, width]), perm=[0, 2, 1, 3])

    return {torch.ops.aten.scaled_dot_product_attention.default: attention}


def make_known() -> None:
    """Tells onnx what inputs and attributes the operator has, which the trace looks up."""
    from onnx.defs import OpSchema, has, register_schema

    if has(OPERATOR, VERSION, DOMAIN):
        return
    query, key, value, output = (
        OpSchema.FormalParameter(name, "T") for name in ("query", "key", "value", "output")
    )
    register_schema(
        OpSchema(
            OPERATOR,
            DOMAIN,
            VERSION,
            inputs=[query, key, value],
            outputs=[output],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[
                OpSchema.Attribute("num_heads", OpSchema.AttrType.INT),
                OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT),
            ],
        )
    )
