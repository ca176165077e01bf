"""Which files were read and written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file that was read or written: path as given, size in bytes, SHA-256 in hexadecimal.

    `sha256` is empty for a file that was not read as a whole: weights that stayed where they are.
    """

    path: str
    size: int
    sha256: str
