"""Protobuf's wire format, walked without parsing: weights that are inline stay in their file.

A parsed model holds its inline weights in memory, and protobuf parses no message of 2 GiB. So a
large file is shrunk first: each large `raw_data` is left out, and its tensor becomes external data
that lies in the model's own file. Everything downstream then treats both kinds of weights alike.
On the way out the tensors are expanded again, from the bytes that they had.
Source of the format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import onnx

from graphfuse.errors import ModelError
from graphfuse.system.descriptors import read_at

TOKEN = secrets.token_hex(16)
"""The checksum of tensors that this process shrank: no file can know it."""

FIELDS: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
}
"""The fields of each message that lead to a tensor."""

RAW_DATA = 9
DEEPEST_MESSAGE = 100
"""Messages within messages that protobuf parses at most."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file that are copied as they are; with `descriptor` it is open already."""

    path: Path
    offset: int
    length: int
    descriptor: int | None = None


Piece = bytes | Span
"""What a file is written from, one after the other."""


def size_of(pieces: Iterable[Piece]) -> int:
    """How many bytes some pieces are."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)


class ByteSource(Protocol):
    """Bytes that are read at any place."""

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes."""
        ...


@dataclass
class FileSource:
    """An open file, read through a window: headers follow each other closely."""

    descriptor: int
    reach: int = 1 << 13
    _start: int = 0
    _window: bytes = b""

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes."""
        inside = offset - self._start
        if not 0 <= inside <= len(self._window) - count:
            self._start, inside = offset, 0
            self._window = read_at(self.descriptor, max(count, self.reach), offset)
            while len(self._window) < count:
                more = read_at(
                    self.descriptor, count - len(self._window), offset + len(self._window)
                )
                if not more:
                    break
                self._window += more
        return self._window[inside : inside + count]


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes in memory."""

    data: bytes

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes."""
        return self.data[offset : offset + count]


@dataclass(frozen=True, slots=True)
class Entry:
    """One field of a message: its number, and where its tag, its payload and its end are."""

    number: int
    kind: int
    start: int
    body: int
    end: int


def entries(source: ByteSource, start: int, end: int) -> Iterator[Entry]:
    """The fields of a message, in order. Raises ModelError when it is none."""
    while start < end:
        header = source.at(start, 20)
        tag, used = _varint(header, 0)
        kind, body = tag & 7, start + used
        if kind == 0:
            stop = start + _varint(header, used)[1]
        elif kind == 2:
            length, used = _varint(header, used)
            body = start + used
            stop = body + length
        else:
            stop = body + {1: 8, 5: 4}.get(kind, end)
        if stop > end or tag < 8:
            raise _broken(start)
        yield Entry(tag >> 3, kind, start, body, stop)
        start = stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    for position in range(at, min(len(data), at + 10)):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    raise _broken(at)


def _broken(at: int) -> ModelError:
    return ModelError(
        f"the file is not an ONNX model (no protobuf field at byte {at})",
        "export or download the model again",
    )


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def header(number: int, length: int) -> bytes:
    """What stands before a field of bytes."""
    return varint(number << 3 | 2) + varint(length)


@dataclass
class Shrinker:
    """Leaves the large `raw_data` out of a model's bytes.

    `least` is the size from which it does, wherever a tensor is: an initializer, a Constant node, a
    body. `limit` bounds what is left. `tensors` then has, by the offset of its raw data, where each
    tensor is.
    """

    source: ByteSource
    path: Path
    least: int
    limit: int
    tensors: dict[int, Span] = field(default_factory=dict[int, Span])
    kept: int = 0

    def shrunk(self, size: int) -> bytes:
        """The bytes of a model that protobuf can parse."""
        return b"".join(self._message("ModelProto", 0, size, 0))

    def _message(self, kind: str, start: int, end: int, depth: int) -> list[bytes]:
        if depth > DEEPEST_MESSAGE:
            raise ModelError(
                f"the model nests messages deeper than {DEEPEST_MESSAGE}", "no runtime reads it"
            )
        pieces: list[bytes] = []
        begin = start
        for entry in entries(self.source, start, end):
            inner = FIELDS[kind].get(entry.number) if entry.kind == 2 else None
            if inner is None or entry.end - entry.body <= self.least:
                continue
            if inner == "TensorProto":
                body = self._tensor(entry)
                if body is None:
                    continue
            else:
                body = b"".join(self._message(inner, entry.body, entry.end, depth + 1))
            pieces += [self._copy(begin, entry.start), header(entry.number, len(body)), body]
            begin = entry.end
        return [*pieces, self._copy(begin, end)]

    def _copy(self, start: int, end: int) -> bytes:
        self.kept += end - start
        if self.kept > self.limit:
            raise ModelError(
                f"{self.path} has more than {self.limit} bytes beside the raw data of tensors",
                "raise --max-proto-gib, or save the model with external data",
            )
        return self.source.at(start, end - start)

    def _tensor(self, tensor: Entry) -> bytes | None:
        """The tensor as external data in this file; None when it has no large raw data."""
        found = list(entries(self.source, tensor.body, tensor.end))
        raw = [entry for entry in found if entry.number == RAW_DATA and entry.kind == 2]
        if len(raw) != 1 or raw[0].end - raw[0].body < self.least:
            return None
        length = raw[0].end - raw[0].body
        self.tensors[raw[0].body] = Span(self.path, tensor.body, tensor.end - tensor.body)
        there = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        places = {"location": self.path.name, "offset": raw[0].body, "length": length}
        for key, value in (*places.items(), ("checksum", TOKEN)):
            there.external_data.add(key=key, value=str(value))
        around = self._copy(tensor.body, raw[0].start) + self._copy(raw[0].end, tensor.end)
        return around + there.SerializeToString()


def is_inline(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data is inline in its model's file, from where it was left out."""
    return any(entry.key == "checksum" and entry.value == TOKEN for entry in tensor.external_data)


def expanded(data: bytes, bodies: Mapping[int, tuple[Piece, ...]]) -> list[Piece]:
    """The pieces of a model whose shrunk tensors are whole again; `bodies` by their offsets."""
    marks = [match.start() for match in re.finditer(TOKEN.encode(), data)]
    return _expanded(BytesSource(data), "ModelProto", 0, len(data), marks, bodies)


def _expanded(
    source: BytesSource,
    kind: str,
    start: int,
    end: int,
    marks: list[int],
    bodies: Mapping[int, tuple[Piece, ...]],
) -> list[Piece]:
    pieces: list[Piece] = []
    begin = start
    for entry in entries(source, start, end):
        inner = FIELDS[kind].get(entry.number) if entry.kind == 2 else None
        first = bisect_left(marks, entry.body)
        if inner is None or first == len(marks) or marks[first] >= entry.end:
            continue
        if inner == "TensorProto":
            tensor = onnx.TensorProto.FromString(source.data[entry.body : entry.end])
            if not is_inline(tensor):
                continue
            places = {item.key: item.value for item in tensor.external_data}
            body: list[Piece] = [*bodies[int(places["offset"])]]
        else:
            body = _expanded(source, inner, entry.body, entry.end, marks, bodies)
        pieces += [source.data[begin : entry.start], header(entry.number, size_of(body)), *body]
        begin = entry.end
    return [*pieces, source.data[begin:end]]


def why_not(data: bytes) -> str:
    """Why protobuf does not parse a model: a field that is broken, or too many levels."""
    depth = _depth(data)
    if depth > DEEPEST_MESSAGE:
        return f"its graphs are nested {depth} messages deep, protobuf reads {DEEPEST_MESSAGE}"
    return "protobuf cannot parse it"


def _depth(data: bytes) -> int:
    """How deep messages are nested, as far as they are whole; without recursion."""
    deepest, source = 0, BytesSource(data)
    pending = [("ModelProto", 0, len(data), 1)]
    while pending:
        kind, start, end, depth = pending.pop()
        deepest = max(deepest, depth)
        try:
            for entry in entries(source, start, end):
                inner = FIELDS.get(kind, {}).get(entry.number)
                if entry.kind == 2 and inner is not None:
                    pending.append((inner, entry.body, entry.end, depth + 1))
        except ModelError:
            continue
    return deepest
