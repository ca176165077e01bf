"""Types of operators that onnx has no inference for: each row beside what onnxruntime computes."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphfuse.types import operator_types
from graphfuse.types.inference import infer_types
from graphfuse.types.shapes import UNKNOWN
from tests.support import operator_cases
from tests.support.graphs import VERSION, needs_opset
from tests.support.node_cases import Case

SINCE = (1, 32)
"""The onnxruntime that rows are compared with, and what follows: older ones lack operators."""

SIZES = ({"B": 2, "S": 3, "T": 3, "P": 6}, {"B": 3, "S": 4, "T": 4, "P": 12})
"""P is B times S: the rows that a router reads."""

CASES = [
    *operator_cases.CASES,
    *(dataclasses.replace(case, domain="") for case in operator_cases.ONNX),
]

PART = re.compile(r"(\w+|\?)(\[[^]]*\])? (\w+)")


def types(text: str) -> dict[str, tuple[int, list[int | str] | None]]:
    """Names with their element types and extents; none for `?`."""
    found: dict[str, tuple[int, list[int | str] | None]] = {}
    for kind, extents, name in PART.findall(text):
        dims = [int(d) if d.isdigit() else d for d in extents.strip("[]").split(",") if d]
        known = kind != "?"
        elem_type = TensorProto.DataType.Value(kind.upper()) if known else 0
        found[name] = (elem_type, dims if known else None)
    return found


def drawn(name: str, elem_type: int, shape: list[int], case: Case) -> np.ndarray:
    """Numbers that an operator of any kind takes."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    if name in case.values:
        return np.broadcast_to(case.values[name], shape).astype(dtype)
    rng = np.random.default_rng(len(name))
    if np.issubdtype(dtype, np.floating):
        return rng.uniform(0.1, 1, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def built(case: Case) -> onnx.ModelProto:
    """A model of one node whose outputs declare nothing."""
    text = case.text
    outputs, _, call = text.partition(" = ")
    names = [name.strip() for name in outputs.split(",")]
    written = f"{outputs} = {call}"
    proto = onnx.parser.parse_graph(f"g () => () {{ {written} }}")
    node = proto.node[0]
    node.domain = case.domain
    for position, name in enumerate(names):
        if name in ("_m", "_v") and "Skip" in text:
            node.output[position] = ""
    graph = onnx.GraphProto(name="g", node=[node])
    for name, (elem_type, extents) in types(case.inputs).items():
        dims = extents or []
        if name.startswith("w"):
            array = drawn(name, elem_type, [int(d) for d in dims], case)
            graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            graph.input.append(helper.make_tensor_value_info(name, elem_type, dims))
    for name in types(case.gives):
        graph.output.append(onnx.ValueInfoProto(name=name))
    imports = [helper.make_opsetid("", case.opset)]
    if case.domain:
        imports.append(helper.make_opsetid(case.domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=10 if case.opset > 20 else 8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_node_gives_is_inferred(case: Case) -> None:
    found = infer_types(built(case))
    symbols = set(SIZES[0])
    for name, (elem_type, extents) in types(case.gives).items():
        got = found.get(name, UNKNOWN)
        if extents is None:
            assert got == UNKNOWN
            continue
        assert got.elem_type == elem_type
        assert got.shape is not None
        assert [d if d in symbols or isinstance(d, int) else "?" for d in got.shape] == extents


def run(case: Case, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """What the CPU provider computes, the outputs by their names."""
    proto, given = built(case), types(case.inputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds: dict[str, np.ndarray] = {}
    for value in proto.graph.input:
        elem_type, extents = given[value.name]
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in extents or []]
        feeds[value.name] = drawn(value.name, elem_type, shape, case)
    names = list(types(case.gives))
    return dict(zip(names, session.run(names, feeds), strict=True))


compared = pytest.mark.skipif(VERSION < SINCE, reason="older than what rows are compared with")


@compared
@pytest.mark.parametrize("sizes", SIZES, ids=["small", "large"])
@pytest.mark.parametrize("case", [case for case in CASES if case.runs], ids=str)
def test_what_onnxruntime_computes_has_the_inferred_type(case: Case, sizes: dict[str, int]) -> None:
    needs_opset(case.opset)
    results = run(case, sizes)
    for name, (elem_type, extents) in types(case.gives).items():
        if extents is None:
            continue
        assert helper.np_dtype_to_tensor_dtype(results[name].dtype) == elem_type
        wanted = [sizes.get(dim, "?") if isinstance(dim, str) else dim for dim in extents]
        got = results[name].shape
        assert len(got) == len(wanted)
        assert all(w in ("?", dim) for w, dim in zip(wanted, got, strict=True))


@compared
@pytest.mark.parametrize("case", [case for case in CASES if not case.runs], ids=str)
def test_what_is_taken_from_a_schema_has_no_kernel(case: Case) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - classes of onnxruntime's own
        run(case, SIZES[0])


def test_every_row_has_a_case() -> None:
    rows = {*operator_types.OTHERS, *(("", name) for name in operator_types.ONNX)}
    assert rows == {case.operator for case in CASES}


def test_every_operator_of_onnx_without_inference_has_a_row() -> None:
    schemas = onnx.defs.get_all_schemas_with_history()
    names = {schema.name for schema in schemas if schema.domain == ""}
    for opset in range(7, onnx.defs.onnx_opset_version() + 1):
        for name in names:
            if not onnx.defs.has(name, opset):
                continue
            schema = onnx.defs.get_schema(name, opset, "")
            if not schema.has_type_and_shape_inference_function:
                assert ("", name) in operator_types.rules(opset), (name, opset)
