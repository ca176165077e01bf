"""Fusing an onnx_graphsurgeon.Graph in place.

The graph is exported to a ModelProto, that is fused like any other, and what the rewrite changed is
carried back: nodes that it kept stay the user's objects, as do all tensors that are still there.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from graphfuse.errors import UsageError, in_one_line
from graphfuse.files.model_file import wrap
from graphfuse.graph.tensors import AnyGraph
from graphfuse.integrations.carrying import changed_bodies, kept
from graphfuse.planning import runtimes, targets
from graphfuse.records import FuseResult
from graphfuse.records.progress import SILENT
from graphfuse.records.requests import DRAWN, EVERY_SITE, Selection
from graphfuse.steps.fusing import Fusing


def fuse_graph(
    graph: Any,
    ep: str | Sequence[str] = "cpu",
    *,
    runtime: str | None = None,
    strict_mode: bool = False,
    selection: Selection = EVERY_SITE,
    folder: str | Path = ".",
) -> FuseResult:
    """Rewrite every site of an onnx_graphsurgeon.Graph in place, its bodies and functions included.

    Nodes and tensors that the rewrite keeps stay the same objects; nodes that it removes are left
    without inputs and outputs.

    Args:
        graph: The onnx_graphsurgeon.Graph.
        ep: As for `fuse`.
        runtime: As for `fuse`.
        strict_mode: As for `fuse`.
        selection: As for `fuse`.
        folder: Where external data of constants lies that were not loaded.

    Returns:
        The result of `fuse`; its `model` is the graph as it was exported for the rewrite, fused.

    Raises:
        UsageError: When `graph` is no such graph, or cannot be exported; it is then unchanged.
        GraphfuseError: What `fuse` raises.

    Example:
        >>> import onnx, onnx_graphsurgeon
        >>> graph = onnx_graphsurgeon.import_onnx(onnx.load("models/bert.onnx"))
        >>> len(graphfuse.fuse_graph(graph).fused)
        5
    """
    surgeon = importlib.import_module("onnx_graphsurgeon")
    if not isinstance(graph, surgeon.Graph):
        raise UsageError(
            f"fuse_graph was given a {type(graph).__name__}, not an onnx_graphsurgeon.Graph",
            "call graphfuse.fuse for a path or an onnx.ModelProto",
        )
    proto = _exported(surgeon, graph)
    source, target = wrap(proto, Path(folder)), targets.target(ep)
    known = runtimes.runtime(runtime)
    result = Fusing(source, target, selection, known, strict_mode, DRAWN, SILENT).result({})
    if result.changed:
        _Carrying(surgeon, proto, result.proto).carry(graph)
    return result


def _exported(surgeon: Any, graph: Any) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = surgeon.export_onnx(graph)
    except Exception as error:
        # graphsurgeon and onnx.helper raise anything on a graph that is incomplete.
        text = in_one_line(error)
        raise UsageError(
            f"the graph cannot be exported ({type(error).__name__}: {text})",
            "call onnx_graphsurgeon.export_onnx on it alone first",
        ) from error
    copy = onnx.ModelProto()
    # Lazy constants lend the export their own protobufs.
    copy.CopyFrom(proto)
    return copy


class _Carrying:
    """What a rewrite of an exported model did, done to the graph that was exported."""

    def __init__(self, surgeon: Any, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        self.surgeon = surgeon
        self.before, self.after = before, after
        # The fused model as graphsurgeon reads it: new nodes, functions and constants come from it.
        self.imported = surgeon.import_onnx(after)

    def carry(self, graph: Any) -> None:
        """Edit the main graph and the functions, then add what fused nodes need."""
        old = {(each.domain, each.name): each for each in self.before.functions}
        theirs = {(each.domain or "", each.name): each for each in graph.functions}
        twins = {(each.domain or "", each.name): each for each in self.imported.functions}
        for function in self.after.functions:
            key = (function.domain, function.name)
            if key in old and old[key] != function:
                self._edit(theirs[key], old[key], function, twins[key], {})
        added = [twins[key] for key in twins if key not in old]
        self._edit(graph, self.before.graph, self.after.graph, self.imported, {})
        gone = old.keys() - {(each.domain, each.name) for each in self.after.functions}
        stay = [each for each in graph.functions if (each.domain or "", each.name) not in gone]
        # First, as the rewrite puts them: what reads functions in order wants callees first.
        graph.functions[:] = [*added, *stay]
        for function in graph.functions:
            key = (function.domain or "", function.name)
            if key in old and key in twins:
                function.import_domains = twins[key].import_domains
        graph.import_domains = self.imported.import_domains
        graph.ir_version = self.after.ir_version

    def _edit(
        self, graph: Any, before: AnyGraph, after: AnyGraph, twin: Any, outer: Mapping[str, Any]
    ) -> None:
        """Give `graph` the nodes of `after`, its own where they are the same."""
        tensors = {**outer, **graph.tensors()}
        # Constants of a function are nodes in its protobuf and tensors in the graph.
        offset = len(before.node) - len(graph.nodes)
        old, own = list(before.node)[offset:], list(graph.nodes)
        constant = {tuple(proto.output) for proto in list(before.node)[:offset]}
        pairs = [
            (proto, imported)
            for proto, imported in zip(after.node, twin.nodes, strict=True)
            if tuple(proto.output) not in constant
        ]
        new = [proto for proto, _ in pairs]
        places = kept(old, new)
        twins = {place: node for place, (_, node) in zip(places, pairs, strict=True)}
        nodes = [
            node if place is None else own[place]
            for place, (_, node) in zip(places, pairs, strict=True)
        ]
        for place, node in enumerate(own):
            if place not in twins:
                node.inputs.clear()
                node.outputs.clear()
        fresh = [node for place, node in zip(places, nodes, strict=True) if place is None]
        self._adopt(fresh, tensors)
        graph.nodes[:] = nodes
        for body in changed_bodies(old, new, places):
            inner, its_twin = (each[body.place].attrs[body.name] for each in (own, twins))
            self._edit(inner, body.before, body.after, its_twin, tensors)

    def _adopt(self, nodes: Sequence[Any], tensors: dict[str, Any]) -> None:
        """Connect new nodes to the graph's own tensors; new ones come with them.

        The nodes of a new tensor are new as well, here or in another body: none is to be cleared.
        """
        for node in nodes:
            for field in (node.inputs, node.outputs):
                wanted = list(field)
                field.clear()
                field.extend([tensors.setdefault(t.name, t) if t.name else t for t in wanted])
