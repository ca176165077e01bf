"""A node of an operator, its inputs, and the types that it gives.

ONNX text without the domain's prefix. Symbols are B, S, T and P; `?` is an extent that no input
tells. Inputs whose names begin with w are weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

CONTRIB = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"


@dataclass(frozen=True)
class Case:
    """A node, its inputs, and the types that it gives.

    `runs` says whether the CPU provider has a kernel; `values` are those of inputs that matter.
    """

    text: str
    inputs: str
    gives: str
    opset: int = 17
    runs: bool = True
    values: dict[str, np.ndarray] = field(default_factory=dict)
    domain: str = CONTRIB

    @property
    def operator(self) -> tuple[str, str]:
        """The row of the table."""
        return self.domain, re.split(r"[<(]", self.text.split("= ", 1)[1])[0].strip()

    def __str__(self) -> str:
        return f"{self.text} of {self.inputs} at {self.opset}"


def alike(
    names: str, inputs: str = "float[B,S,8] a", gives: str = "float[B,S,8] y", **more: object
) -> list[Case]:
    """Operators with equal inputs and outputs."""
    operands = ", ".join(re.findall(r"(\w+)(?:,|$)", re.sub(r"\[[^]]*\]", "", inputs)))
    made: list[Case] = []
    for name in names.split():
        head, _, attributes = name.partition("<")
        written = f"{head}<{attributes}" if attributes else head
        made.append(Case(f"y = {written}({operands})", inputs, gives, **more))  # type: ignore[arg-type]
    return made


Q = "uint8[B,S,8] a, float ws, uint8 wz"
Q_OUT = "float wys, uint8 wyz"
PROJECTED = "uint8[24,1,8] wb, float[24] ws"
NBITS = "K = 16, N = 24, bits = 4, block_size = 16"
TYPES_3 = "float[B,S,16] a, float[16,{0}] w, float[{0}] wb"
MOE = "float[4,16,8] w1, float[4,16] wb1, float[4,8,16] w2"
GQA = "GroupQueryAttention<num_heads = 4, kv_num_heads = 2>"
LENGTHS = {"n": np.array(7), "t": np.array(8)}
