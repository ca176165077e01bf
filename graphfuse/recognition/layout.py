"""Where a norm stands in its block, and in which layer.

post-norm   y = norm(x + F(x)): nothing but the norm reads the sum
pre-norm    x = x + F(norm(x)): the sum goes on beside the norm
sandwich    x = x + norm(F(norm(x))): an operand of the sum is a norm that only the sum reads
parallel    x = x + F(norm(x)) + G(norm(x)): the sum is of three
"""

from __future__ import annotations

import re

from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.residual import is_sum
from graphfuse.recognition.translate import NORMALIZATIONS, OPERATORS, REDUCTIONS
from graphfuse.records import Expression, Layout, Parameter, Site
from graphfuse.views.view import GraphView

LAYER = re.compile(r"(?:^|[./_])(?:layers?|blocks?|h|stages?)[./_](\d+)(?:[./_]|$)", re.IGNORECASE)

PROJECTIONS = having(Trait.PROJECTS)
SAME_STREAM = having(Trait.KEEPS | Trait.CASTS)

REACH = 14
"""How far behind an operand the reduction of a norm lies."""


def layout_of(view: GraphView, site: Site) -> Layout:
    """The layout that a site shows."""
    if sum(_is_projection(view, name) for name in site.addends) > 1:
        return Layout.PARALLEL
    normed = [name for name in (site.a, site.b) if _is_normed(view, name)]
    if any(len(view.readers(name)) == 1 for name in normed):
        return Layout.SANDWICH
    if site.sum_is_read:
        return Layout.PRE_NORM
    # The last norm of a pre-norm model: the stream that it ends is a sum itself.
    read_twice = [name for name in (site.a, site.b) if len(view.readers(name)) > 1]
    stream = [_maker(view, name) for name in read_twice]
    ends = any(node is not None and _is_residual(view, node) for node in stream)
    return Layout.PRE_NORM if ends and not normed else Layout.POST_NORM


def _maker(view: GraphView, name: str) -> Node | None:
    """The node that makes a tensor, casts and identities of it looked through."""
    node = view.producer(name)
    while node is not None and node.op_type in SAME_STREAM:
        node = view.producer(node.input(0))
    return node


def _is_normed(view: GraphView, name: str) -> bool:
    """Whether a tensor is made by elementwise arithmetic from a reduction: it is a norm's."""
    pending, seen = [name], set[str]()
    for _ in range(REACH):
        nodes = [node for tensor in pending if (node := view.producer(tensor)) is not None]
        if any(_reduces(node) for node in nodes):
            return True
        seen.update(pending)
        steps = [
            node for node in nodes if node.op_type in OPERATORS and not _is_residual(view, node)
        ]
        found = {operand for node in steps for operand in node.inputs if operand}
        pending = sorted(found - seen)[:16]
    return False


def _reduces(node: Node) -> bool:
    return node.op_type in NORMALIZATIONS or (node.standard and node.op_type in REDUCTIONS)


def _is_projection(view: GraphView, name: str) -> bool:
    """Whether a tensor is what a matrix product gives, a bias or a scale applied."""
    node = view.producer(name)
    for _ in range(4):
        if node is None or node.op_type in PROJECTIONS:
            return node is not None
        operands = [operand for operand in node.inputs if operand and not view.is_weight(operand)]
        passes = node.op_type in OPERATORS and len(operands) == 1
        node = view.producer(operands[0]) if passes else None
    return False


def _is_residual(view: GraphView, node: Node) -> bool:
    known = (view.is_weight(name) or view.scalar(name) is not None for name in node.inputs)
    return is_sum(node) and not any(known)


def layer_of(view: GraphView, site: Site) -> int | None:
    """The number of the layer, where names tell it: those of weights, nodes and tensors."""
    weights = (*_weights(site.scale), *_weights(site.bias))
    # One that several norms share has the name of the first.
    names = [name for name in weights if len(view.readers(name)) == 1]
    names += [view.scope.graph.node[site.interior[-1]].name, site.output, site.add.name]
    for name in names:
        if (found := LAYER.search(name)) is not None:
            return int(found[1])
    return None


def _weights(parameter: Parameter) -> list[str]:
    if isinstance(parameter, Expression):
        return [factor.tensor for _, factors in parameter.terms for factor in factors]
    return [parameter] if parameter else []
