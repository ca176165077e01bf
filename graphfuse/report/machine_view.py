"""Views of an installation: the JSON document, and lines for people."""

from __future__ import annotations

from dataclasses import asdict

from graphfuse import __version__
from graphfuse.records.environment import Environment
from graphfuse.report.console import SafeConsole
from graphfuse.report.head import Document, head


def env_document(found: Environment) -> Document:
    """What `graphfuse env` found."""
    return {**head("env"), **asdict(found)}


def print_environment(console: SafeConsole, found: Environment) -> None:
    """A line for each package, for the providers, for the kernels, and for each note."""
    lines = [f"graphfuse {__version__}, Python {found.python}, {found.platform}"]
    lines += [f"{name}: {each or 'not installed'}" for name, each in found.versions.items()]
    if found.providers:
        lines.append(f"execution providers: {', '.join(found.providers)}")
    lines += [f"note: {note}" for note in found.notes]
    lines.append(f"kernels: {found.kernels or found.kernels_missing}")
    for line in lines:
        console.say(line)
