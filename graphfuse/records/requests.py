"""What a user asks for, a record for each thing: feeds, sites to fuse, the file to write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from graphfuse.errors import UsageError
from graphfuse.records import arguments

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
        shapes = arguments.by_name("input_shapes", self.input_shapes, '{"ids": (1, 128)}')
        symbols = arguments.by_name("symbols", self.symbols, '{"batch": 1}')
        ranges = arguments.by_name("val_range", self.val_range, '{"ids": (0, 99)}')
        sizes = {name: arguments.count(f"symbol {name!r}", size) for name, size in symbols.items()}
        for name, value in (
            ("input_shapes", {name: arguments.shape(name, each) for name, each in shapes.items()}),
            ("symbols", sizes),
            ("val_range", {name: arguments.interval(name, each) for name, each in ranges.items()}),
            ("inputs", _arrays(self.inputs)),
        ):
            object.__setattr__(self, name, value)
        arguments.count("seed", self.seed)
        if self.iterations is not None:
            asked = arguments.whole("iterations", self.iterations)
            if asked < 1:
                raise UsageError(f"{asked} iterations were asked for", "ask for 1 or more")
        arguments.seconds("run_limit", self.run_limit)
        if self.inputs is not None and self.symbols:
            raise UsageError(
                f"feeds are given, so --symbol {min(self.symbols)} says nothing",
                "leave one of them out",
            )

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        names = [each.name for each in fields(Feeds) if each.name != "inputs"]
        return self.inputs is not None or any(
            getattr(self, name) != getattr(DRAWN, name) for name in names
        )


def _arrays(inputs: Any) -> tuple[Mapping[str, Array], ...] | None:
    """Mappings of arrays: one or several."""
    if inputs is None:
        return None
    remedy = 'give an array for each input by its name, such as {"ids": array}, or several such'
    given = cast("Any", (inputs,) if isinstance(inputs, Mapping | str) else inputs)
    found = tuple(arguments.expect("feeds", given, Iterable, remedy))
    if not found:
        raise UsageError("no feeds are given", remedy)
    return tuple(arguments.expect("feeds", each, Mapping, remedy) for each in found)


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
            object.__setattr__(self, name, arguments.names(name, getattr(self, name)))
        object.__setattr__(self, "costs", chosen(Costs, self.costs, "costs"))
        if self.fold_bias is not None:
            arguments.flag("fold_bias", self.fold_bias)


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
        arguments.expect("the output", path, (str, os.PathLike), "name a file by its path")
        if not str(path):
            raise UsageError("the path of the output is empty", "name a file")
        flags = {"force": force, "in_place": in_place, "only_if_changed": only_if_changed}
        for name, value in flags.items():
            arguments.flag(name, value)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "weights", chosen(Weights, weights, "way to keep weights"))


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
