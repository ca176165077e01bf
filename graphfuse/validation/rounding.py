"""What rounding does to a float64 twin: values rounded to their types, in bodies too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphfuse.graph.tensors import replace_nodes, subgraphs
from graphfuse.validation.evaluator import EXACT, UNSEEDED
from graphfuse.validation.formulas import round_to
from graphfuse.views.fused_nodes import FUSED_DOMAINS, OWN_DOMAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graphfuse.validation.reference import Twin

    Array = NDArray[Any]

SAMPLES = 16
"""How many samples of rounding there are. Where all of an output's error hangs on one near tie,
1.25 times the largest of n samples and the original misses another one in 8 % of cases for 5, 2 %
for 16."""

SAMPLES_OF_DECISIONS = 64
"""The same for a model that decides inside: a router's near tie may fall either way, and does so
in few samples. Of a fair tie that falls in a share p of them, n samples miss p (1 - p)^n, at most
1 / (e n)."""

RANDOM = UNSEEDED | {"Bernoulli", "Multinomial", "Dropout"}
"""Operators whose results are drawn, Dropout in training only."""

KEPT_SAMPLES = 2**28
"""Bytes of samples that are kept for a model's other outputs; beyond, they are computed again."""

HALF_UNIT = 2.0**-24
"""An epsilon attribute is a float32: it is off by this share of itself at most."""

# fmt: off
DECIDING = frozenset((
    "TopK", "ArgMax", "ArgMin", "Hardmax", "Round", "Floor", "Ceil", "NonMaxSuppression",
    "QuantizeLinear", "DynamicQuantizeLinear",
))
# fmt: on
"""Operators that turn a difference in rounding into one of any size."""


class RoundedSamples:
    """What rounding does to a model's outputs: samples, each computed when it is asked for."""

    def __init__(self, twin: Twin, feeds: Mapping[str, Array]) -> None:
        self._twin, self._feeds = twin, feeds
        self._found: list[Mapping[str, Array]] = []

    @cached_property
    def decides(self) -> bool:
        """Whether the model has an operator after which samples can be any distance apart."""
        return decides(self._twin.proto.graph)

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


def decides(graph: onnx.GraphProto) -> bool:
    """Whether a graph, or a body in it, has such an operator."""
    return _holds(graph, DECIDING)


def draws(graph: onnx.GraphProto) -> bool:
    """Whether a graph, or a body in it, draws numbers at random."""
    return _holds(graph, RANDOM)


def _holds(graph: onnx.GraphProto, operators: frozenset[str]) -> bool:
    nodes = graph.node
    inside = (body for node in nodes for body in subgraphs(node))
    return any(n.op_type in operators for n in nodes) or any(_holds(g, operators) for g in inside)


def rounded_by_chance(array: Array, elem_type: int, rng: np.random.Generator | None) -> Array:
    """An array with the errors of rounding to a type, of random signs where there is `rng`."""
    nearest = round_to(array, elem_type)
    if rng is None or nearest is array:
        return nearest
    with np.errstate(invalid="ignore"):
        other = array + (array - nearest)
    takes_other = np.isfinite(nearest) & (rng.random(array.shape) < 0.5)
    return np.where(takes_other, other, nearest)


def with_casts(node: onnx.NodeProto, elem_type: int) -> onnx.NodeProto:
    """A node in whose bodies every value is rounded to a type: that of what the node yields."""
    if elem_type in (0, TensorProto.DOUBLE):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for graph in subgraphs(copy):
        rounded = [
            step
            for inner in graph.node
            for step in _rounded_step(with_casts(inner, elem_type), elem_type)
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
        if (current.domain, current.op_type) in EXACT and current.domain:
            current.attribute.append(helper.make_attribute("nudge", HALF_UNIT))
        pending.extend(inner for graph in subgraphs(current) for inner in graph.node)
    return copy
