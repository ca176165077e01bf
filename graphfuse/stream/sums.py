"""The residual stream of a model: the sums that norms read, and those that none does.

A sum x + F(x) is residual when one operand is behind the other with a contraction between: a matrix
product, a convolution or an attention. So x + 0.044715*x^3 of GELU's approximation is none, nor is
a bias, nor the halves of a rotation.
"""

from __future__ import annotations

import onnx

from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.layout import LAYER
from graphfuse.recognition.residual import is_sum
from graphfuse.records import Dim, Scan, Site
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.records.residual_stream import StreamSum
from graphfuse.views.view import GraphView

CONTRACTIONS = having(Trait.CONTRACTS)
SQUARES = having(Trait.SQUARES)

REACH = 600
"""Nodes that are looked at behind an operand: several times what a block has."""

BEFORE_THE_SUM = 3
"""Nodes between a weight that names the layer and the sum: a product, a bias, a dropout."""


def stream(view: GraphView, scan: Scan) -> list[StreamSum]:
    """The sums of the residual stream of a model's main graph, in its order."""
    sites = {site.sum: site for site in scan.sites if not site.scope.text}
    found: list[StreamSum] = []
    for node in view.nodes:
        total = node.outputs[0] if node.outputs else ""
        if (site := sites.get(total)) is not None:
            squares = _squares_in_type(view, site)
            found.append(StreamSum(total, site.id, site.kind, site.layer, squares))
        elif not node.in_call and (branch := _branch(view, node)):
            found.append(StreamSum(total, "", "", _layer(view, branch), False))
    return found


def _branch(view: GraphView, node: Node) -> str:
    """The operand F(x) of a sum x + F(x); '' for any other node."""
    if not is_sum(node) or any(view.is_weight(name) for name in node.inputs):
        return ""
    if any(reader.op_type == "Softmax" for reader in view.readers(node.outputs[0])):
        return ""  # Scores of attention and a mask: the next block's are behind the same mask.
    one, other = node.inputs
    if view.type(one).elem_type not in FLOAT_TYPES:
        return ""
    if not _alike(view.type(one).shape, view.type(other).shape):
        return ""
    if _contracts(view, one, other):
        return other
    return one if _contracts(view, other, one) else ""


def _alike(one: tuple[Dim, ...] | None, other: tuple[Dim, ...] | None) -> bool:
    """Whether two operands can be x and F(x): as far as is known of one shape, its width known.

    A mask or a bias of scores is read by every layer, so it too is behind the scores of the next
    one; it broadcasts along heads or batches, and its last extent is that of keys.
    """
    if not one or not other or len(one) != len(other):
        return False
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, int)]
    known = [(a, b) for a, b in pairs if isinstance(b, int)]
    return isinstance(one[-1], int) and one[-1] == other[-1] and all(a == b for a, b in known)


def _contracts(view: GraphView, x: str, branch: str) -> bool:
    """Whether `branch` is computed from x, and something on the way contracts an axis."""
    pending, seen = [branch], {branch}
    reached = contracts = False
    for _ in range(REACH):
        if not pending or (reached and contracts):
            break
        name = pending.pop(0)
        if name == x:
            reached = True
            continue
        node = view.producer(name)
        if node is None:
            continue
        contracts = contracts or node.op_type in CONTRACTIONS
        fresh = [operand for operand in node.inputs if operand and operand not in seen]
        seen.update(fresh)
        pending += fresh
    return reached and contracts


def _squares_in_type(view: GraphView, site: Site) -> bool:
    """Whether the norm is written out and squares its operand in the type of the sum.

    The operators that are norms compute in float32 whatever they are given, and so does what casts
    to a wider type first.
    """
    if not isinstance(view.scope.graph, onnx.GraphProto):
        return False
    for index in site.interior:
        node = view.scope.graph.node[index]
        squares = node.op_type in SQUARES
        squares = squares or (node.op_type == "Mul" and node.input[0] == node.input[1])
        if squares and view.type(node.input[0]).elem_type == site.elem_type:
            return True
    return False


def _layer(view: GraphView, branch: str) -> int | None:
    """The number of the layer, where the name of a weight just before the sum tells it.

    Exporters merge equal weights (biases of zeros), so one that is read twice tells nothing.
    """
    pending = [branch]
    for _ in range(BEFORE_THE_SUM):
        makers = [maker for name in pending if (maker := view.producer(name)) is not None]
        pending = [name for maker in makers for name in maker.inputs if name]
        for name in pending:
            own = view.is_weight(name) and len(view.readers(name)) == 1
            if own and (found := LAYER.search(name)) is not None:
                return int(found[1])
    return None
