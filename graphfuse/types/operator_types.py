"""What types the operators give that onnx has no inference for: one table.

A row is a domain, an operator, and a function that puts standard nodes in place of a node of it
(`stand_ins`), or says that it does not know. tests/graph/test_operator_types.py compares each row
with what onnxruntime's CPU provider computes. Where that has no kernel the source is the operator's
schema, in onnxruntime/core/graph/contrib_ops: bert_defs.cc (attention, norms, embeddings),
contrib_defs.cc (the rest of floats), diffusion_defs.cc (GroupNorm and what stands beside it),
quantization_defs.cc, nhwc_schema_defs.cc and nchwc_schema_defs.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx

from graphfuse.ops import CONTRIB_DOMAIN
from graphfuse.records.element_types import ElementType
from graphfuse.types import attention_types as attention
from graphfuse.types import convolution_types as convolutions
from graphfuse.types.stand_ins import StandInRule, StandIns, first, same

BLOCKED = "com.microsoft.nchwc"
"""Where onnxruntime keeps convolutions on blocks of channels, in models that it optimized."""


def _input(position: int) -> StandInRule:
    return lambda s: same(s, position)


def _both(s: StandIns) -> bool:
    """Outputs 0 and 1 have the type of input 0."""
    s.to(1, s.input(0))
    return first(s)


def _norm(s: StandIns) -> bool:
    # The shape is the input's; the type is the scale's, in onnxruntime's own norms.
    s.to(0, s.add("Mul", [s.input(1), s.input(0)]))
    return True


def sum_and_norm(sum_at: int) -> StandInRule:
    """A norm of a sum, the sum being an output as well."""

    def rule(s: StandIns) -> bool:
        total = s.add("Add", [s.input(0), s.input(1)])
        s.to(sum_at, total)
        s.to(0, total)
        return True

    return rule


def _dropped(s: StandIns) -> bool:
    s.to(1, s.add("Cast", [s.input(0)], to=ElementType.BOOL))
    return first(s)


def _binary(op_type: str, left: int = 0, right: int = 1, to: int = 0) -> StandInRule:
    def rule(s: StandIns) -> bool:
        result = s.add(op_type, [s.input(left), s.input(right)])
        s.to(0, s.add("Cast", [result], to=to) if to else result)
        return True

    return rule


def _fused_matmul(s: StandIns) -> bool:
    flags = [s.attribute(f"trans{name}", 0) for name in ("A", "B", "BatchA", "BatchB")]
    if not any(flags):
        return _binary("MatMul")(s)
    # With a batch transposed, the axis before the last one stands first.
    left = ("ij", "ji")[bool(flags[0])]
    right = ("jk", "kj")[bool(flags[1])]
    left = f"{left[0]}...{left[1]}" if flags[2] else f"...{left}"
    right = f"{right[0]}...{right[1]}" if flags[3] else f"...{right}"
    s.to(0, s.einsum(f"{left},{right}->...ik", s.input(0), s.input(1)))
    return True


def _gemm(s: StandIns, right: int = 1) -> str:
    return s.add("Gemm", [s.input(0), s.input(right)], **s.kept("transA", "transB"))


def _fused_gemm(s: StandIns) -> bool:
    s.to(0, _gemm(s))
    return True


def _quantized_gemm(s: StandIns) -> bool:
    # Without a zero point of the result it is in the type of the scales.
    s.to(0, s.like(_gemm(s, 3), s.input(8) or s.input(1)))
    return True


def _projection(*names: str) -> StandInRule:
    """The last axis of input 0 becomes what the attributes say, one of them for each output."""

    def rule(s: StandIns) -> bool:
        extents = [s.attribute(name) for name in names]
        if not all(isinstance(extent, int) and extent > 0 for extent in extents):
            return False
        for position, extent in enumerate(extents):
            s.to(position, s.last(s.input(0), extent))
        if s.has_output(len(names)):
            s.to(len(names), s.input(0))
        return True

    return rule


def _bnb4(s: StandIns) -> bool:
    return _projection("N" if s.attribute("transB", 1) else "K")(s)


def _rows_of_weight(s: StandIns) -> bool:
    s.to(0, s.einsum("...k,nq->...n", s.input(0), s.input(1)))
    return True


def _matmul_of_shape(s: StandIns) -> bool:
    s.to(0, s.add("MatMul", [s.input(0), s.add("ConstantOfShape", [s.input(2)])]))
    return True


def _integer_matmul(s: StandIns) -> bool:
    s.to(0, s.like(s.add("MatMul", [s.input(0), s.input(1)]), s.input(2)))
    return True


def _quantized(typed: int) -> StandInRule:
    """Input 0 in another type, that of an input; uint8 where it is left out."""

    def rule(s: StandIns) -> bool:
        if s.input(typed):
            s.to(0, s.like(s.input(0), s.input(typed)))
        else:
            s.to(0, s.add("Cast", [s.input(0)], to=s.attribute("output_dtype") or 2))
        return True

    return rule


def _concat(s: StandIns) -> bool:
    parts = s.node.input[2::3]
    s.to(0, s.add("Concat", parts, axis=s.attribute("axis")))
    return True


def _where(s: StandIns) -> bool:
    s.to(0, s.add("Where", [s.input(0), s.input(1), s.input(4)]))
    return True


def _half(s: StandIns) -> bool:
    s.to(0, s.parts(s.input(0), 3, 2))
    return True


def _gathered_blocks(s: StandIns) -> bool:
    bits = s.attribute("bits", 4)
    elem_type = s.around.elem_type(s.input(0))
    if not elem_type or (elem_type == ElementType.UINT8 and bits not in (2, 4, 8)):
        return False
    # A byte holds several entries of the last axis; types of 4 bits are entries of their own.
    entries = 8 // bits if elem_type == ElementType.UINT8 else 1
    rows = s.add("Gather", [s.input(0), s.input(1)], axis=s.attribute("gather_axis", 0))
    rows = s.add("Concat", [rows] * entries, axis=-1) if entries > 1 else rows
    s.to(0, s.like(rows, s.input(2)))
    return True


def _old_compress(s: StandIns) -> bool:
    rows = s.add("Reshape", [s.add("NonZero", [s.input(1)]), s.ints([-1])])
    axis = s.attribute("axis")
    source = s.input(0) if axis is not None else s.add("Reshape", [s.input(0), s.ints([-1])])
    s.to(0, s.add("Gather", [source, rows], axis=axis or 0))
    return True


ONNX: Mapping[str, StandInRule] = {
    # Norms that onnxruntime has in ONNX's domain in every opset; ONNX has the first from 17 on.
    "LayerNormalization": _norm,
    "SimplifiedLayerNormalization": _norm,
    # What ONNX defines without inference: a function's body does not always tell.
    "GroupNormalization": first,
    "MeanVarianceNormalization": first,
    "GreaterOrEqual": _binary("Greater"),
    "LessOrEqual": _binary("Less"),
    "Compress": _old_compress,
    # Experiments of ONNX's first versions that onnxruntime still runs.
    **dict.fromkeys(("Affine", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"), first),
}
"""ONNX's domain: only where onnx itself has no inference at the model's opset."""

OTHERS: Mapping[tuple[str, str], StandInRule] = {
    **{
        (CONTRIB_DOMAIN, name): first
        for name in (
            *("Gelu", "QuickGelu", "FastGelu", "BiasGelu", "BiasAdd", "BiasSoftmax", "ScaledSiLU"),
            *("BitmaskDropout", "BitmaskBiasDropout", "RotaryEmbedding", "MRotaryEmbedding"),
            *("MoE", "QMoE", "DecoderAttention", "LongformerAttention", "GroupNorm", "Inverse"),
            *("Trilu", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "GatedAdd"),
            *("GatedRMSNorm", "BranchwiseRMSNorm", "QOrderedGelu", "QOrderedLayerNormalization"),
            *("QOrderedLongformerAttention", "LinearAttentionGate"),
        )
    },
    (CONTRIB_DOMAIN, "SimplifiedLayerNormalization"): _norm,
    (CONTRIB_DOMAIN, "SkipLayerNormalization"): sum_and_norm(3),
    (CONTRIB_DOMAIN, "SkipSimplifiedLayerNormalization"): sum_and_norm(3),
    (CONTRIB_DOMAIN, "SkipGroupNorm"): _both,
    (CONTRIB_DOMAIN, "BiasDropout"): _dropped,
    (CONTRIB_DOMAIN, "BiasSplitGelu"): _half,
    (CONTRIB_DOMAIN, "NGramRepeatBlock"): _input(1),
    (CONTRIB_DOMAIN, "GemmaRotaryEmbedding"): attention.rotated_pair,
    # Products.
    (CONTRIB_DOMAIN, "FusedMatMul"): _fused_matmul,
    (CONTRIB_DOMAIN, "FusedMatMulActivation"): _fused_matmul,
    (CONTRIB_DOMAIN, "TransposeMatMul"): _fused_matmul,
    (CONTRIB_DOMAIN, "FusedGemm"): _fused_gemm,
    (CONTRIB_DOMAIN, "GemmFastGelu"): _binary("MatMul"),
    (CONTRIB_DOMAIN, "MatMulInteger16"): _binary("MatMul", to=ElementType.INT32),
    (CONTRIB_DOMAIN, "DynamicQuantizeMatMul"): _binary("MatMul"),
    (CONTRIB_DOMAIN, "MatMulIntegerToFloat"): _integer_matmul,
    (CONTRIB_DOMAIN, "QOrderedMatMul"): _binary("MatMul", 0, 2),
    (CONTRIB_DOMAIN, "MatMulFpQ4"): _matmul_of_shape,
    (CONTRIB_DOMAIN, "MatMulNBits"): _projection("N"),
    (CONTRIB_DOMAIN, "MatMulNBitsMlp"): _projection("N"),
    (CONTRIB_DOMAIN, "MatMulNBitsQLoRA"): _projection("N"),
    (CONTRIB_DOMAIN, "MatMulNBitsQkv"): _projection("Nq", "Nkv", "Nkv"),
    (CONTRIB_DOMAIN, "MatMulPacked"): _projection("N"),
    (CONTRIB_DOMAIN, "MatMulBnb4"): _bnb4,
    (CONTRIB_DOMAIN, "MatMulBlockQuantizedFp8Weight"): _rows_of_weight,
    (CONTRIB_DOMAIN, "MatMulBlockQuantizedFp4Weight"): _rows_of_weight,
    (CONTRIB_DOMAIN, "QGemm"): _quantized_gemm,
    # Attention.
    (CONTRIB_DOMAIN, "Attention"): attention.attention(),
    (CONTRIB_DOMAIN, "DecoderMaskedSelfAttention"): attention.attention(),
    (CONTRIB_DOMAIN, "PackedAttention"): attention.attention(rank=2),
    (CONTRIB_DOMAIN, "QAttention"): attention.attention(typed=3),
    (CONTRIB_DOMAIN, "MultiHeadAttention"): attention.multi_head,
    (CONTRIB_DOMAIN, "DecoderMaskedMultiHeadAttention"): attention.decoder_multi_head,
    (CONTRIB_DOMAIN, "PackedMultiHeadAttention"): attention.packed_multi_head,
    (CONTRIB_DOMAIN, "GroupQueryAttention"): attention.grouped_query(3),
    (CONTRIB_DOMAIN, "SparseAttention"): attention.grouped_query(3),
    (CONTRIB_DOMAIN, "PagedAttention"): attention.grouped_query(2),
    (CONTRIB_DOMAIN, "LinearAttention"): attention.linear_attention,
    (CONTRIB_DOMAIN, "RelativePositionBias"): attention.relative_bias,
    (CONTRIB_DOMAIN, "GatedRelativePositionBias"): attention.gated_bias,
    (CONTRIB_DOMAIN, "RemovePadding"): attention.without_padding,
    (CONTRIB_DOMAIN, "RestorePadding"): attention.with_padding,
    # Embeddings.
    (CONTRIB_DOMAIN, "EmbedLayerNormalization"): attention.embedding(0, 2),
    (CONTRIB_DOMAIN, "QEmbedLayerNormalization"): attention.embedding(0, 2, typed=8),
    (CONTRIB_DOMAIN, "TorchEmbedding"): _binary("Gather"),
    (CONTRIB_DOMAIN, "GatherBlockQuantized"): _gathered_blocks,
    # Quantized.
    (CONTRIB_DOMAIN, "QuantizeLinear"): _quantized(2),
    (CONTRIB_DOMAIN, "DequantizeLinear"): _quantized(1),
    (CONTRIB_DOMAIN, "QLinearAdd"): _binary("Add", 0, 3),
    (CONTRIB_DOMAIN, "QLinearMul"): _binary("Mul", 0, 3),
    (CONTRIB_DOMAIN, "MulInteger"): _binary("Mul", 0, 2, to=ElementType.INT32),
    (CONTRIB_DOMAIN, "QLinearConcat"): _concat,
    (CONTRIB_DOMAIN, "QLinearWhere"): _where,
    # Convolutions, which read patches.
    (CONTRIB_DOMAIN, "FusedConv"): convolutions.conv,
    (CONTRIB_DOMAIN, "NhwcConv"): convolutions.conv_last,
    (CONTRIB_DOMAIN, "NhwcFusedConv"): convolutions.conv_last,
    (CONTRIB_DOMAIN, "QLinearConv"): convolutions.quantized_conv,
    (CONTRIB_DOMAIN, "QLinearAveragePool"): convolutions.pool("AveragePool", last=False),
    (CONTRIB_DOMAIN, "QLinearGlobalAveragePool"): convolutions.global_pool("GlobalAveragePool"),
    (CONTRIB_DOMAIN, "NhwcMaxPool"): convolutions.pool("MaxPool", last=True),
    (BLOCKED, "ReorderInput"): convolutions.to_blocks,
    (BLOCKED, "ReorderOutput"): convolutions.from_blocks,
    (BLOCKED, "Conv"): convolutions.conv,
    (BLOCKED, "MaxPool"): convolutions.pool("MaxPool", last=False),
    (BLOCKED, "AveragePool"): convolutions.pool("AveragePool", last=False),
    (BLOCKED, "GlobalMaxPool"): convolutions.global_pool("GlobalMaxPool"),
    (BLOCKED, "GlobalAveragePool"): convolutions.global_pool("GlobalAveragePool"),
}
"""Operators of other domains, in whatever version of them."""


@cache
def rules(opset: int) -> Mapping[tuple[str, str], StandInRule]:
    """The rows that hold in a graph of an opset, by domain and operator."""
    own = {("", name): rule for name, rule in ONNX.items() if not _is_inferred(name, opset)}
    return {**own, **OTHERS}


def _is_inferred(name: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return False
    return schema.has_type_and_shape_inference_function
