"""Shape inference that costs the graph, not the weights, and does not stop at a Reshape.

onnx's inference gives up on a Reshape below opset 14 whose target shape is computed, and on
everything after it. Such a target is mostly a Concat of extents, some of them constant: its
length is the rank, its constants are extents. What of that the graph says without any types is
added first, as an inference costs more than the look; then inference runs, and runs again until
nothing more becomes known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import helper

from graphfuse.graph.bodies import strange
from graphfuse.graph.constants import show_axes
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.scopes import FunctionKey, all_bodies, function_key
from graphfuse.graph.tensors import DEFAULT_DOMAINS, default_opset, replace_nodes, subgraphs
from graphfuse.ops import DOMAIN, OPERATORS
from graphfuse.records import TensorType
from graphfuse.records.element_types import ElementType
from graphfuse.types.operator_types import rules, sum_and_norm
from graphfuse.types.propagation import is_small
from graphfuse.types.shape_values import ShapeValues
from graphfuse.types.shapes import (
    UNKNOWN,
    GraphTypes,
    Nested,
    forget_saved,
    give_constants,
    symbol_of,
    weightless,
)
from graphfuse.types.stand_ins import StandInRule, StandIns, Surroundings

SAME_TYPE = having(Trait.KEEPS_TYPE)

OURS = sum_and_norm(1)
"""What stands for a node of graphfuse's own."""

ROUNDS = 64
"""Inference runs again while a Reshape's target becomes known: its extents may come from others."""

FIXED_TYPE = {
    "Shape": ElementType.INT64,
    "Size": ElementType.INT64,
    "NonZero": ElementType.INT64,
    **dict.fromkeys(having(Trait.BOOLEAN), ElementType.BOOL),
}


VECTOR = "graphfuse_vector_"
LONGEST_SHAPE = 256
MOST_VECTOR_ELEMENTS = 2**20
"""Vectors longer than the one, and more elements in all than the other: see `_long_vectors`."""


def infer_types(model: onnx.ModelProto) -> Mapping[str, TensorType]:
    """Types of the main graph's tensors, weights left out.

    What inference cannot do (an unknown operator, an inconsistent annotation) stays unknown.
    """
    return GraphTypes(inferred(weightless(model)).graph)


def inferred(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """A model without weights, with the types of its tensors in every graph. It is changed."""
    nested = _simplify(skeleton)
    show_axes(skeleton.graph, default_opset(skeleton))
    if nested:
        give_constants(skeleton.graph, {})
    # The rounds add types, and no nodes: what it is to propagate stays the same.
    propagates = is_small(skeleton)
    _complete(skeleton.graph, skeleton.graph, nested)
    result = _infer(skeleton, propagates)
    for _ in range(ROUNDS):
        if not _complete(skeleton.graph, result.graph, nested):
            break
        result = _infer(skeleton, propagates)
    return result


def _complete(
    graph: onnx.GraphProto,
    result: onnx.GraphProto,
    nested: bool,
    outer: ShapeValues | None = None,
) -> bool:
    """Add what of the types of reshaped tensors inference left unknown; whether there was any.

    `nested` tells whether there are bodies to look into at all.
    """
    own = GraphTypes(result)
    types = Nested(own, outer.types) if outer else own
    inputs = (value.name for value in graph.input)
    targets = ShapeValues(graph.node, graph.initializer, inputs, types, outer)
    added = {value.name: value for value in _reshaped(graph, own, targets, graph is result)}
    more = False
    if nested:
        inside = zip(all_bodies(graph.node), all_bodies(result.node), strict=True)
        each = [_complete(*pair, nested, targets) for pair in inside]
        more = any(each)
    if added:
        there = [value for value in graph.value_info if value.name not in added]
        del graph.value_info[:]
        graph.value_info.extend([*there, *added.values()])
    return more or bool(added)


def _simplify(skeleton: onnx.ModelProto) -> bool:
    """Let operators that onnx has no inference for pass types on, by nodes that stand for them.

    Inference would stop at the first of them: onnxruntime's operators in models that it saved, say.
    Whether the graph has bodies.
    """
    forget_saved(skeleton.graph)
    for entry in skeleton.opset_import:
        entry.domain = "" if entry.domain in DEFAULT_DOMAINS else entry.domain
    odd = {function.name for function in strange(skeleton)}
    # Our operators mean what they mean, whatever their functions' bodies let inference see.
    kept = [f for f in skeleton.functions if not _is_ours(f.domain, f.name) or f.name in odd]
    own = {function_key(function) for function in kept}
    if len(kept) < len(skeleton.functions):
        copies = onnx.ModelProto(functions=kept).functions
        del skeleton.functions[:]
        skeleton.functions.extend(copies)
    simplifier = _Simplifier(own, default_opset(skeleton))
    nested = simplifier.apply(skeleton.graph)
    skeleton.functions.extend(simplifier.functions)
    _import_domains(skeleton, simplifier.domains)
    for function in skeleton.functions:
        _import_domains(function, _domains(function.node))
    return nested


def _is_ours(domain: str, name: str) -> bool:
    return domain == DOMAIN and name in OPERATORS


def _import_domains(holder: onnx.ModelProto | onnx.FunctionProto, used: set[str]) -> None:
    """Import what nodes are of: for a domain without a version onnx would infer nothing at all."""
    known = {entry.domain for entry in holder.opset_import}
    holder.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(used - known))


def _domains(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The domains of nodes and of those in their bodies, ONNX's own left out."""
    found: set[str] = set()
    for node in nodes:
        found.add(node.domain)
        for body in subgraphs(node):
            found |= _domains(body.node)
    return found - {*DEFAULT_DOMAINS}


class _Simplifier:
    """Puts stand-ins in place of nodes, in a graph and the bodies in it."""

    def __init__(self, own: set[FunctionKey], opset: int) -> None:
        """`own` are the model's functions: a node that calls one does what its body does."""
        self._own, self._opset = own, opset
        self._rules = rules(opset)
        self.functions: list[onnx.FunctionProto] = []
        self.domains: set[str] = set()

    def apply(self, graph: onnx.GraphProto) -> bool:
        """Whether the graph has bodies."""
        nested = False
        around = Surroundings(graph)
        replaced: dict[int, list[onnx.NodeProto]] = {}
        for index, node in enumerate(graph.node):
            # What types do not depend on would be written and parsed twice: traces of stacks, say.
            for field in ("name", "doc_string", "metadata_props"):
                node.ClearField(field)
            domain = node.domain
            if domain in DEFAULT_DOMAINS:
                node.domain = domain = ""
            else:
                self.domains.add(domain)
            for body in subgraphs(node):
                nested = True
                self.apply(body)
            rule = (
                OURS if _is_ours(domain, node.op_type) else self._rules.get((domain, node.op_type))
            )
            if rule is not None and function_key(node) not in self._own:
                nodes = self._stand_ins(node, rule, around)
                if nodes:
                    replaced[index] = nodes
        if replaced:
            kept = ([node] for node in graph.node)
            nodes = [replaced.get(index, same) for index, same in enumerate(kept)]
            replace_nodes(graph, [node for each in nodes for node in each])
        return nested

    def _stand_ins(
        self, node: onnx.NodeProto, rule: StandInRule, around: Surroundings
    ) -> list[onnx.NodeProto]:
        """The nodes that stand for one; none where what it gives is not known."""
        stand_ins = StandIns(node, around)
        if not node.input or not node.output or not rule(stand_ins) or stand_ins.unsure:
            return []
        nodes, function = stand_ins.finished(self._opset)
        if function is not None:
            self.functions.append(function)
            self.domains.add(function.domain)
        return nodes


def _infer(skeleton: onnx.ModelProto, propagates: bool) -> onnx.ModelProto:
    long = _long_vectors(skeleton.graph)
    try:
        if not long or not propagates:
            return onnx.shape_inference.infer_shapes(skeleton, data_prop=propagates)
        for dim in long:
            dim.dim_param = f"{VECTOR}{dim.dim_value}"
        try:
            result = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
        finally:
            _show_vectors(skeleton.graph)
        _show_vectors(result.graph)
        return onnx.shape_inference.infer_shapes(result)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        ValueError,
        RuntimeError,
    ):
        return skeleton


def _long_vectors(graph: onnx.GraphProto) -> list[onnx.TensorShapeProto.Dimension]:
    """The extents of vectors that are too many for onnx to propagate the data of; else none.

    It keeps some 70 bytes for each element of every vector whose extent it knows, in case it is a
    shape: 1.1 GB for the biases of GPT-3. Under a symbol in place of its extent it keeps nothing.
    """
    shapes = [value.type.tensor_type.shape.dim for value in graph.input]
    long = [dims[0] for dims in shapes if len(dims) == 1 and dims[0].dim_value > LONGEST_SHAPE]
    return long if sum(dim.dim_value for dim in long) > MOST_VECTOR_ELEMENTS else []


def _show_vectors(graph: onnx.GraphProto) -> None:
    """Turn the symbols of long vectors, wherever inference took them, into extents again."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            symbol = symbol_of(dim)
            if symbol.startswith(VECTOR):
                dim.dim_value = int(symbol.removeprefix(VECTOR))
    for body in all_bodies(graph.node):
        _show_vectors(body)


def _reshaped(
    graph: onnx.GraphProto, own: GraphTypes, targets: ShapeValues, before: bool
) -> Iterator[onnx.ValueInfoProto]:
    """The types of Reshape outputs that inference left unknown, from their target shapes.

    What follows from a constant target inference mostly finds itself: that is not done `before` it.
    """
    types = targets.types
    found: dict[str, int] | None = None
    for node in graph.node:
        if not _is_unknown_reshape(node, types):
            continue
        known = types.get(node.output[0], UNKNOWN).shape
        if (before or known is not None) and targets.is_constant(node.input[1]):
            continue
        extents = targets.of(node.input[1])
        source = node.input[0]
        if extents is None:
            continue
        old = [None] * len(extents) if known is None else known
        if len(old) != len(extents):
            continue
        # 0 copies an extent and -1 is what is left: neither is known here.
        dims = [
            new if isinstance(new, int) and new > 0 else before
            for new, before in zip(extents, old, strict=True)
        ]
        if known is not None and dims == list(known):
            continue
        elem_type = types.get(source, UNKNOWN).elem_type
        if not elem_type:
            found = _element_types(graph, own, types) if found is None else found
            elem_type = found.get(source, 0)
        if not elem_type:
            continue
        yield helper.make_tensor_value_info(node.output[0], elem_type, dims)


def _is_unknown_reshape(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> bool:
    if node.op_type != "Reshape" or len(node.input) < 2:
        return False
    shape = types.get(node.output[0], UNKNOWN).shape
    return shape is None or not all(isinstance(extent, int) for extent in shape)


def _element_types(
    graph: onnx.GraphProto, own: GraphTypes, types: Mapping[str, TensorType]
) -> dict[str, int]:
    """The element types that inference does not know, by what operators do to them."""
    found: dict[str, int] = {}

    def known(name: str) -> int:
        return found.get(name) or own.elem_type(name) or types.get(name, UNKNOWN).elem_type

    for node in graph.node:
        if all(own.elem_type(name) for name in node.output):
            continue
        elem_type = FIXED_TYPE.get(node.op_type, 0)
        if not elem_type and node.op_type in SAME_TYPE and node.input:
            elem_type = known(node.input[0])
        elif node.op_type == "Where":
            elem_type = known(node.input[1])
        elif node.op_type == "Cast":
            elem_type = next((a.i for a in node.attribute if a.name == "to"), 0)
        if elem_type:
            # Of others the second output may be a mask, an index, or a mean in another type.
            outputs = node.output if node.op_type == "Split" else node.output[:1]
            found.update((name, elem_type) for name in outputs if not known(name))
    return found
