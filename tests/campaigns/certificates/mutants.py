"""Fused models with a number that is wrong: no certificate may hold for the damaged node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import graphfuse
from tests.campaigns.certificates.tally import certificates
from tests.campaigns.mutants.kinds import KINDS, NothingToDamageError, fused_nodes
from tests.campaigns.mutants.trial import TARGETS

ELSEWHERE = {
    "output_of_another": "the fused nodes are right, their readers are not",
    "operands_swapped_under_broadcast": "a sum is the same, onnxruntime's kernel is what is wrong",
    "statistics_in_float16": "a type, which is lifted",
    "plain_epsilon": "a norm that is not fused",
    "node_added_behind_a_norm": "the fused nodes are right, what reads them is not",
}
"""Mutants of tests/mutants that do not change a number of a fused node: other gates see them."""


def _middle(proto: onnx.ModelProto) -> onnx.NodeProto:
    nodes = fused_nodes(proto)
    return nodes[len(nodes) // 2]


def _epsilon_by(direction: float) -> Callable[[onnx.ModelProto], None]:
    def damage(proto: onnx.ModelProto) -> None:
        epsilon = next(a for a in _middle(proto).attribute if a.name == "epsilon")
        epsilon.f = float(np.nextafter(np.float32(epsilon.f), np.float32(direction)))

    return damage


def _vector_by(position: int) -> Callable[[onnx.ModelProto], None]:
    """The last bit of one element of an input."""

    def damage(proto: onnx.ModelProto) -> None:
        node = _middle(proto)
        if position >= len(node.input) or (position == 3 and "RMS" in node.op_type):
            raise NothingToDamageError("no such vector")
        name = node.input[position]
        found = [tensor for tensor in proto.graph.initializer if tensor.name == name]
        if not found or len(found[0].dims) != 1:
            raise NothingToDamageError("the vector is computed")
        array = numpy_helper.to_array(found[0]).copy()
        wide = array[array.size // 2]
        array[array.size // 2] = np.nextafter(wide, np.array(np.inf, array.dtype))
        found[0].CopyFrom(numpy_helper.from_array(array, name))

    return damage


LAST_BITS: Mapping[str, Callable[[onnx.ModelProto], None]] = {
    "epsilon up by its last bit": _epsilon_by(1.0),
    "epsilon down by its last bit": _epsilon_by(0.0),
    "scale up by its last bit": _vector_by(2),
    "bias up by its last bit": _vector_by(3),
}

DAMAGES: Mapping[str, Callable[[onnx.ModelProto], None]] = {
    **{name: damage for name, damage in KINDS.items() if name not in ELSEWHERE},
    **LAST_BITS,
}


def verdicts(path: Path, family: str) -> Iterator[tuple[str, str]]:
    """Each kind of damage that a model can have, and what the damaged nodes' certificates say."""
    result = graphfuse.fuse(path, TARGETS[family], selection=graphfuse.Selection(costs="none"))
    if not result.changed:
        return
    assert all(each.passed for each in certificates(path, result.model)), path
    for kind, damage in DAMAGES.items():
        mutant = onnx.ModelProto()
        mutant.CopyFrom(result.model)
        try:
            damage(mutant)
        except NothingToDamageError:
            continue
        failed = [each for each in certificates(path, mutant) if not each.passed]
        yield kind, f"{failed[0].verdict}: {failed[0].detail}" if failed else ""
