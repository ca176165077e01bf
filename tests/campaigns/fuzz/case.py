"""A case: a model, what is meant by it, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tests.campaigns.fuzz.draft import INT64, Value
from tests.campaigns.fuzz.norm import Norm


@dataclass(frozen=True)
class Ticket:
    """What a case follows from. `plain` are the decisions that are not drawn (see choices)."""

    seed: int
    index: int
    near: bool = False
    plain: frozenset[str] = frozenset()

    def command(self) -> str:
        """The command that repeats it."""
        words = ["python -m tests.campaigns.fuzz", f"--seed {self.seed} --index {self.index}"]
        words += ["--near"] if self.near else ["--legal"]
        words += [f"--plain '{','.join(sorted(self.plain))}'"] if self.plain else []
        return " ".join(words)


@dataclass(frozen=True)
class Block:
    """One Add and its norm: the names of the sum, of its operands and of what the norm yields."""

    norm: Norm
    total: str
    output: str
    tokens: str = ""
    """The sum as the definition sees it, where that is another tensor: its tokens flattened."""
    shaped: str = ""
    """The norm's output brought back to the shape of the sum, in that case."""


@dataclass(frozen=True)
class Case:
    """`move` is the illegal move of a near miss. `drawn` are the decisions that were not plain."""

    ticket: Ticket
    model: onnx.ModelProto
    inputs: tuple[Value, ...]
    blocks: tuple[Block, ...]
    move: str = ""
    drawn: tuple[str, ...] = ()
    scope: str = ""

    def feeds(self, spread: float) -> dict[str, np.ndarray]:
        """Normal feeds of a spread; every row has another one, within a factor of two."""
        rng = np.random.default_rng((self.ticket.seed, self.ticket.index))
        result: dict[str, np.ndarray] = {}
        for value in self.inputs:
            if value.elem_type == INT64:
                result[value.name] = rng.integers(-9, 9, value.sizes)
                continue
            rows = rng.uniform(0.5, 1.0, (*value.sizes[:-1], 1)) if value.sizes else 1.0
            result[value.name] = rng.normal(0.1, 1.0, value.sizes) * rows * spread
        return result
