"""What a model may ask for: the budgets of admission (files/admission.py)."""

from __future__ import annotations

from dataclasses import dataclass

from graphfuse.records import arguments


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may ask for, and whether links to its weight files are followed.

    Args:
        proto_bytes: Bytes of protobuf; inline weights that stay in their file do not count.
        nodes: Nodes.
        expanded_nodes: Nodes when all functions are expanded.
        name_bytes: Bytes of names.
        allow_links: Whether symbolic and hard links are followed, wherever they lead.
    """

    proto_bytes: int = 2**31
    nodes: int = 2_000_000
    expanded_nodes: int = 1_000_000
    name_bytes: int = 64 * 2**20
    allow_links: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        for name in ("proto_bytes", "nodes", "expanded_nodes", "name_bytes"):
            arguments.count(name, getattr(self, name))
        arguments.flag("allow_links", self.allow_links)
