"""Norms that are written as something else, which the algebra has no row for: near misses.

A BatchNormalization in training mode over what were the rows of a sum is a LayerNorm. An operator
of a domain that no one has defined may be one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import onnx

from graphfuse.graph.nodes import Node
from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.ops import CONTRIB_DOMAIN, DOMAIN
from graphfuse.recognition.residual import Source, sources
from graphfuse.recognition.translate import NORMALIZATIONS
from graphfuse.records.reasons import Reason
from graphfuse.views.view import GraphView

NORM_NAME = re.compile(r"(layer|rms)norm")
"""What the name of a LayerNorm or RMSNorm has, in small letters and without what joins words."""

CALLS = frozenset(("ATen", "ATenOp", "PythonOp"))
"""Operators of PyTorch's exporters that name in an attribute what they call."""

DEFINED = (DOMAIN, CONTRIB_DOMAIN)
"""Domains whose norms are known, or are none of a sum."""


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
    return NORM_NAME.search(re.sub(r"[\W_]", "", name).lower()) is not None
