"""What a rewrite kept of a graph: for carrying it back to the objects that were exported."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx


def kept(
    before: Sequence[onnx.NodeProto], after: Sequence[onnx.NodeProto]
) -> tuple[int | None, ...]:
    """For each node of `after` the index of the node that it was before; None for a new one.

    A node is the same when only what is inside of its bodies differs. Outputs tell nodes apart;
    those without any keep their order.
    """
    places: defaultdict[tuple[str, ...], deque[int]] = defaultdict(deque)
    for index, node in enumerate(before):
        places[tuple(node.output)].append(index)
    found: list[int | None] = []
    for node in after:
        queue = places[tuple(node.output)]
        is_there = bool(queue) and _is_kept(before[queue[0]], node)
        found.append(queue.popleft() if is_there else None)
    return tuple(found)


@dataclass(frozen=True)
class ChangedBody:
    """A body in which something changed, of the node at `place` before, by its attribute."""

    place: int
    name: str
    before: onnx.GraphProto
    after: onnx.GraphProto


def changed_bodies(
    before: Sequence[onnx.NodeProto],
    after: Sequence[onnx.NodeProto],
    places: Sequence[int | None],
) -> Iterator[ChangedBody]:
    """The bodies of nodes that were kept in which something changed; `places` are from `kept`."""
    for place, node in zip(places, after, strict=True):
        if place is None:
            continue
        for old, new in zip(before[place].attribute, node.attribute, strict=True):
            if old.HasField("g") and old.g != new.g:
                yield ChangedBody(place, old.name, old.g, new.g)


def _is_kept(before: onnx.NodeProto, after: onnx.NodeProto) -> bool:
    """Whether a node is the same but for what is inside its bodies."""
    if before == after:
        return True
    if (before.op_type, before.domain, before.name) != (after.op_type, after.domain, after.name):
        return False
    plain = [
        [each for each in node.attribute if not each.HasField("g")] for node in (before, after)
    ]
    bodies = [
        [each.name for each in node.attribute if each.HasField("g")] for node in (before, after)
    ]
    return before.input == after.input and plain[0] == plain[1] and bodies[0] == bodies[1] != []
