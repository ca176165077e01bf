"""Cases of `operator_types`: attention and what stands around it."""

from __future__ import annotations

import numpy as np

from tests.support.node_cases import GQA, LENGTHS, TYPES_3, Case, alike

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
