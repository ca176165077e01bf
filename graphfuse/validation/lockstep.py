"""G0: whether two models mean the same, by walking both float64 twins together.

The original is evaluated once. A node that the fused model has unchanged, and that reads what the
original's reads, yields what the original's yields: it is not evaluated again. Every other one is,
and where the original has a tensor of the same name, the two are compared. Where they agree the
walk goes on with the original's value, so that each fused node is judged on its own, and several
that are wrong are all found; where they do not, it goes on with the fused model's, so that a
difference reaches the outputs that it reaches in a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.files.model_file import Model
from graphfuse.graph.tensors import is_external, read_names
from graphfuse.records import Check
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.validation.evaluator import NARROW_AGREE, UnsupportedModelError
from graphfuse.validation.reference import MAIN_PATH, LiveValues, Twin
from graphfuse.validation.rounding import has_fused, nudge
from graphfuse.validation.tolerance import MEANING_BOUND, compare
from graphfuse.views.fused_nodes import FUSED_DOMAINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

AGREE = 1e-13
"""Relative L2 distance of what float64 rounds differently; a difference in meaning is larger."""


@dataclass
class Meaning:
    """What one feed showed: distances by tensor, with the bound of each.

    `values` are the original's outputs in float64.
    """

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    distances: dict[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    fused: list[str] = field(default_factory=list[str])
    """Outputs of fused nodes that read what the original's read, in the fused model's order."""
    unjudged: list[str] = field(default_factory=list[str])
    """Tensors behind operators, of either model, that only a float32 kernel knows."""

    @property
    def wrong(self) -> list[str]:
        """The outputs of fused nodes that differ, in the order of the fused model."""
        return [n for n in self.fused if not self.distances[n][0] <= self.distances[n][1]]

    def checks(self, outputs: Iterable[str], where: str) -> list[Check]:
        """G0 of every output of the model and of every fused node."""
        names = [n for n in dict.fromkeys((*self.fused, *outputs)) if n not in self.unjudged]
        pairs = ((name, *self.distances.get(name, (0.0, MEANING_BOUND))) for name in names)
        return [
            Check("G0", name, value, bound, where, value <= bound) for name, value, bound in pairs
        ]


@dataclass(frozen=True, slots=True)
class _Step:
    """A node of the fused model, what it reads, and which tensors the original must have first."""

    node: onnx.NodeProto
    reads: frozenset[str]
    watched: tuple[str, ...]
    unchanged: bool


class Lockstep:
    """Two models, walked together on any number of feeds."""

    def __init__(self, original: Twin, fused: Twin) -> None:
        self.original, self.fused = original, fused
        before = {n: node for node in original.proto.graph.node for n in node.output if n}
        self.producers = before
        self.computed = frozenset(before.keys() | set(original.inputs))
        self.changed = {name for name in fused.weights if not self._same_weight(name)}
        # The same node means something else in another version of its operator set.
        self.same_opsets = _opsets(original.proto) == _opsets(fused.proto)
        self.steps = [self._step(node, before) for node in fused.proto.graph.node]

    def _step(self, node: onnx.NodeProto, before: Mapping[str, onnx.NodeProto]) -> _Step:
        reads = frozenset(read_names(node))
        watched = tuple(name for name in (*reads, *node.output) if name in self.computed)
        unchanged = self.same_opsets and _is_unchanged(node, before)
        unchanged = unchanged and reads.isdisjoint(self.changed)
        return _Step(node, reads, watched, unchanged)

    def _same_weight(self, name: str) -> bool:
        """Whether both models hold a weight under a name, with the same values."""
        if not self.original.holds(name):
            # What only the fused model has, only nodes read that are evaluated.
            return name not in self.computed
        if name not in self.original.tensors or name not in self.fused.tensors:
            # Sparse in one of them.
            return np.array_equal(
                self.original.weight(name), self.fused.weight(name), equal_nan=True
            )
        mine, other = self.original.tensors[name], self.fused.tensors[name]
        return same_tensor(self.original.model, self.fused.model, mine, other)

    def run(self, feeds: Mapping[str, Array]) -> Meaning:
        """Compare on one set of feeds. Raises UnsupportedModelError naming what has no meaning."""
        kept = self.original.outputs
        more = (name for step in self.steps for name in step.watched)
        values = LiveValues(self.original, feeds, kept, more)
        walk = _Walk(self, values, frozenset(feeds))
        done = {*feeds, *self.original.inputs}
        walk.advance(done)
        for node in self.original.proto.graph.node:
            self.original.slack()
            values.put(self.original.evaluate(node, values.get))
            walk.narrow_originals.update(dict.fromkeys(node.output, self.original.slack()))
            done.update(node.output)
            values.release(read_names(node))
            walk.advance(done)
        walk.advance(None)
        walk.finish()
        walk.found.values = {name: values.get(name) for name in kept}
        return walk.found


def same_tensor(
    before: Model, after: Model, mine: onnx.TensorProto, other: onnx.TensorProto
) -> bool:
    """Whether a weight of each of two models has the same type, extents and values."""
    # External data is what the file has, whatever else an entry holds.
    if mine == other and (before.folder == after.folder or not is_external(mine)):
        return True
    if mine.data_type != other.data_type or list(mine.dims) != list(other.dims):
        return False
    if before.same_bytes(mine, after, other):
        return True
    is_float = mine.data_type in FLOAT_TYPES
    return np.array_equal(before.read(mine), after.read(other), equal_nan=is_float)


class _Walk:
    """The fused model's side: how far it is, and what differs so far."""

    def __init__(self, pair: Lockstep, values: LiveValues, fed: frozenset[str]) -> None:
        self.found = Meaning()
        self._fed = fed
        self._pair, self._values = pair, values
        self._next = 0
        self._own: dict[str, Array] = {}
        self._narrow: dict[str, float] = {}
        self._wrong: set[str] = set()
        self._lost: set[str] = set()
        self._shared: set[str] = set()
        self.narrow_originals: dict[str, float] = {}
        """How far tensors of the original may be from the same in other nodes: `Twin.slack`."""

    def advance(self, done: set[str] | None) -> None:
        """Evaluate the nodes that are next, while the original has what they are compared with."""
        steps = self._pair.steps
        while self._next < len(steps):
            step = steps[self._next]
            if done is not None and not done.issuperset(step.watched):
                return
            same = step.reads.isdisjoint(self._own) and step.reads.isdisjoint(self._lost)
            if not step.unchanged or not same:
                self._evaluate(step)
            else:
                self._take(step)
            self._shared.update(n for n in step.node.output if n not in self._own)
            self._values.release(step.watched)
            self._next += 1

    def _take(self, step: _Step) -> None:
        """A node that does what the original's has done: so do its bodies."""
        key = (*MAIN_PATH, tuple(step.node.output))
        for path, bodies in self._pair.original.taken.items():
            if path[: len(key)] == key:
                self._pair.fused.taken.setdefault(path, set()).update(bodies)

    def _slack_of_original(self, name: str) -> float:
        """The slack of what the original computed between tensors that are shared and this one."""
        pending, seen, slack = [name], {name}, 0.0
        while pending:
            current = pending.pop()
            node = self._pair.producers.get(current)
            if node is None:
                continue
            slack = max(slack, self.narrow_originals.get(current, 0.0))
            more = read_names(node) - self._shared - seen
            pending += more
            seen |= more
        return slack

    def _evaluate(self, step: _Step) -> None:
        fused, node = self._pair.fused, step.node
        fused.slack()
        results = self._results(step)
        if results is None:
            return
        narrow = max((self._narrow.get(name, 0.0) for name in step.reads), default=0.0)
        narrow = max(narrow, fused.slack())
        wrong = not step.reads.isdisjoint(self._wrong)
        for name, result in results.items():
            if name not in self._pair.computed:
                self._own[name] = result
            elif not self._agrees(node, name, result, narrow, wrong):
                self._own[name] = result
                self._wrong.add(name)
            if name in self._own:
                self._narrow[name] = narrow
                self._wrong |= {name} if wrong else set()

    def _results(self, step: _Step) -> dict[str, Array] | None:
        """What a node yields; None where what it reads has a shape that it does not take.

        It is then as wrong as can be, and so is all that reads it.
        """
        wrong = not step.reads.isdisjoint(self._wrong)
        if step.reads.isdisjoint(self._lost):
            try:
                return self._pair.fused.evaluate(step.node, self._look)
            except UnsupportedModelError:
                if not wrong and not has_fused(step.node):
                    raise
        names = [name for name in step.node.output if name]
        self._lost.update(names)
        self._wrong.update(names)
        for name in names:
            if name in self._pair.computed:
                self.found.distances[name] = (float("inf"), MEANING_BOUND)
                if has_fused(step.node) and not wrong:
                    self.found.fused.append(name)
        return None

    def _agrees(
        self, node: onnx.NodeProto, name: str, result: Array, narrow: float, wrong: bool
    ) -> bool:
        """Compare a tensor that both compute; `wrong` when it reads one that is wrong already."""
        value, slack = compare(result, self._values.get(name)), 0.0
        if value > AGREE:
            narrow = max(narrow, self._slack_of_original(name))
        if narrow >= NARROW_AGREE:
            # What float32 computed proves nothing; where it is near, the walk starts afresh.
            self.found.unjudged.append(name)
            return value <= NARROW_AGREE
        is_fused = has_fused(node)
        if narrow:
            slack = narrow
        elif value > AGREE and is_fused:
            # What float32 does to an epsilon is no difference in meaning.
            moved = self._pair.fused.evaluate(nudge(node), self._look)
            slack = compare(moved[name], result)
        self.found.distances[name] = (value, MEANING_BOUND + slack)
        if is_fused and not wrong:
            self.found.fused.append(name)
        return value <= AGREE + slack

    def _look(self, name: str) -> Array:
        if name in self._own:
            return self._own[name]
        changed = name in self._pair.changed and name not in self._fed
        changed = changed or not self._values.has(name)
        return self._pair.fused.weight(name) if changed else self._values.get(name)

    def finish(self) -> None:
        """Outputs that no node of the fused model computes: weights that it holds."""
        for name in self._pair.original.outputs:
            found = self._own.get(name)
            if found is None and name in self._pair.changed:
                found = self._pair.fused.weight(name)
            if found is not None and name not in self.found.distances:
                value = compare(found, self._values.get(name))
                self.found.distances[name] = (value, MEANING_BOUND)


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    """The versions of the operator sets that a twin's nodes are of, fused ones aside."""
    return {e.domain: e.version for e in proto.opset_import if e.domain not in FUSED_DOMAINS}


def _is_unchanged(node: onnx.NodeProto, before: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the original has the same node, but for the names of nodes."""
    there = next((before.get(name) for name in node.output if name), None)
    if there is None or there.op_type != node.op_type or there.domain != node.domain:
        return False
    same = list(there.input) == list(node.input) and list(there.output) == list(node.output)
    return same and list(there.attribute) == list(node.attribute)
