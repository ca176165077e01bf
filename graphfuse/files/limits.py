"""What a model may ask for: the budgets of the gate (files/admission.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of protobuf, nodes, nodes after expansion, bytes of names; and links to weight files.

    Inline weights that stay in their file do not count as protobuf. With `allow_links` symbolic
    and hard links are followed, wherever they lead.
    """

    proto_bytes: int = 2**31
    nodes: int = 2_000_000
    expanded_nodes: int = 1_000_000
    name_bytes: int = 64 * 2**20
    allow_links: bool = False
