"""What is drawn is what the two models have: judged from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.parser
import pytest

import graphfuse
from graphfuse.records.drawings import BoxKind, Diagram, Fate
from tests.conftest import MODELS


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def called(node: onnx.NodeProto) -> tuple[str, str]:
    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    return operator, node.name


def drawn(drawing: Diagram, fate: Fate) -> set[tuple[str, str]]:
    return {
        (b.operator, b.name) for b in drawing.boxes if b.fate == fate and b.kind == BoxKind.NODE
    }


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_what_goes_is_gone_and_what_comes_is_new(path: Path) -> None:
    before = onnx.load(path)
    result = graphfuse.fuse(path)
    old = {called(node) for node in nodes(before.graph)}
    new = {called(node) for node in nodes(result.model.graph)}
    assert sorted(i for p in result.pictures for i in p.sites) == sorted(
        fusion.site.id for fusion in result.fused
    )
    operators = {fusion.site.id: fusion.operator for fusion in result.fused}
    for picture in result.pictures:
        if not picture.sites:
            continue
        assert picture.after is not None
        goes, comes = drawn(picture.before, Fate.GOES), drawn(picture.after, Fate.COMES)
        assert goes
        assert goes <= old - new
        assert comes <= new - old
        assert operators[picture.sites[0]] in {operator for operator, _ in comes}
        assert drawn(picture.before, Fate.STAYS) <= old
        assert drawn(picture.after, Fate.STAYS) <= new


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_wires_are_those_of_the_file(path: Path) -> None:
    model = onnx.load(path)
    reads = {(called(node), name) for node in nodes(model.graph) for name in node.input}
    makes = {(called(node), name) for node in nodes(model.graph) for name in node.output}
    for picture in graphfuse.scan(path, pictures=True).pictures:
        boxes = picture.before.boxes
        for wire in picture.before.wires:
            source, target = boxes[wire.source], boxes[wire.target]
            if source.kind == BoxKind.NODE:
                assert ((source.operator, source.name), wire.tensor) in makes
            if target.kind == BoxKind.NODE:
                assert ((target.operator, target.name), wire.tensor) in reads


def test_all_sites_of_a_scan_have_a_picture_and_only_where_asked() -> None:
    path = MODELS / "gpt2.onnx"
    assert graphfuse.scan(path).pictures == ()
    found = graphfuse.scan(path, pictures=True)
    assert sorted(i for p in found.pictures for i in p.sites) == sorted(s.id for s in found.sites)
    assert all(picture.after is None for picture in found.pictures)


def test_a_near_miss_is_drawn_with_the_node_to_blame() -> None:
    """One sum, two norms: the second norm is what forbids to fuse the sum with it as well."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        two (float[B, 8] x, float[B, 8] y, float[8] s) => (float[B, 8] p, float[B, 8] q) {
            total = Add (x, y)
            p = LayerNormalization (total, s)
            q = LayerNormalization <epsilon = 0.01> (total, s)
        }"""
    )
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    found = graphfuse.scan(model, pictures=True)
    (miss,) = found.near_misses
    (picture,) = [each for each in found.pictures if each.near_misses]
    assert picture.near_misses == (miss.id,)
    (blamed,) = [box for box in picture.before.boxes if box.fate == Fate.BLAMED]
    assert (blamed.operator, blamed.name) == (miss.culprit.op_type, miss.culprit.name)
    assert ("Add", "n0") in drawn(picture.before, Fate.STAYS)


def test_what_is_unfused_is_drawn() -> None:
    fused = graphfuse.fuse(MODELS / "bert.onnx").model
    result = graphfuse.unfuse(fused)
    assert sum(len(picture.sites) for picture in result.pictures) == 5
    for picture in result.pictures:
        assert picture.after is not None
        assert {operator for operator, _ in drawn(picture.before, Fate.GOES)} == {picture.notation}
        made = {operator for operator, _ in drawn(picture.after, Fate.COMES)}
        assert {"Add", "LayerNormalization"} <= made


def test_sites_in_bodies_and_left_sites_are_drawn() -> None:
    """A body of an If keeps its place though indices move; what a plan left is drawn as it is."""
    bert = onnx.load(MODELS / "bert.onnx")
    inner = onnx.GraphProto()
    inner.CopyFrom(bert.graph)
    inner.ClearField("input")
    outer = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                "If", ["yes"], [f"o{n}" for n in range(len(inner.output))],
                then_branch=inner, else_branch=inner, name="choose",
            )
        ],
        "outer",
        [*bert.graph.input, onnx.helper.make_tensor_value_info("yes", onnx.TensorProto.BOOL, [])],
        [
            onnx.helper.make_tensor_value_info(f"o{n}", onnx.TensorProto.FLOAT, None)
            for n in range(len(inner.output))
        ],
    )  # fmt: skip
    model = onnx.helper.make_model(
        outer, opset_imports=bert.opset_import, ir_version=bert.ir_version
    )
    result = graphfuse.fuse(model)
    assert len(result.fused) == 10
    assert sorted(i for p in result.pictures for i in p.sites) == sorted(
        fusion.site.id for fusion in result.fused
    )
    assert all(p.after is not None and drawn(p.after, Fate.COMES) for p in result.pictures)
    left = graphfuse.fuse(
        model, ep="cuda", runtime="1.20.1", selection=graphfuse.Selection(exclude="s1")
    )
    assert all(p.near_misses or p.after is not None for p in left.pictures)
