"""Whether a file is as it was: by size, time of change, and the hash of what is small."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from graphfuse import __version__
from graphfuse.files.copying import sha256
from graphfuse.records.batch_rows import Stamp

HASHED = 2**26
"""Bytes up to which a file's content is compared: most models are smaller, their weights not."""


def stamp(path: str) -> Stamp:
    """A file of this machine as it is now; one that is not there has the size -1."""
    try:
        found = os.stat(path)  # noqa: PTH116
        digest = sha256(Path(path)) if found.st_size <= HASHED else ""
    except OSError:
        return Stamp(path, -1, 0)
    # Of what is hashed the time says nothing: a copy of the same bytes is the same.
    return Stamp(path, found.st_size, 0 if digest else found.st_mtime_ns, digest)


def is_same(then: Stamp, now: Stamp) -> bool:
    """Whether a file is as it was.

    Where a storage has a mark of its own for a content, that is asked; nothing is fetched for it.
    """
    if then.size < 0 or then.size != now.size:
        return False
    if then.mark or now.mark:
        return then.mark == now.mark
    return bool(then.sha256 or then.changed) and then == now


def key_of(words: Sequence[str], runtime: str) -> str:
    """A hash of what a result depends on beside its input: options, graphfuse, onnxruntime."""
    told = json.dumps([sorted(words), __version__, runtime])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
