"""One node each of the operators that `graphfuse.types.operator_types` knows, and what it gives.

ONNX text without the domain's prefix. Symbols are B, S, T and P; `?` is an extent that no input
tells. Inputs whose names begin with w are weights.
"""

from __future__ import annotations

import numpy as np

from tests.support.attention_cases import ATTENTION
from tests.support.node_cases import MOE, NBITS, PROJECTED, Q_OUT, Case, Q, alike
from tests.support.quantized_cases import CONVOLUTIONS, QUANTIZED

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

CASES = [*ELEMENTWISE, *PRODUCTS, *ATTENTION, *QUANTIZED, *CONVOLUTIONS]
