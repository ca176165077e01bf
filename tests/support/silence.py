"""Silence around PyTorch's exporters: they print whole graphs before they raise."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed, not by C++ either: exporters print whole graphs before they raise."""
    level = logging.root.manager.disable
    kept = [os.dup(stream) for stream in (1, 2)]
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    try:
        with Path(os.devnull).open("w") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        logging.disable(level)
