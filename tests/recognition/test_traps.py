"""Graphs that look like a norm and are not, or that break a careless fuser. One trap each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import DECOMPOSED_RMS_NORM, assert_passes, check, kinds, model, residual

NORM = "y = LayerNormalization(x, scale, bias)"


@pytest.mark.parametrize(
    "norm",
    [
        "t = Mul(s, s) v = ReduceMean<axes=[-1]>(t) u = Add(v, eps) r = Sqrt(u) y = Div(x, r)",
        "t = Mul(s, x) v = ReduceMean<axes=[-1]>(t) u = Add(v, eps) r = Sqrt(u) y = Div(s, r)",
    ],
)
def test_a_weight_named_x_is_not_the_sum(norm: str) -> None:
    proto = model(
        f"s = Add(a, b) {norm}",
        constants={"x": np.arange(1, 9).astype(np.float32)},
    )
    assert not graphfuse.fuse(proto).changed


def test_a_scale_named_x_is_a_scale() -> None:
    proto = model(
        "s = Add(a, b) y = LayerNormalization(s, x, bias)",
        constants={"x": np.arange(1, 9).astype(np.float32)},
    )
    assert check(proto).fused[0].site.scale == "x"


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
def test_a_mask_that_is_read_stays(ep: str) -> None:
    """The norm ends before the Dropout whose mask somebody reads."""
    proto = residual(
        "n = LayerNormalization(x, scale, bias) y, mask = Dropout(n)",
        outputs="float[B,S,8] y, bool[B,S,8] mask",
    )
    result = graphfuse.fuse(proto, ep=ep)
    assert [fusion.site.output for fusion in result.fused] == ["n"]
    assert kinds(result.model)[-1] == "Dropout"


def test_overridable_axes_are_not_known() -> None:
    """A graph input can put the reduced axis back elsewhere."""
    proto = residual(
        """q = Mul(x, x) v = ReduceMean<axes=[-1], keepdims=0>(q) w = Unsqueeze(v, ax)
           u = Add(w, eps) r = Sqrt(u) y = Div(x, r)""",
        inputs="float[8,8,8] a, float[8,8,8] b, int64[1] ax",
        outputs="float[8,8,8] y",
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "ax"))
    assert not graphfuse.fuse(proto).changed


@pytest.mark.parametrize(("factor", "epsilon"), [(1e10, 1e-30), (1e-18, 1e4)])
def test_an_epsilon_that_no_attribute_holds(factor: float, epsilon: float) -> None:
    """mean((k*x)^2) + eps is k^2 * (mean(x^2) + eps/k^2): here eps/k^2 leaves float32."""
    proto = residual(
        """z = Mul(x, k) q = Mul(z, z) v = ReduceMean<axes=[-1]>(q)
           u = Add(v, eps) r = Sqrt(u) y = Div(z, r)""",
        constants={"k": np.array(factor, np.float32), "eps": np.array(epsilon, np.float32)},
    )
    assert [m.reason for m in graphfuse.fuse(proto).left] == [Reason.EPSILON_PRECISION]


def test_an_epsilon_cast_to_float16_is_the_rounded_one() -> None:
    proto = residual(
        "h = Cast<to=10>(eps) e = Cast<to=1>(h) "
        + DECOMPOSED_RMS_NORM.replace("e = Add(v, eps)", "f = Add(v, e)").replace(
            "Sqrt(e)", "Sqrt(f)"
        ),
        constants={"eps": np.array(3e-8, np.float32)},
    )
    result = check(proto)
    assert result.fused[0].site.epsilon == float(np.float16(3e-8))
    assert_passes(proto, result.model)


@pytest.mark.parametrize(
    "body",
    [
        # NaN for negative elements, where x^2 is not.
        "h = Sqrt(x) q = Pow(h, four) v = ReduceMean<axes=[-1]>(q) u = Add(v, eps) r = Sqrt(u) y = Div(x, r)",
        # NaN where the mean is 0.
        "m = ReduceMean<axes=[-1]>(x) one = Div(m, m) z = Mul(x, one) q = Mul(z, z)"
        " v = ReduceMean<axes=[-1]>(q) u = Add(v, eps) r = Sqrt(u) y = Div(z, r)",
    ],
)
def test_what_is_not_an_identity_is_not_used(body: str) -> None:
    proto = residual(body, constants={"four": np.array(4, np.float32)})
    assert not graphfuse.fuse(proto).changed


def test_an_add_inside_a_norm_is_not_another_residual() -> None:
    """The bias, and the deviation written as a sum, belong to the first norm."""
    proto = model(
        "x = Add(a, b) n = LayerNormalization(x, scale) z = Add(n, t) y = LayerNormalization(z, scale, bias)",
        constants={"t": np.ones(8, np.float32)},
    )
    # An input may override t: it is a bias all the same.
    proto.graph.input.append(helper.make_tensor_value_info("t", 1, [8]))
    result = graphfuse.fuse(proto)
    assert [fusion.site.output for fusion in result.fused] == ["z"]
    assert not result.left
    twice = residual(
        """m = ReduceMean<axes=[-1]>(x) n = Neg(m) d = Add(x, n) q = Mul(d, d)
           v = ReduceMean<axes=[-1]>(q) u = Add(v, eps) r = Sqrt(u) y = Div(d, r)
           z = LayerNormalization(d, scale, bias)""",
        outputs="float[B,S,8] y, float[B,S,8] z",
    )
    assert [miss.reason for miss in check(twice).left] == [Reason.SUM_TAKEN]
    deviation = residual(
        """m = ReduceMean<axes=[-1]>(x) n = Neg(m) d = Add(x, n) q = Mul(d, d)
           v = ReduceMean<axes=[-1]>(q) u = Add(v, eps) r = Sqrt(u) y = Div(d, r)"""
    )
    assert [fusion.site.sum for fusion in check(deviation).fused] == ["x"]


def test_a_deviation_is_no_residual() -> None:
    """A LayerNorm without an Add before it: x + (-mean) is its own, not a residual of an RMSNorm."""
    norm = """n = Neg(m) d = Add(t, n) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
              u = Add(v, eps) r = Sqrt(u) y = Div(d, r)"""
    for start in (
        "t = Mul(a, b) m = ReduceMean<axes=[-1]>(t)",
        "p = Mul(a, b) t = Identity(p) m = ReduceMean<axes=[-1]>(p)",
    ):
        result = check(model(f"{start} {norm}"))
        assert not result.changed
        assert [miss.reason for miss in result.left] == [Reason.INSIDE_A_NORM]
    # Another row's mean is an addend like any other.
    other = f"t = Mul(a, b) w = Add(t, b) m = ReduceMean<axes=[-1]>(w) {norm}"
    assert [fusion.site.kind for fusion in check(model(other)).fused] == ["RMSNorm"]


def test_scales_computed_from_each_others_sums() -> None:
    proto = model(
        """s1 = Add(a, b) s2 = Add(a, c)
           g2 = ReduceMean<axes=[0, 1], keepdims=0>(s1) g1 = ReduceMean<axes=[0, 1], keepdims=0>(s2)
           y = LayerNormalization(s1, g1, bias) z = LayerNormalization(s2, g2, bias)""",
        inputs="float[2,3,8] a, float[2,3,8] b, float[2,3,8] c",
        outputs="float[2,3,8] y, float[2,3,8] z",
    )
    result = check(proto)
    assert not result.changed
    assert {Reason.PARAMETER_COMPUTED} <= {miss.reason for miss in result.left}


def test_a_norm_that_nobody_reads() -> None:
    proto = residual("n = LayerNormalization(x, scale, bias) y = Relu(x)")
    assert not graphfuse.fuse(proto).changed


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), 0.0, -1.0])
def test_epsilons_of_no_use(epsilon: float) -> None:
    proto = residual(NORM)
    proto.graph.node[1].attribute.append(helper.make_attribute("epsilon", epsilon))
    assert [m.reason for m in graphfuse.fuse(proto).left] == [Reason.EPSILON_NOT_POSITIVE]


@pytest.mark.parametrize("axis", [-5, 3, 7])
def test_axes_out_of_range(axis: int) -> None:
    proto = residual(NORM)
    proto.graph.node[1].attribute.append(helper.make_attribute("axis", axis))
    assert not graphfuse.fuse(proto).changed


def test_hidden_sizes_of_no_norm() -> None:
    for hidden in (0, 10**12):
        shape = f"float[B,{hidden}]"
        proto = residual(
            DECOMPOSED_RMS_NORM.replace("y = Mul(n, scale)", "y = Identity(n)"),
            inputs=f"{shape} a, {shape} b",
            outputs=f"{shape} y",
        )
        assert [m.reason for m in graphfuse.fuse(proto).left] == [Reason.HIDDEN_SIZE]


def test_an_undefined_tensor_is_a_model_error() -> None:
    with pytest.raises(graphfuse.ModelError, match="'nowhere' is read, but nothing defines it"):
        graphfuse.scan(residual("y = LayerNormalization(nowhere, scale, bias)"))


@pytest.mark.parametrize("damage", ["short", "none", "negative", "type"])
def test_damaged_tensors_are_model_errors(damage: str) -> None:
    proto = residual(DECOMPOSED_RMS_NORM)
    epsilon = next(t for t in proto.graph.initializer if t.name == "eps")
    if damage == "short":
        epsilon.raw_data = b"abc"
    elif damage == "none":
        epsilon.ClearField("raw_data")
    elif damage == "negative":
        epsilon.dims.extend([-1, -1])
    else:
        epsilon.data_type = 99
    with pytest.raises(graphfuse.ModelError):
        graphfuse.scan(proto)


def test_a_model_in_memory_reads_no_file_outside(tmp_path: object) -> None:
    proto = residual(DECOMPOSED_RMS_NORM)
    epsilon = next(t for t in proto.graph.initializer if t.name == "eps")
    epsilon.ClearField("raw_data")
    epsilon.data_location = TensorProto.EXTERNAL
    epsilon.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(graphfuse.ModelError, match="leaves the model's folder"):
        graphfuse.scan(proto)


def test_long_chains_end() -> None:
    """Repeated squaring, nested reciprocals and affine chains are given up, not expanded."""
    lines = ["t0 = Mul(x, tenth)"] + [f"t{i + 1} = Mul(t{i}, t{i})" for i in range(40)]
    lines += ["v = ReduceMean<axes=[-1]>(t40)", "r = Sqrt(v)", "y = Div(x, r)"]
    proto = residual("\n".join(lines), constants={"tenth": np.array(0.1, np.float32)})
    assert not graphfuse.scan(proto).sites
    lines = []
    for i in range(300):
        before = f"s{i}" if i else "x"
        lines.append(f"p{i} = Mul({before}, scale) s{i + 1} = Add(p{i}, one)")
        lines.append(f"m{i} = ReduceMean<axes=[-1]>(s{i + 1})")
    proto = residual(
        "\n".join([*lines, "y = Identity(s300)"]), constants={"one": np.ones((), np.float32)}
    )
    assert not graphfuse.scan(proto).sites


SILENT = {
    "a scale made of the sum": (
        "g = ReduceMean<axes=[0, 1], keepdims=0>(x) y = LayerNormalization(x, g, bias)",
        {},
        Reason.PARAMETER_OF_SUM,
    ),
    "a scale made of an activation": (
        "g = ReduceMean<axes=[0, 1], keepdims=0>(a) y = LayerNormalization(x, g, bias)",
        {},
        Reason.PARAMETER_COMPUTED,
    ),
    "rank unknown": (
        DECOMPOSED_RMS_NORM,
        {"inputs": "float a, float b", "outputs": "float y"},
        Reason.UNKNOWN_SHAPE,
    ),
    "type unknown": (
        "f = custom.Foo(a) s = Add(f, b) y = LayerNormalization(s, scale, bias)",
        {"extra_imports": ', "custom" : 1'},
        Reason.UNKNOWN_SHAPE,
    ),
    "statistic through Max": (
        DECOMPOSED_RMS_NORM.replace("Add(v, eps)", "Max(v, eps)"),
        {},
        Reason.STATISTIC_CLAMPED,
    ),
    "transposed": (
        "t = Transpose<perm=[0, 2, 1]>(x) y = LayerNormalization(t, s3, s3)",
        {
            "inputs": "float[2,3,8] a, float[2,3,8] b",
            "outputs": "float[2,8,3] y",
            "constants": {"s3": np.ones(3, np.float32)},
        },
        Reason.SUM_RESHAPED,
    ),
    "reshaped across the last axis": (
        "r = Reshape(x, flat) y = LayerNormalization(r, s16, b16)",
        {
            "constants": {
                "flat": np.array([-1, 16]),
                "s16": np.ones(16, np.float32),
                "b16": np.ones(16, np.float32),
            },
            "outputs": "float[N,16] y",
        },
        Reason.SUM_RESHAPED,
    ),
    "narrowed": (
        "h = Cast<to=10>(x) n = LayerNormalization(h, s16, b16) y = Cast<to=1>(n)",
        {"constants": {"s16": np.ones(8, np.float16), "b16": np.ones(8, np.float16)}},
        Reason.SUM_NARROWED,
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_no_candidate_is_passed_over_in_silence(case: str) -> None:
    body, options, reason = SILENT[case]
    proto = residual(body, **options)
    if case == "type unknown":
        foo = next(node for node in proto.graph.node if node.op_type == "Foo")
        foo.domain = "custom"
    assert [m.reason for m in graphfuse.scan(proto).near_misses] == [reason]


def test_onnxruntimes_own_norms_pass_types_on() -> None:
    body, x = [], "a"
    for layer in range(3):
        body.append(
            f"s{layer} = Add({x}, b) y{layer} = SimplifiedLayerNormalization(s{layer}, scale)"
        )
        x = f"y{layer}"
    proto = model("\n".join([*body, "y = Identity(y2)"]))
    assert len(graphfuse.scan(proto).sites) == 3


def test_skip_operators_pass_types_on() -> None:
    proto = residual(
        "z, u, v, t = SkipLayerNormalization(x, a, scale, bias) s = Add(t, z) y = LayerNormalization(s, scale, bias)",
        extra_imports=', "com.microsoft" : 1',
    )
    proto.graph.node[1].domain = "com.microsoft"
    found = graphfuse.scan(proto)
    assert found.already_fused == 1
    assert [site.sum for site in found.sites] == ["t", "s"]
    assert [site.fused_by for site in found.sites] == ["com.microsoft::SkipLayerNormalization", ""]


def test_static_decode_shapes_are_not_taken_for_vectors() -> None:
    """With shape (1, 1, 8) every activation looks like a vector."""
    body = """
        x0 = Add(a, b) n0 = LayerNormalization(x0, scale, bias) f = MatMul(n0, w)
        x1 = Add(x0, f) n1 = LayerNormalization(x1, scale, bias) y = Add(n1, b)
    """
    shape = "float[1,1,8]"
    proto = model(
        body,
        inputs=f"{shape} a, {shape} b",
        outputs=f"{shape} y",
        constants={"w": np.eye(8, dtype=np.float32)},
    )
    result = check(proto)
    assert [fusion.site.output for fusion in result.fused] == ["n0", "n1"]


@pytest.mark.parametrize("domain", ["ai.onnx", ""])
def test_the_default_domain_has_two_names(domain: str) -> None:
    proto = residual(NORM)
    for named in (*proto.graph.node, *proto.opset_import):
        named.domain = domain
    result = check(proto)
    assert result.changed
    assert_passes(proto, result.model)


@pytest.mark.parametrize("rank", [1, 2, 4, 5])
def test_sites_of_every_rank_validate(rank: int) -> None:
    shape = ",".join([*"BCDE"[: rank - 1], "8"])
    proto = residual(NORM, inputs=f"float[{shape}] a, float[8] b", outputs=f"float[{shape}] y")
    assert_passes(proto, check(proto).model)


@pytest.mark.parametrize("hidden", [64, 768])
@pytest.mark.parametrize(
    "norm", ["y = LayerNormalization(x, s)", "y = SimplifiedLayerNormalization(x, s)"]
)
def test_a_norm_alone_validates(hidden: int, norm: str) -> None:
    """No other operator hides the rounding of the norm: no false alarm on any seed."""
    shape = f"float[B,S,{hidden}]"
    scale = np.random.default_rng(0).normal(1, 0.2, hidden).astype(np.float32)
    proto = residual(
        norm, inputs=f"{shape} a, {shape} b", outputs=f"{shape} y", constants={"s": scale}
    )
    fused = graphfuse.fuse(proto).model
    for seed in range(3):
        assert_passes(proto, fused, feeds=graphfuse.Feeds(seed=seed))


def test_sparse_initializers_have_a_twin() -> None:
    proto = residual(
        NORM + " z = Add(y, sparse)",
        outputs="float[B,S,8] z",
        constants={"sparse": np.zeros(8, np.float32)},
    )
    dense = next(t for t in proto.graph.initializer if t.name == "sparse")
    proto.graph.initializer.remove(dense)
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [2], [1, 5])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    assert_passes(proto, check(proto).model)
