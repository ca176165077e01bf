"""Which files a model needs beside its own, read from its bytes: before they are there.

No message is built, so a file of any size, and a hostile one, takes next to no memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from graphfuse.errors import ModelError
from graphfuse.files.folder import LocationError, components
from graphfuse.files.wire import DEEPEST_MESSAGE, FIELDS, Entry, FileSource, entries

EXTERNAL_DATA = 13
"""The field of a TensorProto with keys and values, of which one is the location."""

LONGEST_LOCATION = 4096
MOST_FIELDS = 20_000_000
"""Fields that are looked at: a model of a million nodes has fewer."""


def locations_in(path: Path) -> tuple[str, ...]:
    """The locations of a model's external data that lie in its folder, sorted.

    What the gate refuses (a location elsewhere, a file that is no model) is left to it. Raises
    ModelError for a file that has no end of fields.
    """
    found: set[str] = set()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        walk = _Locations(FileSource(descriptor))
        for location in walk.message("ModelProto", 0, os.fstat(descriptor).st_size, 0):
            found.update(_inside(location))
    except UnreadableError:
        return tuple(sorted(found))
    finally:
        os.close(descriptor)
    return tuple(sorted(found))


class UnreadableError(Exception):
    """The bytes are no model from here on."""


def _inside(location: str) -> Iterator[str]:
    try:
        yield "/".join(components(location))
    except LocationError:
        return


class _Locations:
    def __init__(self, source: FileSource) -> None:
        self._source, self._seen = source, 0

    def message(self, kind: str, start: int, end: int, depth: int) -> Iterator[str]:
        if depth > DEEPEST_MESSAGE:
            raise UnreadableError
        for entry in self._fields(start, end):
            inner = FIELDS[kind].get(entry.number) if entry.kind == 2 else None
            if inner == "TensorProto":
                yield from self._tensor(entry)
            elif inner is not None:
                yield from self.message(inner, entry.body, entry.end, depth + 1)

    def _tensor(self, tensor: Entry) -> Iterator[str]:
        for pair in self._fields(tensor.body, tensor.end):
            if pair.number != EXTERNAL_DATA or pair.kind != 2:
                continue
            said = {each.number: self._text(each) for each in self._fields(pair.body, pair.end)}
            if said.get(1) == "location" and said.get(2):
                yield said[2]

    def _text(self, entry: Entry) -> str:
        length = entry.end - entry.body
        if entry.kind != 2 or length > LONGEST_LOCATION:
            return ""
        return self._source.at(entry.body, length).decode(errors="replace")

    def _fields(self, start: int, end: int) -> Iterator[Entry]:
        found = entries(self._source, start, end)
        while True:
            self._seen += 1
            if self._seen > MOST_FIELDS:
                raise ModelError(
                    f"the model has more than {MOST_FIELDS} fields", "fuse it alone if you trust it"
                )
            try:
                yield next(found)
            except StopIteration:
                return
            except ModelError as error:
                raise UnreadableError from error
