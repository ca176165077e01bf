"""What a caller of the library gave, checked where it is given: one line, not a TypeError later."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex, cast

from graphfuse.errors import UsageError


def expect(name: str, value: Any, kind: Any, remedy: str) -> Any:
    """The value, of the type that it has to have. Raises UsageError."""
    if not isinstance(value, kind):
        raise UsageError(f"{name} is {_shown(value)}", remedy)
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else f'{text[:37]}...'} ({type(value).__name__})"


def flag(name: str, value: Any) -> None:
    """Raise UsageError for what is neither True nor False."""
    expect(name, value, bool, "give True or False")


def whole(name: str, value: Any) -> int:
    """A whole number. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise UsageError(f"{name} is {_shown(value)}, which is no whole number", "give one")
    return operator.index(value)


def count(name: str, value: Any, least: int = 0) -> int:
    """A whole number of at least `least`. Raises UsageError."""
    number = whole(name, value)
    if number < least:
        raise UsageError(f"{name} is {number}, below {least}", f"give {least} or more")
    return number


def seconds(name: str, value: Any, or_none: bool = False) -> None:
    """Raise UsageError for what is no number of seconds above 0, or 0 itself with `or_none`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > 0 or (or_none and value == 0)):
        raise UsageError(f"{name} is {_shown(value)}", f"give seconds{', 0 or' * or_none} above 0")


def names(name: str, value: Any) -> tuple[str, ...]:
    """Texts; a text alone is one, not its letters. Raises UsageError."""
    given = (value,) if isinstance(value, str) else value
    remedy = "give a text, or several"
    found = tuple(expect(name, given, Iterable, remedy))
    return tuple(expect(name, each, str, remedy) for each in found)


def by_name(name: str, value: Any, example: str) -> dict[str, Any]:
    """A mapping whose keys are texts; None is an empty one. Raises UsageError."""
    remedy = f"give a mapping, such as {example}"
    found = expect(name, {} if value is None else value, Mapping, remedy)
    for key in found:
        expect(f"a key of {name}", key, str, "give a name")
    return dict(found)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """Extents. Raises UsageError."""
    remedy = "give a tuple of extents, such as (1, 128)"
    if isinstance(value, str):
        raise UsageError(f"the shape of {name!r} is {_shown(value)}", remedy)
    given = expect(f"the shape of {name!r}", value, Iterable, remedy)
    return tuple(count(f"an extent of {name!r}", each) for each in given)


def interval(name: str, value: Any) -> tuple[float, float]:
    """A least and a largest number, both finite. Raises UsageError."""
    remedy = "give the least and the largest number, such as (0, 1)"
    pair = cast("Any", value if isinstance(value, tuple | list) else ())
    numbers = [each for each in pair if isinstance(each, int | float) and math.isfinite(each)]
    if len(pair) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
        raise UsageError(f"the range of {name!r} is {_shown(value)}", remedy)
    return float(numbers[0]), float(numbers[1])


def told(progress: object) -> None:
    """Raise UsageError for what cannot be told how far a call is."""
    if not all(hasattr(progress, name) for name in ("stage", "portion")):
        raise UsageError(
            f"progress is {_shown(progress)}", "give an object with stage and portion (Progress)"
        )
