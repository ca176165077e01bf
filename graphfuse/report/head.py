"""What every JSON document begins with."""

from __future__ import annotations

from typing import Any

from graphfuse import __version__
from graphfuse.errors import GraphfuseError

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


def ended(document: Document, error: GraphfuseError | None, code: int = 0) -> Document:
    """A document with what its command ends with: an error, else the exit code `code`."""
    document["exit_code"] = code if error is None else error.exit_code
    if error is not None:
        document["error"] = {
            "type": type(error).__name__,
            "message": error.message,
            "remedy": error.remedy,
        }
    return document
