"""Parts of a model as their file spells them, where protobuf would write them another way.

Protobuf reads more encodings than it writes: packed numbers where it packs none, fields in any
order, longer numbers than needed. What an edit does not touch (a node, a weight, an input) goes
back into the file with the bytes that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from google.protobuf.message_factory import GetMessageClass

from graphfuse.files.wire import BytesSource, Entry, entries, header

GRAPH_FIELD = 7
"""The number of the main graph in a model: its parts are taken one by one."""

Spellings = Mapping[tuple[int, int, bytes], bytes]
"""By level (0 the model, 1 its graph), field and what protobuf writes: what the file has."""


def respelt(data: bytes, original: bytes) -> bytes:
    """A model's bytes, every part that the original has too spelt as there."""
    found: dict[tuple[int, int, bytes], bytes] = {}
    _collect(original, 0, len(original), 0, found)
    return _substituted(data, 0, len(data), 0, found) if found else data


def _collect(
    data: bytes, start: int, end: int, level: int, found: dict[tuple[int, int, bytes], bytes]
) -> None:
    kinds = _kinds(level)
    for entry in entries(BytesSource(data), start, end):
        if level == 0 and _is_graph(entry):
            _collect(data, entry.body, entry.end, 1, found)
        elif entry.kind == 2 and entry.number in kinds:
            there = data[entry.body : entry.end]
            usual = kinds[entry.number].FromString(there).SerializeToString(deterministic=True)
            if usual != there:
                found[level, entry.number, usual] = there


def _substituted(data: bytes, start: int, end: int, level: int, found: Spellings) -> bytes:
    parts: list[bytes] = []
    for entry in entries(BytesSource(data), start, end):
        body = data[entry.body : entry.end]
        if level == 0 and _is_graph(entry):
            other = _substituted(data, entry.body, entry.end, 1, found)
        else:
            other = found.get((level, entry.number, body)) if entry.kind == 2 else None
        if other is None:
            parts.append(data[entry.start : entry.end])
        else:
            parts += [header(entry.number, len(other)), other]
    return b"".join(parts)


def _is_graph(entry: Entry) -> bool:
    return entry.number == GRAPH_FIELD and entry.kind == 2


def _kinds(level: int) -> dict[int, Any]:
    """The messages that are parts of a model, or of a graph, by their fields."""
    descriptor: Any = (onnx.ModelProto, onnx.GraphProto)[level].DESCRIPTOR
    return {
        number: GetMessageClass(field.message_type)
        for number, field in descriptor.fields_by_number.items()
        if field.message_type is not None
    }
