"""Conversions between graphfuse's and onnxruntime's fused nodes, each wrong in one way.

What somebody who converts nodes by hand gets wrong: other places of the vectors, another default of
epsilon, another number of the output. None of it passes at any level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

import graphfuse
from graphfuse import ops
from graphfuse.records import NormKind
from tests.rewriting.test_unfuse import skip
from tests.support.graphs import assert_passes

CALLS = {
    NormKind.LAYER_NORM: "y, , , z = SkipLayerNormalization<epsilon = 1e-3>(a, b, gamma, beta, vector)",
    NormKind.RMS_NORM: "y, , , z = SkipSimplifiedLayerNormalization<epsilon = 1e-3>(a, b, gamma, vector)",
}
TARGETS = {"from onnxruntime's": "cpu", "to onnxruntime's": "cuda"}


@dataclass
class Conversion:
    """A converted model, its fused node, and what the node's inputs and outputs are called."""

    proto: onnx.ModelProto
    node: NodeProto
    centred: bool

    @property
    def own(self) -> bool:
        return self.node.domain == ops.DOMAIN

    @property
    def vectors(self) -> list[str]:
        """The vectors in the order of the node's inputs."""
        return ["gamma", "beta", "vector"] if self.centred else ["gamma", "vector"]

    def put(self, **names: str) -> None:
        """Other names in the places of vectors or of the operands a and b."""
        for position, role in enumerate(["a", "b", *self.vectors]):
            self.node.input[position] = names.get(role, self.node.input[position])

    def swap(self, one: str, other: str) -> None:
        self.put(**{one: other, other: one})

    def epsilon(self, factor: float) -> None:
        next(each for each in self.node.attribute if each.name == "epsilon").f *= factor

    def default_epsilon(self) -> None:
        kept = [each for each in self.node.attribute if each.name != "epsilon"]
        copies = NodeProto(attribute=kept).attribute
        del self.node.attribute[:]
        self.node.attribute.extend(copies)

    def exchange_outputs(self) -> None:
        for position, name in enumerate(self.node.output):
            self.node.output[position] = {"y": "z", "z": "y"}.get(name, name)

    def plain_sum(self, *terms: str) -> None:
        """Whoever reads the sum reads one of other terms."""
        position = list(self.node.output).index("z")
        self.node.output[position] = "sum_of_the_node"
        self.proto.graph.node.append(helper.make_node("Sum", terms, ["z"]))

    def other_kind(self) -> None:
        """An RMSNorm in place of a LayerNorm, or the reverse with no bias behind it."""
        kept = list(self.node.input)
        if self.centred:
            kept.pop(3)
        else:
            kept.insert(3, "zeros")
        kind = NormKind.RMS_NORM if self.centred else NormKind.LAYER_NORM
        operator = {
            True: ops.BIAS_OPERATOR[kind],
            False: CALLS[kind].split("<")[0].split()[-1],
        }[self.own]
        self.node.op_type = operator
        self.node.input[:] = kept
        if self.own:
            self.proto.functions.extend(converted(kind, "cpu").functions)


Wrong = Callable[[Conversion], object]
BOTH: Mapping[str, Wrong] = {
    "the bias before the norm dropped": lambda c: c.put(vector="zeros"),
    "the bias before the norm twice": lambda c: c.put(vector="doubled"),
    "gamma and the bias before the norm swapped": lambda c: c.swap("gamma", "vector"),
    "gamma dropped": lambda c: c.put(gamma="ones"),
    "the other default of epsilon": Conversion.default_epsilon,
    "epsilon squared": lambda c: c.epsilon(1e-3),
    "epsilon off by a percent": lambda c: c.epsilon(1.01),
    "the sum and the norm exchanged": Conversion.exchange_outputs,
    "the sum without the bias": lambda c: c.plain_sum("a", "b"),
    "an operand in place of the sum": lambda c: c.plain_sum("a"),
    "one operand twice": lambda c: c.put(b="a"),
    "the other kind of norm": Conversion.other_kind,
}
CENTRED: Mapping[str, Wrong] = {
    "beta and the bias before the norm swapped": lambda c: c.swap("beta", "vector"),
    "gamma and beta swapped": lambda c: c.swap("gamma", "beta"),
    "beta dropped": lambda c: c.put(beta="zeros"),
    "beta twice": lambda c: c.put(beta="doubled_beta"),
    "the bias before the norm in the place of beta": lambda c: c.put(beta="vector"),
    "beta in the place of the bias before the norm": lambda c: c.put(vector="beta"),
}
WRONG = [
    (kind, way, wrong)
    for kind in CALLS
    for way in TARGETS
    for wrong in (*BOTH, *(CENTRED if kind == NormKind.LAYER_NORM else ()))
]


@cache
def source(kind: str, way: str) -> onnx.ModelProto:
    proto = skip(CALLS[kind], "float[B,S,8] y, float[B,S,8] z")
    return proto if way == "from onnxruntime's" else converted(kind, "cpu")


@cache
def converted(kind: str, ep: str) -> onnx.ModelProto:
    first = skip(CALLS[kind], "float[B,S,8] y, float[B,S,8] z")
    own = graphfuse.fuse(first, selection=graphfuse.Selection(costs="none", fold_bias=True)).model
    return (
        own
        if ep == "cpu"
        else graphfuse.fuse(
            own, ep, selection=graphfuse.Selection(costs="none", fold_bias=True)
        ).model
    )


def conversion(kind: str, way: str) -> Conversion:
    proto = onnx.ModelProto()
    proto.CopyFrom(converted(kind, TARGETS[way]))
    tensors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    more = {
        "zeros": np.zeros(8, np.float32),
        "ones": np.ones(8, np.float32),
        "doubled": 2 * tensors["vector"],
    }
    more |= {"doubled_beta": 2 * tensors["beta"]} if "beta" in tensors else {}
    for name, array in more.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    (node,) = (node for node in proto.graph.node if node.domain)
    return Conversion(proto, node, kind == NormKind.LAYER_NORM)


def test_there_are_forty_distinct_ones() -> None:
    made: set[bytes] = set()
    for kind, way, wrong in WRONG:
        found = conversion(kind, way)
        {**BOTH, **CENTRED}[wrong](found)
        made.add(found.proto.SerializeToString(deterministic=True))
    assert len(made) == len(WRONG) >= 40


@pytest.mark.parametrize("way", TARGETS)
@pytest.mark.parametrize("kind", CALLS)
def test_the_right_conversion_passes(kind: str, way: str) -> None:
    found = conversion(kind, way)
    assert found.own == (way == "from onnxruntime's")
    assert found.node.op_type in (ops.BIAS_OPERATOR[kind], CALLS[kind].split("<")[0].split()[-1])
    assert_passes(source(kind, way), found.proto)


@pytest.mark.parametrize("level", ["fast", "full", "sites"])
@pytest.mark.parametrize(("kind", "way", "wrong"), WRONG)
def test_a_wrong_conversion_does_not_pass(kind: str, way: str, wrong: str, level: str) -> None:
    found = conversion(kind, way)
    {**BOTH, **CENTRED}[wrong](found)
    assert graphfuse.validate(source(kind, way), found.proto, level=level).verdict != "pass"
