"""What is known not to work, in the words of who says so, and what is rightly left.

A key is a name of the zoo, or a name with an exporter. A value that does not come true is a
difference as well: `python -m tests.zoo` says so.
"""

from __future__ import annotations

from collections.abc import Mapping

NOT_EXPORTED: Mapping[tuple[str, str], str] = {}
"""Exports that PyTorch or transformers refuses: a part of the message."""

NOT_RUN: Mapping[tuple[str, str], str] = {}
"""Exports that onnxruntime refuses, unfused: a part of the message."""

NOT_JUDGED: Mapping[tuple[str, str], str] = {}
"""Exports for which graphfuse has no float64 reference: a part of its message."""

NO_RESIDUAL = ("vector-operand",)
"""Reasons that say that there is no site: a bias of a Linear is added before a norm."""

LEFT: Mapping[tuple[str, str], Mapping[str, int]] = {}
"""Near misses by their reason's code, where there are any."""

UNFUSED: Mapping[tuple[str, str], int] = {}
"""Sites that eager PyTorch counts and that are left, for a reason in `LEFT`."""
