"""Norms that are written as something else, which the algebra has no row for: near misses.

A BatchNormalization in training mode, an InstanceNormalization and a GroupNormalization over what
were the rows of a sum are a LayerNorm. An operator of a domain that no one has defined may be one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import onnx

from graphfuse.graph.nodes import Node
from graphfuse.graph.shapes import extent_of
from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.graph.view import GraphView
from graphfuse.ops import CONTRIB_DOMAIN, DOMAIN
from graphfuse.patterns.residual import Source, is_sum, sources
from graphfuse.patterns.translate import NORMALIZATIONS
from graphfuse.reasons import Reason

NAME = re.compile(r"(layer|rms)norm")
"""What the name of a LayerNorm or RMSNorm has, in small letters and without what joins words."""

CALLS = frozenset(("ATen", "ATenOp", "PythonOp"))
"""Operators of PyTorch's exporters that name in an attribute what they call."""

KEEPS_ORDER = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"))
"""Operators that leave the elements of a tensor in their order."""

DEFINED = (DOMAIN, CONTRIB_DOMAIN)
"""Domains whose norms are known, or are none of a sum."""

LONGEST = 8


def disguised(view: GraphView, node: Node) -> Iterator[Source]:
    """The sums that a norm in disguise reads, each with the node as what stands in the way."""
    reason = None
    if _takes_batch_statistics(view, node):
        reason = Reason.BATCH_STATISTICS
    elif _is_unknown_norm(node):
        reason = Reason.NORM_UNKNOWN
    if reason is not None:
        for source in sources(view, node.input(0)):
            yield replace(source, path=(), obstacle=node, reason=reason)
    elif (add := _sum_of_rows(view, node)) is not None:
        yield Source(add, add.outputs[0], (), node, Reason.BATCH_STATISTICS)


def _takes_batch_statistics(view: GraphView, node: Node) -> bool:
    """Whether a BatchNormalization normalises what it reads by that itself, as a norm does.

    Keras 2 writes a LayerNorm so, its rows as channels. One with constant statistics is none.
    """
    if not node.standard or node.op_type != "BatchNormalization":
        return False
    trains = node.attributes.get("training_mode", 0) == 1
    return trains or not all(view.is_weight(node.input(at)) for at in (3, 4))


def _is_unknown_norm(node: Node) -> bool:
    """Whether an operator that no standard defines is called a LayerNorm or RMSNorm."""
    calls = node.op_type in CALLS
    if not calls and (node.domain in DEFINED or not _is_name_of_norm(node.op_type)):
        return False
    if not node.known or not node.input(0):
        return False
    if not calls:
        defined = node.op_type in NORMALIZATIONS or onnx.defs.has(node.op_type)
        return not (node.domain in DEFAULT_DOMAINS and defined)
    return any(
        _is_name_of_norm(attribute.s.decode(errors="replace"))
        for attribute in node.source.attribute
    )


@cache
def _is_name_of_norm(name: str) -> bool:
    return NAME.search(re.sub(r"[\W_]", "", name).lower()) is not None


def _sum_of_rows(view: GraphView, node: Node) -> Node | None:
    """The sum whose rows an InstanceNormalization or GroupNormalization takes for its channels."""
    if not node.standard or node.op_type not in ("InstanceNormalization", "GroupNormalization"):
        return None
    shape = view.type(node.input(0)).shape
    if shape is None or len(shape) < 2:
        return None
    extent = extent_of(shape, tuple(range(2, len(shape))))
    if node.op_type == "GroupNormalization":
        channels, groups = shape[1], int(node.attributes.get("num_groups", 0))
        if not isinstance(channels, int) or not groups or extent is None:
            return None
        extent *= channels // groups
    name, add = node.input(0), None
    for _ in range(LONGEST):
        add = view.producer(name)
        if add is None or is_sum(add) or not add.standard or add.op_type not in KEEPS_ORDER:
            break
        name = add.input(0)
    if add is None or not is_sum(add):
        return None
    whole = view.type(add.outputs[0]).shape
    return add if whole and extent is not None and whole[-1] == extent else None
