"""The table of operators keeps its promises: by ONNX's schemas, and by what ONNX computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import graphfuse
from graphfuse.graph.operators import TRAITS, Trait, having
from graphfuse.records.element_types import ElementType
from graphfuse.records.reasons import Reason
from graphfuse.types.extents import typed
from graphfuse.types.inference import infer_types
from graphfuse.types.operator_types import OTHERS
from tests.support.graphs import DECOMPOSED_RMS_NORM, assert_passes, model, residual

RUNTIME_ONLY = {name for _, name in OTHERS} | {
    "SimplifiedLayerNormalization", "QOrderedAttention",
}  # fmt: skip
X = np.arange(6, dtype=np.float32).reshape(2, 3)
# What each operator is given beside X.
OPERANDS: dict[str, list[np.ndarray]] = {
    "Reshape": [np.array([3, 2])],
    "Squeeze": [],
    "Unsqueeze": [np.array([0])],
    "Expand": [np.array([2, 2, 3])],
    "Tile": [np.array([2, 3])],
    "Slice": [np.array([1]), np.array([2])],
    "Gather": [np.array([1])],
    "GatherND": [np.array([[1, 2]])],
    "GatherElements": [np.array([[1, 0, 1]])],
    "Split": [np.array([1, 1])],
}


def schemas(op_type: str) -> list[onnx.defs.OpSchema]:
    """Those of all versions of an operator of ONNX; none of what is onnxruntime's alone."""
    found = onnx.defs.get_all_schemas_with_history()
    return [schema for schema in found if (schema.domain, schema.name) == ("", op_type)]


def computed(op_type: str) -> np.ndarray:
    """The first output for X."""
    arrays = [X, *OPERANDS.get(op_type, [])]
    names = [f"x{at}" for at in range(len(arrays))]
    outputs = ["y", "z"] if op_type == "Split" else ["y"]
    node = helper.make_node(op_type, names, outputs)
    proto = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(name, 0, None) for name in names],
            [helper.make_tensor_value_info("y", 0, None)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    found = ReferenceEvaluator(proto).run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(found[0])


@pytest.mark.parametrize("op_type", TRAITS)
def test_rows_are_operators(op_type: str) -> None:
    assert TRAITS[op_type]
    assert schemas(op_type) or op_type in RUNTIME_ONLY


@pytest.mark.parametrize("op_type", TRAITS)
def test_types_are_those_of_the_schemas(op_type: str) -> None:
    traits = TRAITS[op_type]
    for schema in schemas(op_type):
        output = schema.outputs[0]
        if traits & Trait.KEEPS_TYPE:
            fixed = len(output.types) == 1 and output.types == schema.inputs[0].types
            assert fixed or output.type_str == schema.inputs[0].type_str, schema.since_version
        assert bool(traits & Trait.BOOLEAN) == (list(output.types) == ["tensor(bool)"])


@pytest.mark.parametrize("op_type", sorted(having(Trait.KEEPS | Trait.RESHAPES)))
def test_the_same_elements_in_their_order(op_type: str) -> None:
    found = computed(op_type)
    assert found.ravel().tolist() == X.ravel().tolist()
    assert not TRAITS[op_type] & Trait.KEEPS or found.shape == X.shape


@pytest.mark.parametrize("op_type", sorted(having(Trait.PERMUTES | Trait.REPEATS)))
def test_the_same_elements_as_often(op_type: str) -> None:
    elements, counts = np.unique(computed(op_type), return_counts=True)
    assert elements.tolist() == X.ravel().tolist()
    assert len(set(counts)) == 1
    assert TRAITS[op_type] & Trait.REPEATS or counts[0] == 1


@pytest.mark.parametrize("op_type", sorted(having(Trait.PICKS)))
def test_some_of_the_elements(op_type: str) -> None:
    assert set(computed(op_type).ravel()) < set(X.ravel())


def test_traits_that_go_together() -> None:
    reductions = {s.name for s in onnx.defs.get_all_schemas() if s.name.startswith("Reduce")}
    assert having(Trait.REDUCES) == reductions
    assert having(Trait.PROJECTS) < having(Trait.CONTRACTS)
    assert having(Trait.GROWS) < having(Trait.COMPUTES_SHAPES)
    assert having(Trait.EXTENTS) <= having(Trait.COMPUTES_SHAPES)
    assert len(having(Trait.NORMALIZES)) == sum(
        len(having(trait))
        for trait in (
            Trait.NORMALIZES_ROWS,
            Trait.NORMALIZES_CHANNELS,
            Trait.NORMALIZES_WITHOUT_EPSILON,
        )
    )


@pytest.mark.parametrize(
    "axes",
    [
        "zero = Constant<value_ints=[0]>() at = Constant<value = int64[1, 1] {0}>() "
        "k = Constant<value_ints=[-1]>() axes = ScatterND(zero, at, k)",
        "one = Constant<value_ints=[1]>() last = Constant<value_ints=[-1]>() "
        "later = GreaterOrEqual(last, one) axes = Where(later, one, last)",
        "four = Constant<value_floats=[4.0]>() two = Sqrt(four) axes = Cast<to=7>(two)",
    ],
)
def test_axes_are_computed_by_what_computes_extents(axes: str) -> None:
    norm = DECOMPOSED_RMS_NORM.replace(
        "ReduceMean<axes=[-1], keepdims=1>(q)", "ReduceMean(q, axes)"
    )
    proto = residual(f"{axes} {norm}", opset=18)
    result = graphfuse.fuse(proto)
    assert [fusion.site.output for fusion in result.fused] == ["y"], result.left
    assert_passes(proto, result.model)


def test_a_tiled_shape_is_an_extent() -> None:
    proto = model(
        "two = Constant<value_ints=[2]>() k = Constant<value_ints=[2]>() s = Tile(two, k) "
        "n = Sub(s, one) m = Add(n, one) y = Reshape(a, m)",
        inputs="float[4] a",
        outputs="float[M, N] y",
        constants={"one": np.array([1, 1])},
    )
    _, types = typed(proto, {"a": (4,)})
    assert types["y"].shape == (2, 2)


def test_a_mask_has_not_the_type_of_what_it_drops() -> None:
    """Only the first output of a Dropout has the type of its input."""
    proto = model(
        "u = strange.What(a) v = Add(a, u) y, mask = Dropout(v)", extra_imports=', "strange" : 1'
    )
    types = infer_types(proto)
    assert types["v"].elem_type == ElementType.FLOAT
    assert "mask" not in types or types["mask"].elem_type == ElementType.BOOL


def test_a_sum_may_be_tiled_before_its_norm() -> None:
    """As with an Expand, rows are what they were."""
    proto = residual(
        "k = Constant<value_ints=[2, 1, 1]>() t = Tile(x, k) y = LayerNormalization(t, scale, bias)",
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[4,3,8] y",
    )
    result = graphfuse.fuse(proto)
    assert [fusion.site.output for fusion in result.fused] == ["y"], result.left
    assert_passes(proto, result.model)


def test_a_tile_of_rows_is_in_the_way() -> None:
    proto = residual(
        "k = Constant<value_ints=[1, 1, 2]>() t = Tile(x, k) y = LayerNormalization(t, w)",
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[2,3,16] y",
        constants={"w": np.ones(16, np.float32)},
    )
    found = graphfuse.scan(proto)
    assert [miss.reason for miss in found.near_misses] == [Reason.SUM_RESHAPED]
