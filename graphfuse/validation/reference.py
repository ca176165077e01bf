"""The float64 twin of a model: what it means, free of rounding.

Weights and inputs are upcast, casts to lower float types are lifted, and fused nodes are evaluated
from their own attributes (operators.py). Nodes are evaluated one at a time (evaluator.py); a weight
is read and upcast when a node needs it, and a value is dropped once nothing reads it any more, so
the memory is that of the largest weight and of the values in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphfuse import machine
from graphfuse.errors import in_one_line
from graphfuse.graph.inference import infer_types
from graphfuse.graph.model_file import Model
from graphfuse.graph.tensors import FLOAT_TYPES, read_names, replace_nodes, subgraphs
from graphfuse.validation.evaluator import NUMPY, REFERENCE, NodeEvaluator, unsupported
from graphfuse.validation.lifting import FUSED_DOMAINS, OWN_DOMAIN, dense, lifted, upcast
from graphfuse.validation.operators import OWN_OPERATORS, round_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Lookup = Callable[[str], Array]

HALF_UNIT = 2.0**-24
"""An epsilon attribute is a float32: it is off by this share of itself at most."""

KEPT_WEIGHT = 2**16
"""Weights of up to this many elements stay in memory as float64."""


SAMPLES = 16
"""How many samples of rounding there are. Where all of an output's error hangs on one near tie,
1.25 times the largest of n samples and the original misses another one in 8 % of cases for 5, 2 %
for 16."""

SAMPLES_OF_DECISIONS = 64
"""The same for a model that decides inside: a router's near tie may fall either way, and does so
in few samples. Of a fair tie that falls in a share p of them, n samples miss p (1 - p)^n, at most
1 / (e n)."""

KEPT_SAMPLES = 2**28
"""Bytes of samples that are kept for a model's other outputs; beyond, they are computed again."""

# fmt: off
DECIDING = frozenset((
    "TopK", "ArgMax", "ArgMin", "Hardmax", "Round", "Floor", "Ceil", "NonMaxSuppression",
    "QuantizeLinear", "DynamicQuantizeLinear",
))
# fmt: on
"""Operators that turn a difference in rounding into one of any size."""


class Twin:
    """A model's float64 twin: the graph lifted; weights stay where they are."""

    def __init__(self, model: Model) -> None:
        """Lift a model."""
        self.model = model
        self.proto = lifted(model)
        self.tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self.inputs = [value.name for value in model.proto.graph.input]
        self.outputs = [value.name for value in model.proto.graph.output]
        self._kept: dict[str, Array] = {}
        for sparse in model.proto.graph.sparse_initializer:
            self._kept[sparse.values.name] = upcast(dense(sparse))
        self._evaluator = NodeEvaluator(self.proto.opset_import)
        self.taken: dict[tuple[str, ...], set[str]] = {}
        """The branches of each If that some run took, by the names of its outputs."""

    @cached_property
    def types(self) -> Mapping[str, int]:
        """The declared or inferred float types of the tensors of the main graph."""
        types = infer_types(self.model.proto).items()
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
        """How many nodes were evaluated in float32, for want of anything better."""
        return self._evaluator.narrow_runs

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
        values = Values(self, feeds, names)
        for node in self.proto.graph.node:
            step = nudge(node) if nudged else node
            if rounded is not None and any(subgraphs(node)):
                step = _with_casts(node, max((rounded.get(n, 0) for n in node.output), default=0))
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
        self, node: onnx.NodeProto, get: Lookup, in_body: bool = False
    ) -> dict[str, Array]:
        """The outputs of one node by name, what it reads looked up by `get`."""
        bodies = list(subgraphs(node))
        if node.op_type == "If":
            results = self._branch(node, get)
        elif not in_body and self._picks_rows(node):
            results = [self._rows(node, get(node.input[1]))]
        elif bodies:
            results = self._loop(node, get)
        else:
            inputs = [get(name) if name else None for name in node.input]
            results = self._evaluator.run(node, inputs)
        return dict(zip(filter(None, node.output), results, strict=True))

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

    def _branch(self, node: onnx.NodeProto, get: Lookup) -> list[Array]:
        taken = "then_branch" if bool(np.all(get(node.input[0]))) else "else_branch"
        self.taken.setdefault(tuple(node.output), set()).add(taken)
        body = next(a.g for a in node.attribute if a.name == taken)
        inner = {t.name: numpy_helper.to_array(t) for t in body.initializer}
        inner |= {s.values.name: upcast(dense(s)) for s in body.sparse_initializer}

        def look(name: str) -> Array:
            return inner[name] if name in inner else get(name)

        for step in body.node:
            inner |= self.evaluate(step, look, in_body=True)
        pairs = zip(node.output, body.output, strict=True)
        return [look(value.name) for name, value in pairs if name]

    def _loop(self, node: onnx.NodeProto, get: Lookup) -> list[Array]:
        """Loop, Scan and the like, by onnx.reference: what their bodies capture become inputs."""
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
            evaluator = ReferenceEvaluator(model, new_ops=OWN_OPERATORS)
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


class RoundedSamples:
    """What rounding does to a model's outputs: samples, each computed when it is asked for."""

    def __init__(self, twin: Twin, feeds: Mapping[str, Array]) -> None:
        self._twin, self._feeds = twin, feeds
        self._found: list[Mapping[str, Array]] = []

    @cached_property
    def decides(self) -> bool:
        """Whether the model has an operator after which samples can be any distance apart."""
        return _decides(self._twin.proto.graph)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for sample in range(SAMPLES_OF_DECISIONS if self.decides else SAMPLES):
            if sample < len(self._found):
                yield self._found[sample]
                continue
            values = self._twin.run_rounded(self._feeds, sample)
            size = sum(np.asarray(array).nbytes for array in values.values())
            if sample == len(self._found) and (sample + 1) * size <= KEPT_SAMPLES:
                self._found.append(values)
            yield values


def _decides(graph: onnx.GraphProto) -> bool:
    nodes = graph.node
    inside = (body for node in nodes for body in subgraphs(node))
    return any(node.op_type in DECIDING for node in nodes) or any(map(_decides, inside))


def rounded_by_chance(array: Array, elem_type: int, rng: np.random.Generator | None) -> Array:
    """An array with the errors of rounding to a type, of random signs where there is `rng`."""
    nearest = round_to(array, elem_type)
    if rng is None or nearest is array:
        return nearest
    with np.errstate(invalid="ignore"):
        other = array + (array - nearest)
    takes_other = np.isfinite(nearest) & (rng.random(array.shape) < 0.5)
    return np.where(takes_other, other, nearest)


class Values:
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


def _with_casts(node: onnx.NodeProto, elem_type: int) -> onnx.NodeProto:
    """A node in whose bodies every value is rounded to a type: that of what the node yields."""
    if elem_type in (0, TensorProto.DOUBLE):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for graph in subgraphs(copy):
        rounded = [
            step
            for inner in graph.node
            for step in _rounded_step(_with_casts(inner, elem_type), elem_type)
        ]
        replace_nodes(graph, rounded)
    return copy


def _rounded_step(node: onnx.NodeProto, elem_type: int) -> list[onnx.NodeProto]:
    """A node, and what rounds each of its outputs."""
    steps = [node]
    for position, name in enumerate(node.output):
        if name:
            node.output[position] = f"{name}/exact"
            rounding = helper.make_node("RoundTo", [f"{name}/exact"], [name], to=elem_type)
            rounding.domain = OWN_DOMAIN
            steps.append(rounding)
    return steps


def has_fused(node: onnx.NodeProto) -> bool:
    """Whether a node is a fused one, or has one in a body."""
    if node.domain in FUSED_DOMAINS:
        return True
    return any(has_fused(inner) for graph in subgraphs(node) for inner in graph.node)


def nudge(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node with every fused epsilon in it off by half a unit in its last place."""
    if not has_fused(node):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    pending = [copy]
    while pending:
        current = pending.pop()
        if current.domain in FUSED_DOMAINS:
            current.attribute.append(helper.make_attribute("nudge", HALF_UNIT))
        pending.extend(inner for graph in subgraphs(current) for inner in graph.node)
    return copy


def evaluated_by(twins: Iterable[Twin]) -> dict[str, tuple[str, ...]]:
    """What evaluated which operators; a name for each means of evaluator.py."""
    found: dict[str, set[str]] = {}
    for twin in twins:
        for means, operators in twin.used.items():
            found.setdefault(means, set()).update(operators)
    return {means: tuple(sorted(found[means])) for means in sorted(found)}
