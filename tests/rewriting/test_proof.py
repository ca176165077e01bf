"""The proof: a rewrite that does anything else than what was planned is stopped."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper

import graphfuse
from graphfuse.errors import InternalError
from graphfuse.rewriting import edit, proof
from tests.rewriting.test_fidelity import decorated
from tests.support.graphs import DECOMPOSED_LAYER_NORM, residual


def tamper_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].doc_string = "changed"


def tamper_initializer(proto: onnx.ModelProto) -> None:
    raw = bytearray(proto.graph.initializer[0].raw_data)
    raw[0] ^= 1
    proto.graph.initializer[0].raw_data = bytes(raw)


def tamper_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].name = "other"


def tamper_metadata(proto: onnx.ModelProto) -> None:
    proto.metadata_props[0].value = "you"


def tamper_function(proto: onnx.ModelProto) -> None:
    proto.functions[0].node[0].op_type = "Abs"


def tamper_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 18


def tamper_annotation(proto: onnx.ModelProto) -> None:
    del proto.graph.quantization_annotation[:]


def tamper_value_info(proto: onnx.ModelProto) -> None:
    proto.graph.value_info[0].doc_string = ""


def tamper_order(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


@pytest.mark.parametrize(
    "tamper",
    [
        tamper_node,
        tamper_initializer,
        tamper_input,
        tamper_metadata,
        tamper_function,
        tamper_opset,
        tamper_annotation,
        tamper_value_info,
        tamper_order,
    ],
)
def test_the_proof_notices(tamper: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite that touches anything else is stopped as an internal error."""
    honest = edit._complete

    def dishonest(result: onnx.ModelProto, *arguments: object) -> None:
        honest(result, *arguments)  # type: ignore[arg-type]
        tamper(result)  # type: ignore[operator]

    monkeypatch.setattr(edit, "_complete", dishonest)
    with pytest.raises(InternalError, match="internal error in graphfuse"):
        graphfuse.fuse(decorated())


def wrong_epsilon(proto: onnx.ModelProto) -> None:
    next(a for a in fused(proto).attribute if a.name == "epsilon").f *= 2


def wrong_operand(proto: onnx.ModelProto) -> None:
    fused(proto).input[1] = fused(proto).input[0]


def swapped_parameters(proto: onnx.ModelProto) -> None:
    node = fused(proto)
    node.input[2], node.input[3] = node.input[3], node.input[2]


def swapped_outputs(proto: onnx.ModelProto) -> None:
    node = fused(proto)
    node.output[0], node.output[1] = node.output[1], node.output[0]


def another_body(proto: onnx.ModelProto) -> None:
    proto.functions[0].node[0].op_type = "Sub"


def junk_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3), "junk"))


def extra_import(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("more", 1))


def another_version(proto: onnx.ModelProto) -> None:
    proto.opset_import[-1].version = 7


def lower_ir(proto: onnx.ModelProto) -> None:
    proto.ir_version = 3


def fused(proto: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.domain == "graphfuse")


@pytest.mark.parametrize(
    "damage",
    [
        wrong_epsilon,
        wrong_operand,
        swapped_parameters,
        swapped_outputs,
        another_body,
        junk_initializer,
        extra_import,
        another_version,
        lower_ir,
    ],
)
def test_the_proof_knows_the_plan(damage: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused node that is not the planned one is stopped, whatever the editor believes."""
    test_the_proof_notices(damage, monkeypatch)


def too_much_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    vanished = edit.vanished
    monkeypatch.setattr(edit, "vanished", lambda *graphs: vanished(*graphs) | {"k"})


def nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "vanished", lambda *graphs: set())


def one_node_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = edit._Editor.fuse

    def eager(self: edit._Editor, fusion: object) -> None:
        fuse(self, fusion)  # type: ignore[arg-type]
        self.removed.add(next(i for i, n in enumerate(self.graph.node) if n.op_type == "Relu"))
        for node in self.graph.node:
            for position, name in enumerate(node.input):
                node.input[position] = "b" if name == "k" else name

    monkeypatch.setattr(edit._Editor, "fuse", eager)


def an_idle_node_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = edit._Editor.fuse

    def tidy(self: edit._Editor, fusion: object) -> None:
        fuse(self, fusion)  # type: ignore[arg-type]
        self.removed.add(next(i for i, n in enumerate(self.graph.node) if n.op_type == "Neg"))

    monkeypatch.setattr(edit._Editor, "fuse", tidy)


def nodes_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit._Editor, "_remove_unread", lambda self, names: None)


def nodes_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order = edit.stable_order
    monkeypatch.setattr(edit, "stable_order", lambda *lists: order(*lists)[::-1])


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (too_much_is_dropped, "graph field 'value_info' differs"),
        (nothing_is_dropped, "types were added that are not as planned"),
        (one_node_too_many, "nodes outside the fused sites differ"),
        (an_idle_node_goes, "nodes that belong to no site are gone"),
        (nodes_stay_behind, "is computed, and nothing reads it any more"),
        (nodes_out_of_order, "before it is computed"),
    ],
)
def test_the_proof_finds_faults_of_the_editor(
    fault: Callable[[pytest.MonkeyPatch], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in what both once had in common: they share no helper."""
    proto = decorated()
    if fault is nodes_stay_behind:
        proto = residual(DECOMPOSED_LAYER_NORM)
    if fault is an_idle_node_goes:
        proto.graph.node.append(helper.make_node("Neg", ["a"], ["idle"]))
    graphfuse.fuse(proto)
    fault(monkeypatch)
    with pytest.raises(InternalError, match=re.escape(found)):
        graphfuse.fuse(proto)


def test_the_proof_and_the_editor_have_only_records_in_common() -> None:
    def imported(module: ModuleType) -> set[str]:
        tree = ast.parse(Path(module.__file__ or "").read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        return {node.module or "" for node in nodes if (node.module or "").startswith("graphfuse")}

    assert imported(edit) & imported(proof) == {"graphfuse.records"}
