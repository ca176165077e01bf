"""Whoever wants to know what stages a long call went through."""

from __future__ import annotations

from graphfuse.records.progress import Silent


class Stages(Silent):
    """Keeps the names of the stages."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str) -> None:
        """Keep it."""
        self.names.append(name)
