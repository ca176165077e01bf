"""Fusing an onnx_ir.Model in place.

The model is exported without its weights, that is fused like any other, and what the rewrite
changed is carried back: what it kept are the user's objects, values as well as nodes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from graphfuse.errors import WriteError
from graphfuse.files.model_file import Model, wrap
from graphfuse.graph.scopes import FunctionKey, function_key
from graphfuse.graph.tensors import AnyGraph, fresh_name
from graphfuse.integrations.carrying import changed_bodies, kept
from graphfuse.integrations.ir_export import Exported, bodies, exported, ir
from graphfuse.integrations.wanted import Wanted
from graphfuse.records import FuseResult, HashedFile
from graphfuse.records.requests import Output
from graphfuse.records.results import Rewritten
from graphfuse.steps.opening import saved


def fuse_model(model: ir.Model, wanted: Wanted) -> FuseResult:
    """Rewrite every site of an onnx_ir.Model in place, its bodies and functions included.

    Weights are read only where something is run: they are then written to a temporary folder.
    Raises GraphfuseError; the model is then as it was.
    """
    out = exported(model)
    with _scratch() if wanted.runs else nullcontext() as folder:
        before = out.proto if folder is None else _written(out, Path(folder))
        held = out.readers if folder is None else None
        source = wrap(before, Path(folder or "."), wanted.limits, held)
        result = wanted.fused(source)
        if result.changed:
            _Carrying(model, before, result.proto).carry()
        if folder is not None:
            result = replace(result, proto=out.numbered(result.proto, before))
    return replace(result, complete=out.complete, saver=partial(_saved, out))


def _scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="graphfuse-")
    except OSError as error:
        raise _full(error) from error


def _written(out: Exported, folder: Path) -> onnx.ModelProto:
    try:
        return out.written(folder)
    except OSError as error:
        raise _full(error) from error


def _full(error: OSError) -> WriteError:
    return WriteError(
        f"the model cannot be written for its validation ({error.strerror})",
        f"free space in {tempfile.gettempdir()}, or let TMPDIR name another folder",
    )


def _saved(out: Exported, result: Rewritten, output: Output) -> tuple[HashedFile, ...]:
    """The files of a result that was written, its weights inline."""
    whole = replace(result, proto=out.complete(result.proto))
    return saved(Model(out.complete(out.proto)), whole, output)


class _Carrying:
    """What a rewrite of an exported model did, done to the model that was exported."""

    def __init__(self, model: ir.Model, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        self.model = model
        self.before, self.after = before, after

    def carry(self) -> None:
        """Edit the main graph and the functions, then add what fused nodes need."""
        graph = self.model.graph
        known = {tensor.name for tensor in self.before.graph.initializer}
        for tensor in self.after.graph.initializer:
            if tensor.name not in known:
                graph.register_initializer(_initializer(tensor))
        self._edit(graph, self.before.graph, self.after.graph, {})
        self._carry_functions()
        _update(graph.opset_imports, self.after.opset_import)
        self.model.ir_version = self.after.ir_version

    def _carry_functions(self) -> None:
        pairs = zip(self.before.functions, list(self.model.functions.values()), strict=True)
        old = {function_key(proto): (proto, function) for proto, function in pairs}
        functions: dict[FunctionKey, ir.Function] = {}
        for proto in self.after.functions:
            key = function_key(proto)
            if key not in old:
                functions[key] = ir.serde.deserialize_function(proto)
                continue
            before, functions[key] = old[key]
            if before != proto:
                self._edit(functions[key].graph, before, proto, {})
                _update(functions[key].opset_imports, proto.opset_import)
        every = self.model.functions
        if list(every.values()) != list(functions.values()):
            every.clear()
            every.update({function.identifier(): function for function in functions.values()})

    def _edit(
        self, graph: ir.Graph, before: AnyGraph, after: AnyGraph, outer: Mapping[str, ir.Value]
    ) -> None:
        """Give a graph the nodes of `after`, its own where they are the same."""
        values = {**outer, **{value.name or "": value for value in _defined(graph)}}
        own = list(graph)
        places = kept(before.node, after.node)
        stay = set(places)
        readers = _take_out(graph, [node for n, node in enumerate(own) if n not in stay])
        infos: list[onnx.ValueInfoProto] = [*after.value_info]
        infos += after.output if isinstance(after, onnx.GraphProto) else []
        said = {info.name: info for info in infos}
        nodes = [
            _new(proto, values, said) if place is None else own[place]
            for place, proto in zip(places, after.node, strict=True)
        ]
        for value, uses in readers:
            for node, index in uses:
                _read(node, index, value)
        if nodes != list(graph):
            graph.remove(list(graph))
            graph.extend(nodes)
        for body in changed_bodies(before.node, after.node, places):
            inner = own[body.place].attributes[body.name].as_graph()
            self._edit(inner, body.before, body.after, values)
        if isinstance(after, onnx.GraphProto):
            there = {tensor.name for tensor in after.initializer}
            for name in [name for name in graph.initializers if name not in there]:
                del graph.initializers[name]


_Uses = list[tuple[ir.Node, int]]


def _defined(graph: ir.Graph) -> Iterable[ir.Value]:
    """The values that a graph defines."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from (value for value in node.outputs if value.name)


def _take_out(graph: ir.Graph, nodes: Sequence[ir.Node]) -> list[tuple[ir.Value, _Uses]]:
    """Take nodes out of a graph; they read and compute nothing any more.

    Gives the values that they computed and others read, with their readers, who read nothing
    meanwhile: the value of a node that is gone can be that of a new one.
    """
    for node in nodes:
        _stop_reading(node)
    graph.remove(nodes)
    found: list[tuple[ir.Value, _Uses]] = []
    for node in nodes:
        for value in node.outputs:
            uses = [(use.node, use.idx) for use in value.uses()]
            for reader, index in uses:
                _read(reader, index, None)
            if uses:
                found.append((value, uses))
        node.resize_outputs(0)
    return found


def _stop_reading(node: ir.Node) -> None:
    for body in bodies(node):
        for inner in body:
            _stop_reading(inner)
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)


def _read(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Let a node read a value, or nothing for now; where it runs stays as the user said."""
    where = getattr(node, "device_configurations", None)
    node.replace_input_with(index, value)
    if where:
        node.device_configurations = where


def _new(
    proto: onnx.NodeProto,
    values: dict[str, ir.Value],
    said: Mapping[str, onnx.ValueInfoProto],
) -> ir.Node:
    """A node that the rewrite made; what it computes are the graph's own values where they are."""
    outputs: list[ir.Value] = []
    last = max(index for index, name in enumerate(proto.output) if name)
    for index, output in enumerate(proto.output):
        # onnx_ir writes no nameless outputs at the end, and onnxruntime wants as many as the
        # function has: the sum that nobody reads gets a name.
        name = output
        if index > last:
            name = fresh_name(f"graphfuse/unread/{proto.output[0]}", set(values))
        value = values.setdefault(name, ir.Value(name=name)) if name else ir.Value(name="")
        if name in said:
            twin = ir.serde.deserialize_value_info_proto(said[name], None)
            # What the user says of a value stays.
            value.type = twin.type if value.type is None else value.type
            value.shape = twin.shape if value.shape is None else value.shape
        outputs.append(value)
    return ir.Node(
        proto.domain,
        proto.op_type,
        [values[name] if name else None for name in proto.input],
        [ir.serde.deserialize_attribute(attribute) for attribute in proto.attribute],
        overload=proto.overload,
        outputs=outputs,
        name=proto.name,
    )


def _initializer(tensor: onnx.TensorProto) -> ir.Value:
    held = ir.from_proto(tensor)
    shape, kind = ir.Shape(tensor.dims), ir.TensorType(held.dtype)
    return ir.Value(name=tensor.name, shape=shape, type=kind, const_value=held)


def _update(imports: dict[str, int], protos: Iterable[onnx.OperatorSetIdProto]) -> None:
    """Let the operator sets that are imported be those of a protobuf."""
    wanted = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in protos}
    for domain in [domain for domain in imports if domain not in {*wanted, "ai.onnx"}]:
        del imports[domain]
    present = {"" if domain == "ai.onnx" else domain for domain in imports}
    imports.update({name: number for name, number in wanted.items() if name not in present})
