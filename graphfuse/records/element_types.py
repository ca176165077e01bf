"""The element types of ONNX, and what the code asks of one: its size, its name, what it widens to.

Messages of ONNX hold plain numbers. A member compares equal to its number, so either will do where
types are compared, looked up or written into a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ElementType(IntEnum):
    """An element type, under its name and number in onnx.TensorProto.

    `ElementType(99)` is no error: models may hold types that ONNX has added since.
    """

    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28

    @classmethod
    def _missing_(cls, value: object) -> ElementType | None:
        if not isinstance(value, int):
            return None
        later = int.__new__(cls, value)
        later._name_, later._value_ = f"TYPE_{value}", value
        return later

    @property
    def bits(self) -> int:
        """Bits of an element in a file; 0 for strings, and for what graphfuse does not read."""
        return _BITS.get(self, 0)

    @property
    def is_float(self) -> bool:
        """Whether the fused operators take it."""
        return self in FLOAT_TYPES

    @property
    def text(self) -> str:
        """`float16` for 10, as numpy and torch spell it; `type 99` for what is not known."""
        if self.value not in ElementType._value2member_map_:
            return f"type {self.value}"
        return {"FLOAT": "float32", "DOUBLE": "float64"}.get(self.name, self.name.lower())

    def widens(self, to: int) -> bool:
        """Whether a cast from this float type to another loses nothing."""
        return to in _WIDER.get(self, ())


# fmt: off
_BITS: Mapping[int, int] = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}
# fmt: on

_WIDER: Mapping[int, tuple[ElementType, ...]] = {
    ElementType.FLOAT16: (ElementType.FLOAT16, ElementType.FLOAT, ElementType.DOUBLE),
    ElementType.BFLOAT16: (ElementType.BFLOAT16, ElementType.FLOAT, ElementType.DOUBLE),
    ElementType.FLOAT: (ElementType.FLOAT, ElementType.DOUBLE),
    ElementType.DOUBLE: (ElementType.DOUBLE,),
}

HALF_TYPES: frozenset[int] = frozenset((ElementType.FLOAT16, ElementType.BFLOAT16))
"""The float types of 16 bits."""

FLOAT_TYPES: frozenset[int] = frozenset(_WIDER)
"""The element types that the fused operators take."""

FLOATS_BY_NAME: Mapping[str, ElementType] = {
    each.text: each
    for each in (
        ElementType.FLOAT,
        ElementType.FLOAT16,
        ElementType.BFLOAT16,
        ElementType.DOUBLE,
    )
}
"""The same, by what tables and options call them."""

NOT_NUMBERS: frozenset[int] = frozenset(
    (ElementType.UNDEFINED, ElementType.STRING, ElementType.COMPLEX64, ElementType.COMPLEX128)
)
"""Types whose elements are no real numbers."""
