"""Vectors along the last axis: how they are stored, and what brings them into shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.draft import DOUBLE, FLOAT, Draft, dtype_of


@dataclass
class Weights:
    """Emits vectors by role. The same role may be emitted more than once, in other shapes."""

    draft: Draft
    choices: Choices
    rank: int
    values: dict[str, np.ndarray]

    def vector(self, role: str, own: int, wanted: int, flat: bool) -> str:
        """A vector in a type; of shape (H) where `flat`, else of any that broadcasts."""
        array = self.values[role].astype(dtype_of(own))
        if own not in (FLOAT, DOUBLE) and self.choices.chance("weight stored wider", 10):
            # Its values are those of the narrow type, so the cast rounds nothing.
            name = self.draft.cast(self._shaped(array.astype(np.float32), flat), own)
        else:
            name = self._shaped(array, flat)
        return name if own == wanted else self.draft.cast(name, wanted)

    def _shaped(self, array: np.ndarray, flat: bool) -> str:
        most = 1 if flat else self.rank
        axes = self.choices.pick("vector's rank", (1, 1, 1, min(2, most), most))
        shape = (1,) * (axes - 1) + array.shape
        spelling = self.choices.pick(
            "vector by",
            (
                "itself",
                "itself",
                "itself",
                "itself",
                "Unsqueeze",
                "Squeeze",
                "Reshape",
                "Transpose",
            ),
        )
        if spelling == "Unsqueeze" and axes > 1:
            return self.draft.unsqueeze(self.draft.constant(array), list(range(axes - 1)))
        if spelling == "Squeeze":
            return self.draft.squeeze(self.draft.constant(array.reshape(1, *shape)), [0])
        if spelling == "Reshape":
            stored = self.draft.constant(array.reshape(-1, 1))
            return self.draft.node("Reshape", [stored, self.draft.integers(shape)])
        if spelling == "Transpose" and axes == 2:
            stored = self.draft.constant(array.reshape(-1, 1))
            return self.draft.node("Transpose", [stored], perm=[1, 0])
        return self.draft.constant(array.reshape(shape))
