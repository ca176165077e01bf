"""What operators of ONNX do, as far as graphfuse asks: one table, from operator to traits.

The names are those of ONNX's domain and of onnxruntime's (`com.microsoft`), where none means two
things; whoever asks knows the domain of the node, and whether the operator may mean something else
there. The judges of a rewrite (`validation`, `certificate`) have sets of their own, so that a wrong
row here is no wrong row there.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Flag, auto
from functools import cache


class Trait(Flag):
    """What an operator promises, or what it is looked at for. "First" is its first input."""

    # Where the elements of the output come from.
    KEEPS = auto()
    """The first output is the first: values, type and shape (a Dropout's outside of training)."""
    RESHAPES = auto()
    """The elements of the first in their order, in another shape."""
    PERMUTES = auto()
    """The elements of the first, each once, in another order."""
    REPEATS = auto()
    """The elements of the first and no others, each as often as the others."""
    PICKS = auto()
    """Some elements of the first, and no others."""
    JOINS = auto()
    """Elements of several inputs, or of one and a filling, side by side in one tensor."""
    SEQUENCES = auto()
    """Reads or makes a sequence or an optional: its elements are tensors."""
    CASTS = auto()
    """The first, in another element type: the attribute `to`, or the second input's."""
    CLAMPS = auto()
    """The first, kept between limits; of Max and Min each input may be limit or operand."""
    QUANTIZES = auto()
    """The first on a grid of integers, or back from it: the other inputs are scale and offset."""

    # Arithmetic.
    ADDS = auto()
    """Sum, difference, product, quotient or negative of its operands, element by element."""
    MULTIPLIES = auto()
    """A product or quotient of its operands, a power or the negative of the first."""
    SQUARES = auto()
    """Squares the first, or may: a Pow by its exponent."""
    TURNS = auto()
    """A root, a power or a quotient: makes a factor of a statistic."""
    REDUCES = auto()
    """One number for all elements along some axes; the second input may name these."""
    CONTRACTS = auto()
    """Sums products along an axis, of the first with a weight or another activation."""
    PROJECTS = auto()
    """Nothing but the product of two matrices, and in a Gemm the addition of a vector."""

    # Norms.
    NORMALIZES_ROWS = auto()
    """A LayerNorm or RMSNorm, over the axes from `axis` to the last."""
    NORMALIZES_CHANNELS = auto()
    """A norm whose scale and bias are along the second axis, over the axes behind it."""
    NORMALIZES_WITHOUT_EPSILON = auto()
    """A norm that divides by a root to which nothing is added under it."""
    NORMALIZES = NORMALIZES_ROWS | NORMALIZES_CHANNELS | NORMALIZES_WITHOUT_EPSILON
    RUNTIME_NORM = auto()
    """With one of these in a norm onnxruntime computes that by one kernel: it is the operator, or
    what onnxruntime's own fusions start from."""

    # Types, shapes, and what those are computed by.
    KEEPS_TYPE = auto()
    """The first output has the element type of the first, at every opset."""
    BOOLEAN = auto()
    """The output is of booleans."""
    EXTENTS = auto()
    """Makes a shape, or takes an extent out of one."""
    COMPUTES_SHAPES = auto()
    """Shapes and axes are computed by it: it is fast and always gives the same, and its output is
    no larger than its operands together, broadcast, or is one of `GROWS`."""
    GROWS = auto()
    """How large the output is its operands' values say."""
    PROPAGATED = auto()
    """onnx's inference computes the output of a shape; it is no longer than the longest input."""


_T = Trait
_SHAPE = Trait.COMPUTES_SHAPES
_ARITHMETIC = _T.ADDS | _T.KEEPS_TYPE | _SHAPE
_COMPARES = _T.BOOLEAN | _SHAPE
_STATISTIC = _T.REDUCES | _T.KEEPS_TYPE
_PRODUCT = _T.CONTRACTS | _T.PROJECTS
_PICKED = _T.PICKS | _T.KEEPS_TYPE

# fmt: off
_WITH_PRODUCTS = (
    "ConvInteger", "ConvTranspose", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "Attention", "GRU", "LSTM", "RNN",
    # onnxruntime's: see types/operator_types.py.
    "DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GemmFastGelu",
    "MatMulBnb4", "MatMulFpQ4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits",
    "MatMulNBitsMlp", "MatMulNBitsQLoRA", "MatMulNBitsQkv", "MatMulPacked",
    "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "QGemm", "QOrderedMatMul",
    "TransposeMatMul", "MoE", "QMoE", "FusedConv", "NhwcConv", "NhwcFusedConv",
    "DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention",
    "GroupQueryAttention", "LinearAttention", "LongformerAttention", "MultiHeadAttention",
    "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QAttention",
    "QOrderedAttention", "QOrderedLongformerAttention", "SparseAttention",
)
# fmt: on

TRAITS: Mapping[str, Trait] = {
    # The same elements.
    "Identity": _T.KEEPS | _T.KEEPS_TYPE | _T.PROPAGATED | _SHAPE,
    "Dropout": _T.KEEPS | _T.KEEPS_TYPE,
    "Reshape": _T.RESHAPES | _T.KEEPS_TYPE | _SHAPE,
    "Flatten": _T.RESHAPES | _T.KEEPS_TYPE | _SHAPE,
    "Squeeze": _T.RESHAPES | _T.KEEPS_TYPE | _T.PROPAGATED | _SHAPE,
    "Unsqueeze": _T.RESHAPES | _T.KEEPS_TYPE | _T.PROPAGATED | _SHAPE,
    "Transpose": _T.PERMUTES | _T.KEEPS_TYPE | _SHAPE,
    "Expand": _T.REPEATS | _T.KEEPS_TYPE | _T.GROWS | _SHAPE,
    "Tile": _T.REPEATS | _T.KEEPS_TYPE | _T.GROWS | _SHAPE,
    "Cast": _T.CASTS | _T.PROPAGATED | _SHAPE,
    "CastLike": _T.CASTS,
    "QuantizeLinear": _T.QUANTIZES,
    "DequantizeLinear": _T.QUANTIZES,
    # Some of them, or those of several.
    "Slice": _PICKED | _T.EXTENTS | _T.PROPAGATED | _SHAPE,
    "Gather": _PICKED | _T.EXTENTS | _T.PROPAGATED | _SHAPE,
    "GatherND": _PICKED,
    "GatherElements": _PICKED,
    "Split": _PICKED | _SHAPE,
    "Concat": _T.JOINS | _T.KEEPS_TYPE | _T.EXTENTS | _SHAPE,
    "Pad": _T.JOINS | _T.KEEPS_TYPE,
    "Where": _T.JOINS | _SHAPE,
    "ScatterND": _T.JOINS | _T.KEEPS_TYPE | _SHAPE,
    "ScatterElements": _T.JOINS | _T.KEEPS_TYPE,
    "SequenceAt": _T.SEQUENCES,
    "SequenceInsert": _T.SEQUENCES,
    "SequenceConstruct": _T.SEQUENCES,
    "SplitToSequence": _T.SEQUENCES,
    "ConcatFromSequence": _T.SEQUENCES,
    "Optional": _T.SEQUENCES,
    "OptionalGetElement": _T.SEQUENCES,
    # Arithmetic, element by element.
    "Add": _ARITHMETIC | _T.PROPAGATED,
    "Sub": _ARITHMETIC | _T.PROPAGATED,
    "Mul": _ARITHMETIC | _T.PROPAGATED | _T.MULTIPLIES,
    "Div": _ARITHMETIC | _T.PROPAGATED | _T.MULTIPLIES | _T.TURNS,
    "Neg": _ARITHMETIC | _T.MULTIPLIES,
    "Pow": _T.MULTIPLIES | _T.SQUARES | _T.TURNS | _T.RUNTIME_NORM | _T.KEEPS_TYPE,
    "Sqrt": _T.TURNS | _T.KEEPS_TYPE | _SHAPE,
    "Reciprocal": _T.TURNS | _T.KEEPS_TYPE,
    "Sum": _T.KEEPS_TYPE,
    "Mean": _T.KEEPS_TYPE,
    "Mod": _T.KEEPS_TYPE | _SHAPE,
    "Ceil": _T.KEEPS_TYPE | _SHAPE,
    "Floor": _T.KEEPS_TYPE | _SHAPE,
    "Round": _T.KEEPS_TYPE | _SHAPE,
    "Clip": _T.CLAMPS | _T.KEEPS_TYPE,
    "Min": _T.CLAMPS | _T.KEEPS_TYPE | _SHAPE,
    "Max": _T.CLAMPS | _T.KEEPS_TYPE | _SHAPE,
    "Relu": _T.CLAMPS | _T.KEEPS_TYPE,
    "Abs": _T.CLAMPS | _T.KEEPS_TYPE | _SHAPE,
    **dict.fromkeys(("Exp", "Log", "Erf", "Tanh", "Sigmoid", "Softmax", "Gelu"), _T.KEEPS_TYPE),
    "CumSum": _T.KEEPS_TYPE,
    "Equal": _COMPARES,
    "Less": _COMPARES,
    "Greater": _COMPARES,
    "LessOrEqual": _COMPARES,
    "GreaterOrEqual": _COMPARES,
    "And": _COMPARES | _T.KEEPS_TYPE,
    "Or": _COMPARES | _T.KEEPS_TYPE,
    "Not": _COMPARES | _T.KEEPS_TYPE,
    "IsNaN": _T.BOOLEAN,
    "IsInf": _T.BOOLEAN,
    # Along axes.
    "ReduceMean": _STATISTIC,
    "ReduceSum": _STATISTIC | _SHAPE,
    "ReduceSumSquare": _STATISTIC | _T.SQUARES,
    "ReduceL1": _STATISTIC,
    "ReduceL2": _STATISTIC | _T.SQUARES,
    "ReduceLogSum": _STATISTIC,
    "ReduceLogSumExp": _STATISTIC,
    "ReduceMax": _STATISTIC | _SHAPE,
    "ReduceMin": _STATISTIC | _SHAPE,
    "ReduceProd": _STATISTIC | _T.EXTENTS | _SHAPE,
    # Shapes.
    "Shape": _T.EXTENTS | _SHAPE,
    "Size": _T.EXTENTS | _SHAPE,
    "ConstantOfShape": _T.GROWS | _SHAPE,
    "Range": _T.KEEPS_TYPE | _T.GROWS | _SHAPE,
    # Norms.
    "LayerNormalization": _T.NORMALIZES_ROWS | _T.RUNTIME_NORM | _T.KEEPS_TYPE,
    "SimplifiedLayerNormalization": _T.NORMALIZES_ROWS | _T.RUNTIME_NORM,
    "RMSNormalization": _T.NORMALIZES_ROWS,
    "InstanceNormalization": _T.NORMALIZES_CHANNELS | _T.KEEPS_TYPE,
    "GroupNormalization": _T.NORMALIZES_CHANNELS | _T.KEEPS_TYPE,
    "MeanVarianceNormalization": _T.NORMALIZES_WITHOUT_EPSILON | _T.KEEPS_TYPE,
    "LpNormalization": _T.NORMALIZES_WITHOUT_EPSILON | _T.KEEPS_TYPE,
    "BatchNormalization": _T.KEEPS_TYPE,
    # Products, and what has some inside.
    "MatMul": _PRODUCT | _T.KEEPS_TYPE,
    "Gemm": _PRODUCT | _T.KEEPS_TYPE,
    "Einsum": _T.CONTRACTS | _T.KEEPS_TYPE,
    "Conv": _T.CONTRACTS | _T.KEEPS_TYPE,
    **dict.fromkeys(_WITH_PRODUCTS, _T.CONTRACTS),
}
"""An operator that is not here has no trait."""


@cache
def having(traits: Trait) -> frozenset[str]:
    """The operators that have any of some traits."""
    return frozenset(op_type for op_type, own in TRAITS.items() if own & traits)
