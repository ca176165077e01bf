"""Numbers of 200 digits in numpy's object arrays, and how a type rounds them.

A float that a file holds is the rational number that its bits say: nothing is lost on the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from graphfuse.system import libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DIGITS = 100
"""What a result is good for."""
GUARD = 100
"""Digits that cancellation may take: a mean of squares less a squared mean takes up to twenty."""

FORMATS: Mapping[int, tuple[int, int, int]] = {
    TensorProto.FLOAT: (24, -149, 128),
    TensorProto.FLOAT16: (11, -24, 16),
    TensorProto.BFLOAT16: (8, -133, 128),
    TensorProto.DOUBLE: (53, -1074, 1024),
}
"""Bits of the significand, exponent of the least number, and that of the first one too large."""


@cache
def context() -> Any:
    """mpmath's context of our own: nobody else's precision changes, nor ours by others."""
    made = libraries.mpmath().MPContext()
    made.dps = DIGITS + GUARD
    return made


def number(value: Any) -> Any:
    """An integer, float or mpf as mpf; exact for integers and floats."""
    return context().mpf(value)


def objects(value: Any) -> Array:
    """An object array; numpy gives bare numbers where an array has no axes."""
    return np.asarray(value, dtype=object)


def exact(array: Array) -> Array:
    """Stored numbers of any float or integer type as they are; float64 holds the float types."""
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    wide = array.astype(np.float64) if is_float else array.astype(object)
    return objects(each(number)(wide))


def each(function: Callable[..., Any], operands: int = 1) -> Callable[..., Any]:
    """A function of numbers as one of arrays, which broadcast."""
    made = np.frompyfunc(function, operands, 1)

    def quiet(*arrays: Any) -> Any:
        # The processor's flags, which numpy looks at afterwards, say nothing of these numbers.
        with np.errstate(all="ignore"):
            return made(*arrays)

    return quiet


def quotient(one: Any, other: Any) -> Any:
    """a / b; what IEEE 754 says for b = 0."""
    if other == 0:
        mp = context()
        return mp.nan if one == 0 or mp.isnan(one) else mp.inf * mp.sign(one)
    return one / other


def inverse(value: Any) -> Any:
    """1 / a."""
    return quotient(context().one, value)


def root(value: Any) -> Any:
    """The square root; NaN of a negative number."""
    mp = context()
    return mp.nan if value < 0 else mp.sqrt(value)


def power(base: Any, exponent: Any) -> Any:
    """a^p: by products where p is whole, by a root where it is half of that."""
    mp = context()
    if not mp.isfinite(exponent) or not mp.isfinite(base):
        return mp.nan
    twice = 2 * exponent
    if twice == mp.nint(twice) and abs(twice) < 2**16:
        whole = int(mp.nint(twice))
        raised = base ** (abs(whole) // 2) if whole % 2 == 0 else root(base) ** abs(whole)
        return raised if whole >= 0 else quotient(mp.one, raised)
    if base > 0:
        return mp.power(base, exponent)
    return mp.nan if base < 0 or exponent < 0 else mp.zero


def finite(array: Array) -> NDArray[np.bool_]:
    """Which numbers are neither NaN nor infinite."""
    return np.asarray(each(context().isfinite)(array), dtype=bool)


def unit(value: Any, elem_type: int) -> Any:
    """The distance between neighbours of a type around a number."""
    bits, least, _ = FORMATS[elem_type]
    top = int(context().frexp(value)[1])
    return context().ldexp(1, max(top - bits, least))


def rounded(value: Any, elem_type: int) -> Any:
    """The number of a float type that is nearest, ties to even; infinity beyond the largest."""
    mp = context()
    if value == 0 or not mp.isfinite(value):
        return value
    step = unit(value, elem_type)
    nearest = mp.nint(value / step) * step
    limit = mp.ldexp(1, FORMATS[elem_type][2])
    return nearest if abs(nearest) < limit else mp.inf * mp.sign(nearest)
