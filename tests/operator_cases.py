"""One node each of the operators that `graphfuse.graph.operator_types` knows, and what it gives.

ONNX text without the domain's prefix. Symbols are B, S, T and P; `?` is an extent that no input
tells. Inputs whose names begin with w are weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

CONTRIB = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"


@dataclass(frozen=True)
class Case:
    """A node, its inputs, and the types that it gives.

    `runs` says whether the CPU provider has a kernel; `values` are those of inputs that matter.
    """

    text: str
    inputs: str
    gives: str
    opset: int = 17
    runs: bool = True
    values: dict[str, np.ndarray] = field(default_factory=dict)
    domain: str = CONTRIB

    @property
    def operator(self) -> tuple[str, str]:
        """The row of the table."""
        return self.domain, re.split(r"[<(]", self.text.split("= ", 1)[1])[0].strip()

    def __str__(self) -> str:
        return f"{self.text} of {self.inputs} at {self.opset}"


def alike(
    names: str, inputs: str = "float[B,S,8] a", gives: str = "float[B,S,8] y", **more: object
) -> list[Case]:
    """Operators with equal inputs and outputs."""
    operands = ", ".join(re.findall(r"(\w+)(?:,|$)", re.sub(r"\[[^]]*\]", "", inputs)))
    made: list[Case] = []
    for name in names.split():
        head, _, attributes = name.partition("<")
        written = f"{head}<{attributes}" if attributes else head
        made.append(Case(f"y = {written}({operands})", inputs, gives, **more))  # type: ignore[arg-type]
    return made


Q = "uint8[B,S,8] a, float ws, uint8 wz"
Q_OUT = "float wys, uint8 wyz"
PROJECTED = "uint8[24,1,8] wb, float[24] ws"
NBITS = "K = 16, N = 24, bits = 4, block_size = 16"
TYPES_3 = "float[B,S,16] a, float[16,{0}] w, float[{0}] wb"
MOE = "float[4,16,8] w1, float[4,16] wb1, float[4,8,16] w2"
GQA = "GroupQueryAttention<num_heads = 4, kv_num_heads = 2>"
LENGTHS = {"n": np.array(7), "t": np.array(8)}

ONNX = [
    Case("y = LayerNormalization(a, w)", "float[B,S,8] a, float[8] w", "float[B,S,8] y", 14),
    Case(
        "y = LayerNormalization<axis = 1>(a, w)",
        "float[B,4,8] a, float[4,8] w",
        "float[B,4,8] y",
        11,
    ),
    Case("y = SimplifiedLayerNormalization(a, w)", "float[B,S,8] a, float[8] w", "float[B,S,8] y"),
    Case(
        "y = GroupNormalization<num_groups = 2>(a, w, w2)",
        "float[B,8,S] a, float[8] w, float[8] w2",
        "float[B,8,S] y",
        21,
    ),
    Case("y = MeanVarianceNormalization(a)", "float[B,2,S,T] a", "float[B,2,S,T] y", 13),
    Case("y = GreaterOrEqual(a, b)", "float[B,1,S] a, float[T,1] b", "bool[B,T,S] y", 12),
    Case("y = LessOrEqual(a, b)", "float[B,1,S] a, float[T,1] b", "bool[B,T,S] y", 15),
    Case("y = Compress<axis = 1>(a, c)", "float[B,S,4] a, bool[S] c", "float[B,?,4] y", 9),
    Case("y = Compress(a, c)", "float[B,S,4] a, bool[S] c", "float[?] y", 10),
    *alike(
        "Affine ParametricSoftplus<alpha=1.0,beta=1.0> ScaledTanh<alpha=1.0,beta=1.0> Scale",
        opset=9,
    ),
    Case("y = ImageScaler<bias = [0.0, 0.0]>(a)", "float[B,2,S,T] a", "float[B,2,S,T] y", 9),
]

ELEMENTWISE = [
    *alike("Gelu QuickGelu FastGelu"),
    *alike("BiasGelu FastGelu", "float[B,S,8] a, float[8] w"),
    *alike("BiasAdd", "float[B,S,8] a, float[8] w, float[B,S,8] b", runs=False),
    *alike(
        "BiasSoftmax<axis=2,is_inner_broadcast=1>",
        "float[B,2,S,T] a, float[B,1,1,T] b",
        "float[B,2,S,T] y",
        runs=False,
    ),
    *alike("BitmaskDropout", runs=False),
    *alike("BitmaskBiasDropout", "float[B,S,8] a, float[8] w", runs=False),
    Case(
        "y, m = BiasDropout(a, w)",
        "float[B,S,8] a, float[8] w",
        "float[B,S,8] y, bool[B,S,8] m",
        runs=False,
    ),
    *alike(
        "Inverse", "float[B,S,4,4] a", "float[B,S,4,4] y", values={"a": np.eye(4, dtype=np.float32)}
    ),
    *alike("Trilu", "float[B,S,T] a", "float[B,S,T] y"),
    *alike(
        "QLinearLeakyRelu QLinearSigmoid QLinearSoftmax<axis=-1,opset=13>",
        f"{Q}, {Q_OUT}",
        "uint8[B,S,8] y",
    ),
    *alike(
        "QOrderedGelu<order_X=1,order_Y=1>",
        "int8[B,S,8] a, float ws, float ws2",
        "int8[B,S,8] y",
        runs=False,
    ),
    *alike(
        "QOrderedLayerNormalization<order_X=1,order_Y=1>",
        "int8[B,S,8] a, float ws, float[8] w, float[8] wb, float ws2",
        "int8[B,S,8] y",
        runs=False,
    ),
    *alike(
        "GroupNorm<groups=2,activation=0>",
        "float[B,S,T,8] a, float[8] w, float[8] wb",
        "float[B,S,T,8] y",
        runs=False,
    ),
    Case(
        "y, s = SkipGroupNorm<groups = 2, activation = 0>(a, w, wb, b)",
        "float[B,S,T,8] a, float[8] w, float[8] wb, float[B,8] b",
        "float[B,S,T,8] y, float[B,S,T,8] s",
        runs=False,
    ),
    *alike("SimplifiedLayerNormalization", "float[B,S,8] a, float[8] w", runs=False),
    Case(
        "y, _m, _v, s = SkipLayerNormalization(a, b, w)",
        "float[B,S,8] a, float[B,S,8] b, float[8] w",
        "float[B,S,8] y, float[B,S,8] s",
    ),
    Case(
        "y, _m, _v, s = SkipSimplifiedLayerNormalization(a, b, w)",
        "float[B,S,8] a, float[B,S,8] b, float[8] w",
        "float[B,S,8] y, float[B,S,8] s",
    ),
    *alike("BiasSplitGelu", "float[B,S,8] a, float[8] w", "float[B,S,4] y", runs=False),
    Case(
        "y = NGramRepeatBlock<ngram_size = 2>(a, b)", "int64[B,S] a, float[B,8] b", "float[B,8] y"
    ),
    Case(
        "q, k = GemmaRotaryEmbedding(e, a, ar, b, br)",
        "float[B,S,8] e, float16[B,4,S,8] a, float16[B,4,S,8] ar, float16[B,2,S,8] b, float16[B,2,S,8] br",
        "float16[B,4,S,8] q, float16[B,2,S,8] k",
        runs=False,
    ),
    *alike(
        "RotaryEmbedding",
        "float[B,4,S,8] a, int64[B,S] p, float[16,4] wc, float[16,4] wn",
        "float[B,4,S,8] y",
    ),
    *alike(
        "RotaryEmbedding",
        "float[B,S,32] a, int64[B,S] p, float[16,16] wc, float[16,16] wn",
        "float[B,S,32] y",
    ),
    *alike(
        "MRotaryEmbedding<mrope_section=[2,1,1]>",
        "float[B,4,S,8] a, int64[3,B,S] p, float[16,4] wc, float[16,4] wn",
        "float[B,4,S,8] y",
    ),
    *alike(
        'MoE<k=1,activation_type="relu">',
        f"float[B,S,8] a, float[P,4] r, {MOE}",
        values={"rows": np.array(1)},
    ),
    *alike(
        'QMoE<k=1,activation_type="relu",expert_weight_bits=8>',
        "float[B,S,8] a, float[P,4] r, uint8[4,16,8] w1, float[4,16] ws1, float[4,16] wb1, uint8[4,8,16] w2, float[4,8] ws2",
    ),
    *alike("ScaledSiLU", "float[B,S,8] a, float w"),
    *alike("GatedAdd", "float[B,S,8] a, float[B,S,8] b, float[B,S,1] g"),
    *alike("GatedRMSNorm", "float[B,S,8] a, float[8] w, float[B,S,8] g"),
    *alike("BranchwiseRMSNorm<num_branches=2>", "float[B,S,8] a, float[2,4] w"),
    Case(
        "y = LinearAttentionGate(a, w, w2)",
        "float[B,S,8] a, float[8] w, float[8] w2",
        "float[B,S,8] y",
    ),
]

PRODUCTS = [
    *[
        Case(
            f"y = {name}<transA = {a}, transB = {b}>(a, b)",
            f"float[B,2,{'T,S' if a else 'S,T'}] a, float[B,2,{'P,T' if b else 'T,P'}] b",
            "float[B,2,S,P] y",
            opset,
        )
        for name, a, b, opset in (
            ("FusedMatMul", 0, 0, 17),
            ("FusedMatMul", 0, 1, 17),
            ("FusedMatMul", 1, 0, 11),
            ("FusedMatMul", 1, 1, 13),
            ("TransposeMatMul", 0, 1, 11),
        )
    ],
    Case(
        "y = FusedMatMul<transBatchA = 1>(a, b)",
        "float[S,B,2,T] a, float[B,2,T,P] b",
        "float[B,2,S,P] y",
    ),
    Case(
        "y = FusedMatMul<transBatchB = 1>(a, b)", "float[B,S,T] a, float[T,B,P] b", "float[B,S,P] y"
    ),
    Case(
        "y = FusedMatMul<transBatchA = 1, transBatchB = 1, transA = 1, transB = 1>(a, b)",
        "float[T,B,S] a, float[P,B,T] b",
        "float[B,S,P] y",
    ),
    *alike(
        'FusedMatMulActivation<transB=1,activation="Relu">',
        "float[B,S,T] a, float[B,P,T] b",
        "float[B,S,P] y",
        runs=False,
    ),
    *alike(
        'FusedGemm<transB=1,activation="Relu">',
        "float[S,8] a, float[16,8] w, float[16] wb",
        "float[S,16] y",
    ),
    *alike("GemmFastGelu", "float[B,S,8] a, float[8,16] w", "float[B,S,16] y", runs=False),
    *alike("MatMulInteger16", "int16[B,S,8] a, int16[8,16] w", "int32[B,S,16] y"),
    *alike("DynamicQuantizeMatMul", "float[B,S,8] a, uint8[8,16] w, float ws", "float[B,S,16] y"),
    *alike(
        "MatMulIntegerToFloat",
        "uint8[B,S,8] a, uint8[8,16] w, float ws, float[16] ws2",
        "float[B,S,16] y",
    ),
    *alike(
        "QOrderedMatMul<order_A=1,order_B=0,order_Y=1>",
        "int8[B,S,8] a, float ws, int8[8,16] w, float ws2, float wy",
        "int8[B,S,16] y",
        runs=False,
    ),
    Case(
        "y = MatMulFpQ4<blk_quant_type = 1>(a, w, wshape)",
        "float[B,S,32] a, uint8[336] w, int64[2] wshape",
        "float[B,S,16] y",
        values={"wshape": np.array([32, 16])},
    ),
    Case(
        f"y = MatMulNBits<{NBITS}>(a, wb, ws)", f"float[B,S,16] a, {PROJECTED}", "float[B,S,24] y"
    ),
    Case(
        f"y = MatMulNBits<{NBITS}>(a, wb, ws)",
        f"float[B,S,16] a, {PROJECTED}",
        "float[B,S,24] y",
        11,
    ),
    Case(
        f"y, s = MatMulNBitsMlp<{NBITS}>(a, b, w, wb, ws, , wb2, ws2)",
        f"float[B,S,16] a, float[B,S,16] b, float[16] w, {PROJECTED}, uint8[24,1,8] wb2, float[24] ws2",
        "float[B,S,24] y, float[B,S,16] s",
        runs=False,
    ),
    Case(
        "q, k, v, s = MatMulNBitsQkv<K = 16, Nq = 16, Nkv = 8, bits = 4, block_size = 16>(a, b, w, wb, ws, , wb2, ws2, , wb3, ws3)",
        f"float[B,S,16] a, float[B,S,16] b, float[16] w, {PROJECTED}, uint8[8,1,8] wb2, float[8] ws2, uint8[8,1,8] wb3, float[8] ws3",
        "float[B,S,16] q, float[B,S,8] k, float[B,S,8] v, float[B,S,16] s",
        runs=False,
    ),
    Case(
        f"y = MatMulNBitsQLoRA<{NBITS}>(a, wb, ws)",
        f"float[B,S,16] a, {PROJECTED}",
        "float[B,S,24] y",
        runs=False,
    ),
    Case(
        "y = MatMulPacked<K = 16, N = 24>(a, wb, ws)",
        f"float[B,S,16] a, {PROJECTED}",
        "float[B,S,24] y",
        runs=False,
    ),
    Case(
        "y = MatMulBnb4<K = 16, N = 24, block_size = 16, quant_type = 1>(a, wb, ws)",
        "float[B,S,16] a, uint8[192] wb, float[24] ws",
        "float[B,S,24] y",
    ),
    Case(
        "y = MatMulBnb4<K = 16, N = 24, block_size = 16, quant_type = 1, transB = 0, training_mode = 1>(a, wb, ws)",
        "float[B,S,24] a, uint8[192] wb, float[24] ws",
        "float[B,S,16] y",
    ),
    *alike(
        "MatMulBlockQuantizedFp8Weight",
        "float16[B,S,16] a, uint8[24,16] w, float[24,1] ws",
        "float16[B,S,24] y",
        runs=False,
    ),
    *alike(
        "MatMulBlockQuantizedFp4Weight",
        "float16[B,S,16] a, uint8[24,8] w, uint8[24,1] ws, float ws2",
        "float16[B,S,24] y",
        runs=False,
    ),
    Case(
        "y = QGemm<transB = 1>(a, ws, wz, w, ws2, wz2)",
        "uint8[S,8] a, float ws, uint8 wz, uint8[16,8] w, float ws2, uint8 wz2",
        "float[S,16] y",
    ),
    Case(
        "y = QGemm(a, ws, wz, w, ws2, wz2, , wys, wyz)",
        "uint8[S,8] a, float ws, uint8 wz, uint8[8,16] w, float ws2, uint8 wz2, float wys, uint8 wyz",
        "uint8[S,16] y",
    ),
]

ATTENTION = [
    Case("y = Attention<num_heads = 2>(a, w, wb)", TYPES_3.format(48), "float[B,S,16] y"),
    Case(
        "y, p = Attention<num_heads = 2>(a, w, wb)", TYPES_3.format(24), "float[B,S,8] y, ? p", 11
    ),
    Case(
        "y = Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 12]>(a, w, wb)",
        TYPES_3.format(28),
        "float[B,S,12] y",
    ),
    Case(
        "y = DecoderMaskedSelfAttention<num_heads = 2>(a, w, wb)",
        TYPES_3.format(48),
        "float[B,S,16] y",
        runs=False,
    ),
    Case(
        "y = PackedAttention<num_heads = 2>(a, w, wb, o, c)",
        "float[S,16] a, float[16,48] w, float[48] wb, int32[B,T] o, int32[P] c",
        "float[S,16] y",
        runs=False,
    ),
    Case(
        "y = QAttention<num_heads = 2>(a, w, wb, ws, ws2, , wz, wz2)",
        "uint8[B,S,16] a, uint8[16,48] w, float[48] wb, float ws, float ws2, uint8 wz, uint8 wz2",
        "float[B,S,16] y",
    ),
    Case(
        "y = MultiHeadAttention<num_heads = 2>(a, k, v)",
        "float[B,S,16] a, float[B,T,16] k, float[B,T,24] v",
        "float[B,S,24] y",
    ),
    Case(
        "y = MultiHeadAttention<num_heads = 2>(a, k, v)",
        "float[B,S,16] a, float[B,2,T,8] k, float[B,2,T,8] v",
        "float[B,S,16] y",
    ),
    Case(
        "y = MultiHeadAttention<num_heads = 2>(a, k)",
        "float[B,S,16] a, float[B,T,2,2,8] k",
        "float[B,S,16] y",
        runs=False,
    ),
    Case(
        "y = MultiHeadAttention<num_heads = 2>(a)",
        "float[B,S,2,3,8] a",
        "float[B,S,16] y",
        runs=False,
    ),
    Case(
        "y = DecoderMaskedMultiHeadAttention<num_heads = 2>(a, k, v)",
        "float[B,1,16] a, float[B,2,T,8] k, float[B,2,T,8] v",
        "float[B,1,16] y",
    ),
    Case(
        "y = DecoderMaskedMultiHeadAttention<num_heads = 2>(a)",
        "float[B,1,48] a",
        "? y",
        runs=False,
    ),
    Case(
        "y = PackedMultiHeadAttention<num_heads = 2>(a, k, v, , o, c)",
        "float[S,16] a, float[S,16] k, float[S,24] v, int32[B,T] o, int32[P] c",
        "float[S,24] y",
        runs=False,
    ),
    Case(
        "y = PackedMultiHeadAttention<num_heads = 2>(a, , , , o, c)",
        "float[S,2,3,8] a, int32[B,T] o, int32[P] c",
        "float[S,16] y",
        runs=False,
    ),
    Case(
        f"y, _k, _v = {GQA}(a, k, v, pk, pv, n, t)",
        "float[1,S,32] a, float[1,S,16] k, float[1,S,16] v, float[1,2,16,8] pk, float[1,2,16,8] pv, int32[1] n, int32 t",
        "float[1,S,32] y",
        values=LENGTHS,
    ),
    Case(
        f"y, _k, _v = {GQA}(a, , , pk, pv, n, t)",
        "float[1,S,64] a, float[1,2,16,8] pk, float[1,2,16,8] pv, int32[1] n, int32 t",
        "float[1,S,32] y",
        values=LENGTHS,
    ),
    Case(
        "y, _k, _v = SparseAttention<num_heads = 4, kv_num_heads = 2, sparse_block_size = 16>(a, , , pk, pv, r, c, t, n)",
        "float[1,S,64] a, float[1,2,16,8] pk, float[1,2,16,8] pv, int32[1,2] r, int32[1,1] c, int32 t, int32[1] n",
        "float[1,S,32] y",
        values={"r": np.array([[0, 1]]), "c": np.array([[0]]), "n": np.array(8), "t": np.array(8)},
        runs=False,
    ),
    Case(
        "y, _k, _v = PagedAttention<num_heads = 4, kv_num_heads = 2>(a, , , kc, vc, c, n, t)",
        "float16[S,64] a, float16[B,16,2,8] kc, float16[B,16,2,8] vc, int32[P] c, int32[T] n, int32[T,P] t",
        "float16[S,32] y",
        runs=False,
    ),
    Case(
        'y, _s = LinearAttention<q_num_heads = 2, kv_num_heads = 2, update_rule = "linear">(a, k, v)',
        "float[B,S,16] a, float[B,S,16] k, float[B,S,24] v",
        "float[B,S,24] y",
    ),
    *alike(
        "DecoderAttention<num_heads=2>",
        "float[S,B,16] a, float[T,B,16] k, float[16,16] w, float[16,32] w2, float[48] wb, bool[B,T] m, bool[1] w3, bool[1] w4, bool[1] w5, bool[1] w6",
        "float[S,B,16] y",
        runs=False,
    ),
    *alike(
        "LongformerAttention<num_heads=2,window=2>",
        "float[B,S,16] a, float[16,48] w, float[48] wb, float[B,S] m, float[16,48] w2, float[48] wb2, int32[B,S] g",
        "float[B,S,16] y",
        runs=False,
    ),
    *alike(
        "QOrderedLongformerAttention<num_heads=2,window=2,order_input=1,order_weight=0,order_global_weight=0,order_output=1>",
        "int8[B,S,16] a, float ws",
        "int8[B,S,16] y",
        runs=False,
    ),
    *alike(
        "RelativePositionBias<max_distance=8>",
        "float[8,2] w, int64[1] q, int64[1] k",
        "float[1,2,?,?] y",
        runs=False,
    ),
    *alike(
        "GatedRelativePositionBias<num_heads=2>",
        "float[B,S,16] a, float[16] w, float[1,2,S,S] r, float[8,8] w2, float[8] w3, float[1,2,1,1] w4",
        "float[B,2,S,S] y",
        runs=False,
    ),
    Case(
        "y, _o, _c, _m = RemovePadding(a, n)",
        "float[B,S,16] a, int32[B] n",
        "float[?,16] y",
        runs=False,
    ),
    *alike("RestorePadding", "float[T,16] a, int32[B,S] o", "float[B,S,16] y", runs=False),
]

TABLES = "float[32,8] we, float[16,8] wp, float[2,8] wt, float[8] w, float[8] wb"
Q_TABLES = "uint8[32,8] we, uint8[16,8] wp, uint8[2,8] wt, uint8[8] w, uint8[8] wb, int32[B,S] m, float s1, float s2, float s3, float s4, float s5, uint8 z1, uint8 z2, uint8 z3, uint8 z4, uint8 z5"
BLOCKS = "float[4,2] ws"
QUANTIZED = [
    Case(
        "y, i, s = EmbedLayerNormalization(a, t, we, wp, wt, w, wb)",
        f"int32[B,S] a, int32[B,S] t, {TABLES}",
        "float[B,S,8] y, int32[B] i, float[B,S,8] s",
    ),
    Case(
        "y, i = QEmbedLayerNormalization(a, t, we, wp, wt, w, wb, m, s1, s2, s3, s4, s5, z1, z2, z3, z4, z5)",
        f"int32[B,S] a, int32[B,S] t, {Q_TABLES}",
        "float[B,S,8] y, int32[B] i",
    ),
    *alike("TorchEmbedding", "float[32,8] w, int64[B,S] a", "float[B,S,8] y", runs=False),
    Case(
        "y = GatherBlockQuantized<gather_axis = 0, quantize_axis = 1, block_size = 16>(w, a, ws)",
        "uint8[4,16] w, int64[B,S] a, float[4,2] ws",
        "float[B,S,32] y",
    ),
    Case(
        "y = GatherBlockQuantized<gather_axis = 0, quantize_axis = 1, block_size = 16, bits = 8>(w, a, ws)",
        "uint8[4,32] w, int64[B,S] a, float[4,2] ws",
        "float[B,S,32] y",
    ),
    Case(
        "y = GatherBlockQuantized<gather_axis = 0, quantize_axis = 1, block_size = 16>(w, a, ws)",
        "int4[4,32] w, int64[B,S] a, float[4,2] ws",
        "float[B,S,32] y",
        21,
    ),
    *alike("QuantizeLinear", "float[B,S,8] a, float ws, int8 wz", "int8[B,S,8] y"),
    *alike("QuantizeLinear", "float[B,S,8] a, float ws", "uint8[B,S,8] y"),
    *alike("QuantizeLinear<axis=1>", "float[B,4,8] a, float[4] ws, uint8[4] wz", "uint8[B,4,8] y"),
    *alike("DequantizeLinear", Q),
    *alike(
        "DequantizeLinear<axis=1>", "uint8[B,4,8] a, float[4] ws, uint8[4] wz", "float[B,4,8] y"
    ),
    *alike(
        "QLinearAdd QLinearMul",
        f"uint8[B,1,8] a, float ws, uint8 wz, uint8[S,8] b, float ws2, uint8 wz2, {Q_OUT}",
        "uint8[B,S,8] y",
    ),
    *alike(
        "MulInteger",
        "uint8[B,1,8] a, uint8 wz, uint8[S,8] b, uint8 wz2",
        "int32[B,S,8] y",
        runs=False,
    ),
    Case(
        "y = QLinearConcat<axis = 2>(wys, wyz, a, ws, wz, b, ws2, wz2)",
        f"{Q_OUT}, {Q}, uint8[B,S,4] b, float ws2, uint8 wz2",
        "uint8[B,S,12] y",
    ),
    Case(
        "y = QLinearWhere(c, a, ws, wz, b, ws2, wz2, wys, wyz)",
        f"bool[B,S,1] c, uint8[8] a, float ws, uint8 wz, uint8[1] b, float ws2, uint8 wz2, {Q_OUT}",
        "uint8[B,S,8] y",
    ),
]

IMAGE, IMAGE_LAST = "float[B,8,12,10] a", "float[B,12,10,8] a"
Q_CONV = "float ws, uint8 wz, uint8[16,8,3,3] w, float ws2, uint8 wz2, float wys, uint8 wyz"
CONVOLUTIONS = [
    Case(
        'y = FusedConv<activation = "Relu", strides = [2, 2]>(a, w)',
        f"{IMAGE}, float[16,8,3,3] w",
        "float[B,16,5,4] y",
    ),
    Case(
        "y = NhwcConv<strides = [2, 2]>(a, w)",
        f"{IMAGE_LAST}, float[16,8,3,3] w",
        "float[B,5,4,16] y",
        runs=False,
    ),
    Case(
        'y = NhwcFusedConv<activation = "Relu", pads = [1, 1, 1, 1]>(a, w)',
        f"{IMAGE_LAST}, float[16,8,3,3] w",
        "float[B,12,10,16] y",
        runs=False,
    ),
    Case(
        "y = QLinearConv(a, ws, wz, w, ws2, wz2, wys, wyz)",
        f"uint8[B,8,12,10] a, {Q_CONV}",
        "uint8[B,16,10,8] y",
    ),
    Case(
        "y = QLinearConv<channels_last = 1>(a, ws, wz, w, ws2, wz2, wys, wyz)",
        f"uint8[B,12,10,8] a, {Q_CONV}",
        "uint8[B,10,8,16] y",
    ),
    Case(
        "y = QLinearAveragePool<kernel_shape = [2, 2], strides = [3, 3]>(a, ws, wz, wys, wyz)",
        f"uint8[B,8,12,10] a, float ws, uint8 wz, {Q_OUT}",
        "uint8[B,8,4,3] y",
    ),
    Case(
        "y = QLinearAveragePool<kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1>(a, ws, wz, wys, wyz)",
        f"uint8[B,8,12,10] a, float ws, uint8 wz, {Q_OUT}",
        "? y",
    ),
    Case(
        "y = QLinearAveragePool<kernel_shape = [2, 2], channels_last = 1>(a, ws, wz, wys, wyz)",
        f"uint8[B,12,10,8] a, float ws, uint8 wz, {Q_OUT}",
        "uint8[B,11,9,8] y",
    ),
    Case(
        "y = QLinearGlobalAveragePool(a, ws, wz, wys, wyz)",
        f"uint8[B,8,12,10] a, float ws, uint8 wz, {Q_OUT}",
        "uint8[B,8,1,1] y",
    ),
    Case(
        "y = NhwcMaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)",
        "uint8[B,12,10,8] a",
        "uint8[B,6,5,8] y",
    ),
    *[
        Case(
            f"y = {text}(a{', w' if 'Conv' in text else ''})",
            f"float[B,16,12,10] a{', float[16,16,3,3] w' if 'Conv' in text else ''}",
            gives,
            domain=BLOCKED,
        )
        for text, gives in (
            ("ReorderInput", "float[B,?,12,10] y"),
            ("ReorderOutput<channels = 12>", "float[B,12,12,10] y"),
            ("ReorderOutput<channels = 12, channels_last = 1>", "float[B,12,10,12] y"),
            ("Conv<strides = [2, 2]>", "float[B,16,5,4] y"),
            ("MaxPool<kernel_shape = [2, 2]>", "float[B,16,11,9] y"),
            ("AveragePool<kernel_shape = [2, 2]>", "float[B,16,11,9] y"),
            ("GlobalMaxPool", "float[B,16,1,1] y"),
            ("GlobalAveragePool", "float[B,16,1,1] y"),
        )
    ],
]

CASES = [*ELEMENTWISE, *PRODUCTS, *ATTENTION, *QUANTIZED, *CONVOLUTIONS]
