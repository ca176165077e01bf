"""Cases of `operator_types`: lookups, quantized operators, convolutions."""

from __future__ import annotations

from tests.support.node_cases import BLOCKED, Q_OUT, Case, Q, alike

TABLES = "float[32,8] we, float[16,8] wp, float[2,8] wt, float[8] w, float[8] wb"
Q_TABLES = "uint8[32,8] we, uint8[16,8] wp, uint8[2,8] wt, uint8[8] w, uint8[8] wb, int32[B,S] m, float s1, float s2, float s3, float s4, float s5, uint8 z1, uint8 z2, uint8 z3, uint8 z4, uint8 z5"
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
