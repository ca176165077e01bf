"""What every JSON document begins with."""

from __future__ import annotations

from typing import Any

from graphfuse import __version__

SCHEMA = 2

Document = dict[str, Any]


def head(command: str) -> Document:
    """The version of the shape, that of graphfuse, the command, and how it ended."""
    return {
        "schema": SCHEMA,
        "graphfuse": __version__,
        "command": command,
        "exit_code": 0,
        "error": None,
    }
