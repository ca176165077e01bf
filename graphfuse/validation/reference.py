"""The float64 twin of a model: what it means, free of rounding.

Weights and inputs are upcast, casts to lower float types are lifted, and fused nodes are evaluated
from their own attributes (operators.py). Nodes are evaluated one at a time (evaluator.py); a weight
is read and upcast when a node needs it, and a value is dropped once nothing reads it any more, so
the memory is that of the largest weight and of the values in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphfuse.errors import in_one_line
from graphfuse.files.model_file import Model
from graphfuse.graph.tensors import default_opset, read_names, subgraphs, upcast
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.running.sessions import run
from graphfuse.system import machine
from graphfuse.validation.evaluator import (
    EXACT,
    FORMULAS,
    NUMPY,
    REFERENCE,
    RUNTIME,
    NodeEvaluator,
    UnsupportedModelError,
    element_type,
    session_of,
    unsupported,
)
from graphfuse.validation.iteration import (
    MANY_TRIPS,
    ManyTripsError,
    OutOfTimeError,
    Trips,
    run_loop,
    run_scan,
)
from graphfuse.validation.lifting import dense, lifted
from graphfuse.validation.rounding import nudge, rounded_by_chance, with_casts
from graphfuse.views.analyses import main_types

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Lookup = Callable[[str], Array]
    Path = tuple[object, ...]

MAIN_PATH = ("main",)
"""The main graph; a body is named as by `fused_nodes.scope_keys`, by what its node computes."""

KEPT_WEIGHT = 2**16
"""Weights of up to this many elements stay in memory as float64."""


OPSET_OF_BATCHED_SCAN = 8
"""Until there Scan has a batch axis and lengths."""


class Twin:
    """A model's float64 twin: the graph lifted; weights stay where they are."""

    def __init__(
        self, model: Model, limit: float | None = None, added: Container[str] = ()
    ) -> None:
        """Lift a model. A Loop or Scan of it may take `limit` seconds.

        `added` are the tensors that graphfuse's own nodes compute (`lifting.added_to`).
        Raises UnsupportedModelError where that cannot be done.
        """
        self.model = model
        self._limit = limit
        try:
            self.proto = lifted(model, added)
        except onnx.checker.ValidationError as error:
            # onnx's inliner refuses functions that call themselves.
            raise UnsupportedModelError(
                f"the model's functions cannot be inlined: {in_one_line(error, 160)}",
                "a function may not call itself; `--validate sites` checks the fused nodes alone",
            ) from error
        self.tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self.inputs = [value.name for value in model.proto.graph.input]
        self.outputs = [value.name for value in model.proto.graph.output]
        self._kept: dict[str, Array] = {}
        for sparse in model.proto.graph.sparse_initializer:
            self._kept[sparse.values.name] = upcast(dense(sparse))
        self._evaluator = NodeEvaluator(self.proto.opset_import)
        self.taken: dict[Path, set[str]] = {}
        """The bodies of each If, Loop and Scan that some run executed, by graph and outputs."""

    @cached_property
    def types(self) -> Mapping[str, int]:
        """The declared or inferred float types of the tensors of the main graph."""
        types = main_types(self.model).items()
        return {name: kind.elem_type for name, kind in types if kind.elem_type in FLOAT_TYPES}

    @property
    def used(self) -> Mapping[str, set[str]]:
        """By what nodes were evaluated so far, and which operators."""
        return self._evaluator.used

    @property
    def ignored(self) -> tuple[str, ...]:
        """Attributes that operators of the model do not have, in words."""
        return tuple(self._evaluator.ignored)

    @property
    def narrow_runs(self) -> int:
        """How many nodes have no more digits than float32, for want of anything better."""
        return self._evaluator.narrow_runs

    def slack(self) -> float:
        """How far what was evaluated since the last call may be from the same in other nodes."""
        return self._evaluator.slack()

    @property
    def weights(self) -> list[str]:
        """The names of all weights, sparse ones too."""
        return [*self.tensors, *(name for name in self._kept if name not in self.tensors)]

    def holds(self, name: str) -> bool:
        """Whether a tensor is a weight."""
        return name in self.tensors or name in self._kept

    def weight(self, name: str) -> Array:
        """A weight in float64. Raises UnsupportedModelError for a name that is none."""
        if name in self._kept:
            return self._kept[name]
        if name not in self.tensors:
            raise unsupported(onnx.NodeProto(op_type="tensor", name=name), ["nothing computes it"])
        array = upcast(self.model.read(self.tensors[name]))
        if array.size <= KEPT_WEIGHT:
            self._kept[name] = array
        return array

    def run(self, feeds: Mapping[str, Array], nudged: bool = False) -> dict[str, Array]:
        """The outputs in float64. Raises UnsupportedModelError naming what has no reference.

        `nudged` moves every fused node's epsilon by half a unit in its last place. What this
        changes is no difference in meaning: an attribute cannot say it better.
        """
        return self.values(feeds, self.outputs, nudged=nudged)

    def run_rounded(self, feeds: Mapping[str, Array], sample: int = 0) -> dict[str, Array]:
        """The same, but every value of the main graph is rounded to its declared float type.

        Sample 0 rounds to nearest; every other one gives each rounding error a sign at random: as
        large, and as another order of the same operations might have it.
        """
        rng = np.random.default_rng(sample) if sample else None
        return self.values(feeds, self.outputs, self.types, rng)

    def values(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        rounded: Mapping[str, int] | None = None,
        rng: np.random.Generator | None = None,
        nudged: bool = False,
    ) -> dict[str, Array]:
        """Tensors of the main graph in float64; `rounded` are the types that values round to."""
        values = LiveValues(self, feeds, names)
        for node in self.proto.graph.node:
            step = nudge(node) if nudged else node
            if rounded is not None and any(subgraphs(node)):
                step = with_casts(node, max((rounded.get(n, 0) for n in node.output), default=0))
            found = self.evaluate(step, values.get)
            if rounded is not None:
                found = {
                    name: rounded_by_chance(array, rounded.get(name, 0), rng)
                    for name, array in found.items()
                }
            values.put(found)
            values.release(read_names(node))
        return {name: values.get(name) for name in names}

    def evaluate(
        self, node: onnx.NodeProto, get: Lookup, path: Path = MAIN_PATH
    ) -> dict[str, Array]:
        """The outputs of one node by name, what it reads looked up by `get`.

        `path` names the graph that the node is in.
        """
        if node.op_type == "If":
            results = self._branch(node, get, path)
        elif path == MAIN_PATH and self._picks_rows(node):
            results = [self._rows(node, get(node.input[1]))]
        elif any(subgraphs(node)):
            results = self._iterated(node, get, path)
        else:
            inputs = [get(name) if name else None for name in node.input]
            results = self._evaluator.run(node, inputs)
        names = [name for name in node.output if name]
        if len(results) < len(names):
            raise unsupported(node, [f"it gives {len(results)} outputs of {len(names)}"])
        return dict(zip(names, results, strict=False))

    def _picks_rows(self, node: onnx.NodeProto) -> bool:
        """Whether a node takes rows of a large weight: an embedding."""
        name = node.input[0] if node.op_type == "Gather" else ""
        tensor = self.tensors.get(name)
        return tensor is not None and name not in self.inputs and prod(tensor.dims) > KEPT_WEIGHT

    def _rows(self, node: onnx.NodeProto, indices: Array) -> Array:
        """Rows are upcast, not the whole weight."""
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        table = self.model.read(self.tensors[node.input[0]])
        if (
            indices.size
            and not -table.shape[axis] <= indices.min() <= indices.max() < table.shape[axis]
        ):
            raise unsupported(node, [f"an index is outside of axis {axis}"])
        self._evaluator.used.setdefault(NUMPY, set()).add(node.op_type)
        return upcast(np.take(table, indices, axis))

    def _branch(self, node: onnx.NodeProto, get: Lookup, path: Path) -> list[Array]:
        name = "then_branch" if bool(np.all(get(node.input[0]))) else "else_branch"
        graph = next((a.g for a in node.attribute if a.name == name), None)
        if graph is None:
            raise unsupported(node, [f"it has no {name}"])
        results = self._body(node, name, graph, get, path)([])
        return [value for name, value in zip(node.output, results, strict=False) if name]

    def _body(
        self, node: onnx.NodeProto, name: str, graph: onnx.GraphProto, get: Lookup, path: Path
    ) -> Callable[[Sequence[Array]], list[Array]]:
        """What evaluates a body once, given its inputs; that it does so is written down."""
        outside = (*path, tuple(node.output))
        inside = (*outside, name, 0)
        weights = {t.name: upcast(numpy_helper.to_array(t)) for t in graph.initializer}
        weights |= {s.values.name: upcast(dense(s)) for s in graph.sparse_initializer}
        captured: dict[str, Array] = {}

        def run(given: Sequence[Array]) -> list[Array]:
            self.taken.setdefault(outside, set()).add(name)
            values = weights | dict(zip((v.name for v in graph.input), given, strict=True))

            def look(name: str) -> Array:
                if name in values:
                    return values[name]
                if name not in captured:
                    # Read once for all trips: a large weight is upcast each time that it is read.
                    captured[name] = get(name)
                return captured[name]

            for step in graph.node:
                values |= self.evaluate(step, look, inside)
            return [look(value.name) for value in graph.output]

        return run

    def _iterated(self, node: onnx.NodeProto, get: Lookup, path: Path) -> list[Array]:
        """Loop and Scan, trip by trip; a Loop of many trips in onnxruntime, if that has it all."""
        attribute = next((a for a in node.attribute if a.name == "body"), None)
        scan = node.op_type == "Scan" and any(a.name == "num_scan_inputs" for a in node.attribute)
        scan = scan and default_opset(self.proto) > OPSET_OF_BATCHED_SCAN
        if attribute is None or not (scan or node.op_type == "Loop"):
            return self._by_reference(node, get)
        body = self._body(node, "body", attribute.g, get, path)
        inputs = [get(name) if name else None for name in node.input]
        try:
            if scan:
                given = [array for array in inputs if array is not None]
                results = run_scan(node, attribute.g, given, body, Trips(self._limit))
            else:
                results = self._loop(node, attribute.g, inputs, body, get)
        except (OutOfTimeError, TimeoutError) as error:
            raise UnsupportedModelError(
                f"{node.op_type} {node.name or node.output[0]!r} takes long in float64: {error}",
                "give smaller feeds with --input-shapes, or more time with --run-limit; "
                "`--validate sites` checks the fused nodes alone",
            ) from error
        except (ValueError, TypeError, IndexError) as error:
            # What numpy makes of a body that does not fit what it is given.
            raise unsupported(node, [in_one_line(error, 160)]) from error
        # A node may leave out outputs at its end, or in between.
        named = zip(node.output, results, strict=False)
        return [value for name, value in named if name]

    def _loop(
        self,
        node: onnx.NodeProto,
        graph: onnx.GraphProto,
        inputs: Sequence[Array | None],
        body: Callable[[Sequence[Array]], list[Array]],
        get: Lookup,
    ) -> list[Array]:
        plain = all(
            (step.domain, step.op_type) not in EXACT and not any(subgraphs(step))
            for step in graph.node
        )
        try:
            trips = Trips(self._limit, MANY_TRIPS if plain else None)
            return run_loop(graph, inputs, body, trips)
        except ManyTripsError:
            whole = self._whole(node, get)
            return run_loop(graph, inputs, body, Trips(self._limit)) if whole is None else whole

    def _whole(self, node: onnx.NodeProto, get: Lookup) -> list[Array] | None:
        """A node with a body in onnxruntime in float64; None where it lacks an operator.

        Raises TimeoutError.
        """
        feeds = {name: get(name) for name in sorted(read_names(node))}
        types = {name: element_type(array) for name, array in feeds.items()}
        if 0 in types.values():
            return None
        session = session_of(node, self.proto.opset_import, types)
        if session is None:
            return None
        try:
            found = run(session, feeds, self._limit)
        except TimeoutError:
            raise
        except Exception as error:
            # onnxruntime raises classes of its own; trip by trip it shows what the matter is.
            machine.check(error, f"evaluating {node.op_type} in float64")
            return None
        self._evaluator.used.setdefault(RUNTIME, set()).add(node.op_type)
        return [found.get(name, np.zeros(0)) for name in node.output]

    def _by_reference(self, node: onnx.NodeProto, get: Lookup) -> list[Array]:
        """SequenceMap and the like, by onnx.reference: what their bodies capture become inputs."""
        names = sorted(read_names(node))
        model = onnx.ModelProto(ir_version=10)
        model.opset_import.extend(self.proto.opset_import)
        model.graph.name = node.op_type
        model.graph.node.append(node)
        for name in names:
            model.graph.input.append(helper.make_tensor_value_info(name, 0, None))
        outputs = [name for name in node.output if name]
        for name in outputs:
            model.graph.output.add(name=name)
        try:
            evaluator = ReferenceEvaluator(model, new_ops=FORMULAS)
            with np.errstate(all="ignore"):
                results: Any = evaluator.run(  # pyright: ignore[reportUnknownMemberType]
                    None, {name: get(name) for name in names}
                )
        except Exception as error:
            # onnx.reference raises whatever an operator raised.
            machine.check(error, f"evaluating {node.op_type} in float64")
            problem = f"{type(error).__name__}: {in_one_line(error)}"
            raise unsupported(node, [problem]) from error
        self._evaluator.used.setdefault(REFERENCE, set()).add(node.op_type)
        return results


class LiveValues:
    """The values of a run that something still reads; weights are looked up behind them."""

    def __init__(
        self, twin: Twin, feeds: Mapping[str, Array], kept: Iterable[str], more: Iterable[str] = ()
    ) -> None:
        """`kept` are never dropped; `more` are read once more than the graph reads them."""
        self._twin = twin
        self._readers = Counter(name for node in twin.proto.graph.node for name in read_names(node))
        self._readers.update(kept)
        self._readers.update(more)
        self._values = {name: upcast(array) for name, array in feeds.items()}

    def get(self, name: str) -> Array:
        """A value or a weight in float64."""
        found = self._values.get(name)
        return self._twin.weight(name) if found is None else found

    def has(self, name: str) -> bool:
        """Whether a value is here, or a weight."""
        return name in self._values or self._twin.holds(name)

    def put(self, values: Mapping[str, Array]) -> None:
        """Keep what something reads."""
        self._values.update((k, array) for k, array in values.items() if self._readers[k] > 0)

    def release(self, names: Iterable[str]) -> None:
        """Each of these was read once."""
        for name in names:
            self._readers[name] -= 1
            if self._readers[name] <= 0:
                self._values.pop(name, None)


def evaluated_by(twins: Iterable[Twin]) -> dict[str, tuple[str, ...]]:
    """What evaluated which operators; a name for each means of evaluator.py."""
    found: dict[str, set[str]] = {}
    for twin in twins:
        for means, operators in twin.used.items():
            found.setdefault(means, set()).update(operators)
    return {means: tuple(sorted(found[means])) for means in sorted(found)}
