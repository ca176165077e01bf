"""What a user asks for, a record for each thing: feeds, sites to fuse, the file to write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graphfuse.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_Choice = TypeVar("_Choice", bound=StrEnum)


class Level(StrEnum):
    """How much a validation runs.

    fast: one feed, with onnxruntime's optimizations. full: three feeds, with and without them, and
    real activations. sites: each fused node alone, at the memory of one. none: nothing.
    """

    FAST = "fast"
    FULL = "full"
    SITES = "sites"
    NONE = "none"


class Costs(StrEnum):
    """How it is known that a fused node wins: measured before, measured here, or not asked."""

    TABLE = "table"
    AUTOTUNE = "autotune"
    NONE = "none"


class Weights(StrEnum):
    """Where the weights of a written model are.

    auto: they stay in the model's folder, and are copied elsewhere, sharing blocks if possible.
    keep: they stay, or it is an error. copy, reflink: copied, or sharing blocks. embed: inline.
    """

    AUTO = "auto"
    KEEP = "keep"
    COPY = "copy"
    REFLINK = "reflink"
    EMBED = "embed"


class Clock(StrEnum):
    """What a measured time is: time that passes, or time that this process works."""

    WALL = "wall"
    PROCESSOR = "processor"


def chosen(kind: type[_Choice], value: str, what: str) -> _Choice:
    """The member of a closed set; UsageError, naming them all, for what is none."""
    try:
        return kind(value)
    except ValueError:
        text = f"choose one of {', '.join(kind)}"
        raise UsageError(f"unknown {what} {value!r}", text) from None


RUN_LIMIT = 45.0
"""Seconds that one run of the original may take: a loop in it may have no end."""


@dataclass(frozen=True, kw_only=True)
class Feeds:
    """What models are run on: the user's own arrays, or numbers that are drawn.

    Args:
        inputs: An array for each input by name, or several such mappings; nothing is drawn then.
        input_shapes: The shape of an input by its name, where the model leaves it open.
        symbols: An extent of all inputs by its symbol, such as {"batch": 1}.
        val_range: The least and the largest number to draw for an input by its name; "" stands for
            every other input.
        seed: The seed of the first drawn feed; each further one has the next.
        iterations: How many are drawn; None leaves it to the level: 1 at fast, 3 at full.
        run_limit: Seconds that one run of the original may take.

    Raises:
        UsageError: For what cannot be meant, such as 0 iterations or a symbol beside `inputs`.
    """

    inputs: Mapping[str, Array] | Sequence[Mapping[str, Array]] | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    symbols: Mapping[str, int] = field(default_factory=dict[str, int])
    val_range: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    seed: int = 0
    iterations: int | None = None
    run_limit: float = RUN_LIMIT

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, where it is said; None says nothing."""
        for name in ("input_shapes", "symbols", "val_range"):
            object.__setattr__(self, name, getattr(self, name) or {})
        for name, least in (("seed", 0), ("iterations", 1)):
            _check_count(name, getattr(self, name), least)
        if not self.run_limit > 0:
            raise UsageError(f"run_limit is {self.run_limit!r}", "give seconds above 0")
        if self.inputs is not None and self.symbols:
            raise UsageError(
                f"feeds are given, so --symbol {min(self.symbols)} says nothing",
                "leave one of them out",
            )
        wrong = next((name for name, size in self.symbols.items() if size < 0), None)
        if wrong is not None:
            raise UsageError(f"symbol {wrong!r} is below 0", "give an extent, such as batch=1")

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        usual = {each.name: getattr(Feeds(), each.name) for each in fields(Feeds)}
        return self.inputs is not None or any(
            getattr(self, name) != value for name, value in usual.items() if name != "inputs"
        )


def _check_count(name: str, value: object, least: int) -> None:
    if value is None and name == "iterations":
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{name} is {value!r}, which is no whole number", "give one")
    if value.__index__() < least:  # type: ignore[attr-defined]
        raise UsageError(
            f"{value} {name} were asked for" if least else f"{name} is {value}, below 0",
            f"ask for {least} or more",
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which sites are fused, and in which form.

    Args:
        include: Ids of sites ("s3"), or patterns of output names ("*/layer.2/*"): only these are
            fused. One string is one id or pattern.
        exclude: The same, of sites that are not fused.
        costs: How it is known that a fused node wins (`Costs`); what would not win is left.
        fold_bias: Whether the fused node adds a bias vector that stands before the residual; None,
            where that is known to win.

    Raises:
        UsageError: For costs that there are not.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    costs: Costs | str = Costs.TABLE
    fold_bias: bool | None = None

    def __post_init__(self) -> None:
        """A string is one pattern, not its letters."""
        for name in ("include", "exclude"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "costs", chosen(Costs, self.costs, "costs"))


@dataclass(frozen=True)
class Output:
    """The file to write, and what may be replaced.

    Args:
        path: The model's file. Weights that are not inline get files beside it.
        weights: Where they go (`Weights`).
        force: Whether a file that exists may be replaced.
        in_place: Whether `path` may be the original itself.
        only_if_changed: Whether nothing is written when nothing was rewritten; else the original
            is copied byte for byte.

    Raises:
        UsageError: For a way to keep weights that there is not.
    """

    path: Path
    weights: Weights = Weights.AUTO
    force: bool = False
    in_place: bool = False
    only_if_changed: bool = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        weights: Weights | str = Weights.AUTO,
        force: bool = False,
        in_place: bool = False,
        only_if_changed: bool = False,
    ) -> None:
        try:
            path = os.fspath(path)
        except TypeError as error:
            raise UsageError(f"the output is {error}", "name a file by its path") from None
        for name, value in (
            ("path", Path(path)),
            ("weights", chosen(Weights, weights, "way to keep weights")),
            ("force", force),
            ("in_place", in_place),
            ("only_if_changed", only_if_changed),
        ):
            object.__setattr__(self, name, value)


DRAWN = Feeds()
"""Small feeds, drawn."""

EVERY_SITE = Selection()
"""Every site that is known to win."""

AnyFeeds = Feeds | Mapping[str, "Array"] | Sequence[Mapping[str, "Array"]]
"""What `feeds` takes: the record, or the arrays alone."""

AnyOutput = str | os.PathLike[str] | Output


def feeds_of(feeds: AnyFeeds) -> Feeds:
    """The record of feeds; arrays alone are its inputs."""
    return feeds if isinstance(feeds, Feeds) else Feeds(inputs=feeds)


def output_of(output: AnyOutput) -> Output:
    """The record of an output; a path alone is its path."""
    return output if isinstance(output, Output) else Output(output)
