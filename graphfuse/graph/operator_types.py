"""What types the operators give that onnx has no inference for: one table.

A row is a domain, an operator, and a function that puts standard nodes in place of a node of it
(`stand_ins`); False when that is not known, and then it stays unknown. Each row is compared with what
onnxruntime's CPU provider computes, in tests/test_operator_types.py. Where that provider has no
kernel the source is the operator's schema, in onnxruntime/core/graph/contrib_ops: bert_defs.cc
(attention, norms, embeddings), contrib_defs.cc (the rest of floats), diffusion_defs.cc (GroupNorm
and what stands beside it), quantization_defs.cc, nhwc_schema_defs.cc and nchwc_schema_defs.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import onnx
from onnx import TensorProto

from graphfuse.graph.stand_ins import StandIns

CONTRIB = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"
"""Where onnxruntime keeps convolutions on blocks of channels, in models that it optimized."""

Rule = Callable[[StandIns], bool]
"""Adds the nodes that stand for one; whether it could."""

PADDING = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
POOLING = ("auto_pad", "kernel_shape", "pads", "strides", "ceil_mode")


def first(s: StandIns) -> bool:
    """Output 0 has the type of input 0."""
    return _same(s, 0)


def _same(s: StandIns, position: int) -> bool:
    s.to(0, s.input(position))
    return True


def _input(position: int) -> Rule:
    return lambda s: _same(s, position)


def _both(s: StandIns) -> bool:
    """Outputs 0 and 1 have the type of input 0."""
    s.to(1, s.input(0))
    return first(s)


def _norm(s: StandIns) -> bool:
    # The shape is the input's; the type is the scale's, in onnxruntime's own norms.
    s.to(0, s.add("Mul", [s.input(1), s.input(0)]))
    return True


def sum_and_norm(total_at: int) -> Rule:
    """A norm of a sum, the sum being an output as well."""

    def rule(s: StandIns) -> bool:
        total = s.add("Add", [s.input(0), s.input(1)])
        s.to(total_at, total)
        s.to(0, total)
        return True

    return rule


def _dropped(s: StandIns) -> bool:
    s.to(1, s.add("Cast", [s.input(0)], to=TensorProto.BOOL))
    return first(s)


def _binary(op_type: str, left: int = 0, right: int = 1, to: int = 0) -> Rule:
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


def _projection(*names: str) -> Rule:
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


def _attention(rank: int = 3, typed: int = 0) -> Rule:
    """The values' part of input times weights."""

    def rule(s: StandIns) -> bool:
        sizes = s.attribute("qkv_hidden_sizes")
        if sizes:
            if len(sizes) != 3 or sizes[2] <= 0:
                return False
            s.to(0, s.last(s.input(0), sizes[2]))
            return True
        joined = s.add("MatMul", [s.input(0), s.input(1)])
        joined = s.like(joined, s.input(typed)) if typed else joined
        s.to(0, s.parts(joined, rank, 3))
        return True

    return rule


def _multi_head(s: StandIns) -> bool:
    query, key, value = (s.input(position) for position in range(3))
    if not key:
        # Packed: (batch, sequence, heads, 3, head size).
        one = s.add("Gather", [query, s.ints([0])], axis=3)
        s.to(0, s.add("Reshape", [one, s.ints([0, 0, -1])]))
        return True
    if not value:
        return first(s)
    _queries_by_values(s, query, value)
    return True


def _queries_by_values(s: StandIns, query: str, value: str) -> None:
    if s.around.rank(value) == 4:
        # (batch, heads, sequence, head size)
        moved = s.add("Transpose", [value], perm=[0, 2, 1, 3])
        value = s.add("Reshape", [moved, s.ints([0, 0, -1])])
    s.to(0, s.einsum("bsh,ctv->bsv", query, value))


def _decoder_multi_head(s: StandIns) -> bool:
    if not s.input(1):
        # Packed: (batch, 1, 3 * hidden size).
        s.to(0, s.parts(s.input(0), 3, 3))
    else:
        _queries_by_values(s, s.input(0), s.input(2))
    return True


def _packed_multi_head(s: StandIns) -> bool:
    if s.input(2):
        s.to(0, s.einsum("th,uv->tv", s.input(0), s.input(2)))
        return True
    # Packed: (tokens, heads, 3, head size).
    one = s.add("Gather", [s.input(0), s.ints([0])], axis=2)
    s.to(0, s.add("Reshape", [one, s.ints([0, -1])]))
    return True


def _grouped_query(rank: int) -> Rule:
    """Attention whose keys have fewer heads; where they are packed, behind those of the queries."""

    def rule(s: StandIns) -> bool:
        heads, others = s.attribute("num_heads", 0), s.attribute("kv_num_heads", 0)
        if s.input(1):
            # Values of other heads than the keys' are a newer PagedAttention's alone.
            return not s.attribute("v_head_size") and first(s)
        if heads <= 0 or others <= 0:
            return False
        s.to(0, s.parts(s.input(0), rank, heads + 2 * others, heads))
        return True

    return rule


def _embedding(ids: int, table: int, typed: int = 0) -> Rule:
    def rule(s: StandIns) -> bool:
        rows = s.add("Gather", [s.input(table), s.input(ids)])
        rows = s.like(rows, s.input(typed)) if typed else rows
        s.to(0, rows)
        s.to(2, rows)
        if s.has_output(1):
            # One entry for each row of the batch, in the type of the identifiers.
            column = s.add("Gather", [s.input(ids), s.ints([0])], axis=1)
            s.to(1, s.add("Reshape", [column, s.ints([-1])]))
        return True

    return rule


def _quantized(typed: int) -> Rule:
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


def _conv(s: StandIns) -> bool:
    s.to(0, s.add("Conv", [s.input(0), s.input(1)], **s.kept("group", *PADDING)))
    return True


def _conv_last(s: StandIns) -> bool:
    rank = s.around.rank(s.input(1)) or len(s.attribute("kernel_shape", ())) + 2
    if rank < 3:
        return False
    before = s.channels_first(s.input(0), rank)
    result = s.add("Conv", [before, s.input(1)], **s.kept("group", *PADDING))
    s.to(0, s.channels_last(result, rank))
    return True


def _quantized_conv(s: StandIns) -> bool:
    inputs, rank = list(s.node.input), s.around.rank(s.input(3))
    last = s.attribute("channels_last", 0)
    if last:
        if rank is None:
            return False
        inputs[0] = s.channels_first(inputs[0], rank)
    result = s.add("QLinearConv", inputs, **s.kept("group", *PADDING))
    s.to(0, s.channels_last(result, rank) if last and rank else result)
    return True


def _pool(op_type: str, last: bool) -> Rule:
    def rule(s: StandIns) -> bool:
        rank = len(s.attribute("kernel_shape", ())) + 2
        turned = last or s.attribute("channels_last", 0)
        source = s.channels_first(s.input(0), rank) if turned else s.input(0)
        more = ("count_include_pad",) if op_type == "AveragePool" else ("dilations",)
        result = s.add(op_type, [source], **s.kept(*POOLING, *more))
        s.to(0, s.channels_last(result, rank) if turned else result)
        return True

    return rule


def _global_pool(op_type: str) -> Rule:
    def rule(s: StandIns) -> bool:
        if s.attribute("channels_last", 0):
            return False
        s.to(0, s.add(op_type, [s.input(0)]))
        return True

    return rule


def _to_blocks(s: StandIns) -> bool:
    # Channels are filled up to the length of a block, which hangs on the processor: unknown here.
    source = s.input(0)
    source = s.channels_first(source, 4) if s.attribute("channels_last", 0) else source
    s.to(0, s.einsum("nchw,rm->nmhw", source, s.add("NonZero", [source])))
    return True


def _from_blocks(s: StandIns) -> bool:
    channels = s.attribute("channels", 0)
    if channels <= 0:
        return False
    result = s.einsum("nchw,m->nmhw", s.input(0), s.zeros(channels))
    s.to(0, s.channels_last(result, 4) if s.attribute("channels_last", 0) else result)
    return True


def _half(s: StandIns) -> bool:
    s.to(0, s.parts(s.input(0), 3, 2))
    return True


def _rotated_pair(s: StandIns) -> bool:
    s.to(0, s.input(1))
    s.to(1, s.input(3))
    return True


def _relative_bias(s: StandIns) -> bool:
    heads = s.add("Gather", [s.add("Shape", [s.input(0)]), s.ints([1])])
    lengths = [s.add("Reshape", [s.input(position), s.ints([1])]) for position in (1, 2)]
    shape = s.add("Concat", [s.ints([1]), heads, *lengths], axis=0)
    s.to(0, s.like(s.add("ConstantOfShape", [shape]), s.input(0)))
    return True


def _gated_bias(s: StandIns) -> bool:
    if s.input(6):
        return False
    s.to(0, s.einsum("bsh,xnij->bnij", s.input(0), s.input(2)))
    return True


def _without_padding(s: StandIns) -> bool:
    s.to(0, s.einsum("bsh,rt->th", s.input(0), s.add("NonZero", [s.input(1)])))
    return True


def _with_padding(s: StandIns) -> bool:
    s.to(0, s.einsum("th,bs->bsh", s.input(0), s.input(1)))
    return True


def _linear_attention(s: StandIns) -> bool:
    queries, values = s.attribute("q_num_heads", 0), s.attribute("kv_num_heads", 0)
    if queries <= values:
        return bool(s.input(2)) and _same(s, 2)
    return False


def _gathered_blocks(s: StandIns) -> bool:
    bits = s.attribute("bits", 4)
    elem_type = s.around.elem_type(s.input(0))
    if not elem_type or (elem_type == TensorProto.UINT8 and bits not in (2, 4, 8)):
        return False
    # A byte holds several entries of the last axis; types of 4 bits are entries of their own.
    entries = 8 // bits if elem_type == TensorProto.UINT8 else 1
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


ONNX: Mapping[str, Rule] = {
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

OTHERS: Mapping[tuple[str, str], Rule] = {
    **{
        (CONTRIB, name): first
        for name in (
            *("Gelu", "QuickGelu", "FastGelu", "BiasGelu", "BiasAdd", "BiasSoftmax", "ScaledSiLU"),
            *("BitmaskDropout", "BitmaskBiasDropout", "RotaryEmbedding", "MRotaryEmbedding"),
            *("MoE", "QMoE", "DecoderAttention", "LongformerAttention", "GroupNorm", "Inverse"),
            *("Trilu", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "GatedAdd"),
            *("GatedRMSNorm", "BranchwiseRMSNorm", "QOrderedGelu", "QOrderedLayerNormalization"),
            *("QOrderedLongformerAttention", "LinearAttentionGate"),
        )
    },
    (CONTRIB, "SimplifiedLayerNormalization"): _norm,
    (CONTRIB, "SkipLayerNormalization"): sum_and_norm(3),
    (CONTRIB, "SkipSimplifiedLayerNormalization"): sum_and_norm(3),
    (CONTRIB, "SkipGroupNorm"): _both,
    (CONTRIB, "BiasDropout"): _dropped,
    (CONTRIB, "BiasSplitGelu"): _half,
    (CONTRIB, "NGramRepeatBlock"): _input(1),
    (CONTRIB, "GemmaRotaryEmbedding"): _rotated_pair,
    # Products.
    (CONTRIB, "FusedMatMul"): _fused_matmul,
    (CONTRIB, "FusedMatMulActivation"): _fused_matmul,
    (CONTRIB, "TransposeMatMul"): _fused_matmul,
    (CONTRIB, "FusedGemm"): _fused_gemm,
    (CONTRIB, "GemmFastGelu"): _binary("MatMul"),
    (CONTRIB, "MatMulInteger16"): _binary("MatMul", to=TensorProto.INT32),
    (CONTRIB, "DynamicQuantizeMatMul"): _binary("MatMul"),
    (CONTRIB, "MatMulIntegerToFloat"): _integer_matmul,
    (CONTRIB, "QOrderedMatMul"): _binary("MatMul", 0, 2),
    (CONTRIB, "MatMulFpQ4"): _matmul_of_shape,
    (CONTRIB, "MatMulNBits"): _projection("N"),
    (CONTRIB, "MatMulNBitsMlp"): _projection("N"),
    (CONTRIB, "MatMulNBitsQLoRA"): _projection("N"),
    (CONTRIB, "MatMulNBitsQkv"): _projection("Nq", "Nkv", "Nkv"),
    (CONTRIB, "MatMulPacked"): _projection("N"),
    (CONTRIB, "MatMulBnb4"): _bnb4,
    (CONTRIB, "MatMulBlockQuantizedFp8Weight"): _rows_of_weight,
    (CONTRIB, "MatMulBlockQuantizedFp4Weight"): _rows_of_weight,
    (CONTRIB, "QGemm"): _quantized_gemm,
    # Attention.
    (CONTRIB, "Attention"): _attention(),
    (CONTRIB, "DecoderMaskedSelfAttention"): _attention(),
    (CONTRIB, "PackedAttention"): _attention(rank=2),
    (CONTRIB, "QAttention"): _attention(typed=3),
    (CONTRIB, "MultiHeadAttention"): _multi_head,
    (CONTRIB, "DecoderMaskedMultiHeadAttention"): _decoder_multi_head,
    (CONTRIB, "PackedMultiHeadAttention"): _packed_multi_head,
    (CONTRIB, "GroupQueryAttention"): _grouped_query(3),
    (CONTRIB, "SparseAttention"): _grouped_query(3),
    (CONTRIB, "PagedAttention"): _grouped_query(2),
    (CONTRIB, "LinearAttention"): _linear_attention,
    (CONTRIB, "RelativePositionBias"): _relative_bias,
    (CONTRIB, "GatedRelativePositionBias"): _gated_bias,
    (CONTRIB, "RemovePadding"): _without_padding,
    (CONTRIB, "RestorePadding"): _with_padding,
    # Embeddings.
    (CONTRIB, "EmbedLayerNormalization"): _embedding(0, 2),
    (CONTRIB, "QEmbedLayerNormalization"): _embedding(0, 2, typed=8),
    (CONTRIB, "TorchEmbedding"): _binary("Gather"),
    (CONTRIB, "GatherBlockQuantized"): _gathered_blocks,
    # Quantized.
    (CONTRIB, "QuantizeLinear"): _quantized(2),
    (CONTRIB, "DequantizeLinear"): _quantized(1),
    (CONTRIB, "QLinearAdd"): _binary("Add", 0, 3),
    (CONTRIB, "QLinearMul"): _binary("Mul", 0, 3),
    (CONTRIB, "MulInteger"): _binary("Mul", 0, 2, to=TensorProto.INT32),
    (CONTRIB, "QLinearConcat"): _concat,
    (CONTRIB, "QLinearWhere"): _where,
    # Convolutions, which read patches.
    (CONTRIB, "FusedConv"): _conv,
    (CONTRIB, "NhwcConv"): _conv_last,
    (CONTRIB, "NhwcFusedConv"): _conv_last,
    (CONTRIB, "QLinearConv"): _quantized_conv,
    (CONTRIB, "QLinearAveragePool"): _pool("AveragePool", last=False),
    (CONTRIB, "QLinearGlobalAveragePool"): _global_pool("GlobalAveragePool"),
    (CONTRIB, "NhwcMaxPool"): _pool("MaxPool", last=True),
    (BLOCKED, "ReorderInput"): _to_blocks,
    (BLOCKED, "ReorderOutput"): _from_blocks,
    (BLOCKED, "Conv"): _conv,
    (BLOCKED, "MaxPool"): _pool("MaxPool", last=False),
    (BLOCKED, "AveragePool"): _pool("AveragePool", last=False),
    (BLOCKED, "GlobalMaxPool"): _global_pool("GlobalMaxPool"),
    (BLOCKED, "GlobalAveragePool"): _global_pool("GlobalAveragePool"),
}
"""Operators of other domains, in whatever version of them."""


@cache
def rules(opset: int) -> Mapping[tuple[str, str], Rule]:
    """The rows that hold in a graph of an opset, by domain and operator."""
    own = {("", name): rule for name, rule in ONNX.items() if not _is_inferred(name, opset)}
    return {**own, **OTHERS}


def _is_inferred(name: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return False
    return schema.has_type_and_shape_inference_function
