"""What a validation feeds to the models: drawn inputs of several sizes, or the user's own data.

Options follow polygraphy: `--input-shapes`, `--val-range`, `--load-inputs`,
`--data-loader-script`, `--seed` and `--iterations`.
"""

from __future__ import annotations

import importlib.util
import itertools
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import UsageError, in_one_line
from graphfuse.records.requests import RUN_LIMIT, Feeds
from graphfuse.running.caches import Tokens, find_caches
from graphfuse.running.inputs import KnownInputs, inputs_of
from graphfuse.running.joined import past_symbols
from graphfuse.running.random_feeds import (
    Ranges,
    Sizes,
    check_feeds,
    is_condition,
    named_extents,
    random_feeds,
    shapes_of,
)
from graphfuse.types.shapes import type_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graphfuse.running.estimate import Need

    Array = NDArray[Any]

FIRST_SIZES = (
    Sizes(2, 7),
    Sizes(1, 7),
    Sizes(1, 64),
    Sizes(2, 7, empty=True),
    Sizes(1, 7, empty=True),
)
"""A batch of 2, of 1 where the model only runs so, or more where nothing is left of little.

Some decoders take several tokens only while their caches are empty, and then one at a time.
"""

LITTLE = (Sizes(2, 7), Sizes(1, 7), Sizes(1, 1))
"""What is drawn in place of sizes that are too large for the memory there is."""

LABELLED = 2
"""Inputs whose shapes a label says."""

ONES = (Sizes(1, 1),)
ODD = (Sizes(3, 5, 2), Sizes(3, 5), Sizes(1, 5), Sizes(3, 5, empty=True), Sizes(1, 5, empty=True))
"""A small odd size; different ones for different symbols, where the model runs so."""


@dataclass(frozen=True)
class Feed:
    """An array for each input, what it is in words, and the options that give it again.

    It is drawn when its `values` are first asked for: its `extents` may turn out too large before.
    """

    draw: Callable[[], Mapping[str, Array]]
    extents: Mapping[str, tuple[int, ...]]
    label: str
    repeat: str
    seed: int = 0
    condition: bool | None = None

    @cached_property
    def values(self) -> Mapping[str, Array]:
        """The arrays by input. Raises UsageError and OriginalModelError where none can be drawn."""
        return self.draw()

    @property
    def shapes(self) -> str:
        """The shape of each input, in words; those that are alike count as one."""
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, shape in self.extents.items():
            alike.setdefault(shape, []).append(name)
        return ", ".join(
            f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} {list(shape)}"
            for shape, names in alike.items()
        )


@dataclass(frozen=True)
class Feeding:
    """What to feed: given inputs, or inputs drawn with as many seeds as there are iterations."""

    seed: int = 0
    iterations: int | None = None
    inputs: Sequence[Mapping[str, Array]] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    ranges: Ranges = field(default_factory=dict[str, tuple[float, float]])
    run_limit: float = RUN_LIMIT
    symbols: Mapping[str, int] = field(default_factory=dict[str, int])
    needs: dict[object, Need] = field(
        default_factory=dict["object", "Need"], compare=False, repr=False
    )
    """What feeds were found to take: the original is the same while sites are put back."""
    known: KnownInputs = field(default_factory=KnownInputs, compare=False, repr=False)
    """What models say of their inputs."""

    def feeds(self, model: onnx.ModelProto, iterations: int) -> list[list[Feed]]:
        """Sets of feeds; of each set the first that the model runs on is used.

        `iterations` is how many are drawn where the user does not say. The first has the user's
        sizes, or small ones; then every symbolic extent is 1, then odd; then again. Symbols that
        the user gives are so in all of them.
        """
        if self.inputs is not None:
            return [[feed] for feed in self._given(model)]
        count = self.iterations or iterations
        plans = itertools.islice(itertools.cycle((FIRST_SIZES, ONES, ODD)), count)
        drawn: list[list[Feed]] = []
        for number, sizes in enumerate(plans):
            own = self.shapes if sizes is FIRST_SIZES else _unbound(model, self.shapes)
            drawn += [
                list(self._draws(model, self.seed + number, own, sizes, condition))
                for condition in _conditions(model)
            ]
        return drawn

    def smaller(self, model: onnx.ModelProto, feed: Feed) -> list[Feed]:
        """Feeds in place of one that is too large; none where the user gave arrays."""
        if self.inputs is not None:
            return []
        shapes = _unbound(model, self.shapes)
        return list(self._draws(model, feed.seed, shapes, LITTLE, feed.condition))

    def sized(self, model: onnx.ModelProto, sizes: Sequence[Sequence[Sizes]]) -> list[list[Feed]]:
        """Sets of feeds for measuring: the user's own, or `iterations` for each set of sizes.

        Of each set the first that the model runs on is used. Branches are taken as drawn.
        """
        if self.inputs is not None:
            return [[feed] for feed in self._given(model)]
        return [
            list(self._draws(model, self.seed + number, self.shapes, choices, None))
            for choices in (sizes[:1] if self._fixes_all(model, self.shapes) else sizes)
            for number in range(self.iterations or 1)
        ]

    def _draws(
        self,
        model: onnx.ModelProto,
        seed: int,
        shapes: Mapping[str, tuple[int, ...]],
        sizes: Sequence[Sizes],
        condition: bool | None,
    ) -> Iterator[Feed]:
        """Feeds of several sizes, and, of a model with caches, with its extents read otherwise."""
        readings = Tokens if find_caches(model.graph) else (Tokens.DECLARED,)
        choices = sizes[:1] if self._fixes_all(model, shapes) else sizes
        if not past_symbols(type_of(value.type).shape or () for value in model.graph.input):
            choices = [size for size in choices if not size.empty]
        seen: set[tuple[tuple[int, ...], ...]] = set()
        for tokens, size in itertools.product(readings, choices):
            feed = self._draw(model, seed, shapes, size, condition, tokens)
            shapes_drawn = tuple(feed.extents.values())
            if shapes_drawn not in seen:
                seen.add(shapes_drawn)
                yield feed

    def next_to_try(self, model: onnx.ModelProto, path: Path | None) -> str:
        """A command for an original that ran on no feed that was drawn: every size said."""
        symbols = named_extents(model, self.symbols)
        words = ["graphfuse", "fuse", str(path or "MODEL"), "--dry-run"]
        for name, size in symbols.items():
            words += ["--symbol", f"{name}={size}"]
        command = shlex.join(words)
        alone = shlex.join([*words[:4], "--validate", "sites"])
        sizes = f"say sizes that it takes, such as `{command}`, or " if symbols else ""
        return (
            f"{sizes}give feeds with --load-inputs, --input-shapes or --val-range; "
            f"`{alone}` judges the fused nodes alone"
        )

    def _given(self, model: onnx.ModelProto) -> Iterable[Feed]:
        for number, values in enumerate(self.inputs or ()):
            check_feeds(model, values)
            extents = {name: tuple(np.shape(array)) for name, array in values.items()}
            yield Feed(partial(_same, values), extents, f"given feeds {number + 1}", "")

    def _draw(
        self,
        model: onnx.ModelProto,
        seed: int,
        shapes: Mapping[str, tuple[int, ...]],
        sizes: Sizes,
        condition: bool | None,
        tokens: Tokens,
    ) -> Feed:
        known = self.known.of(model)
        extents = shapes_of(known, shapes, sizes, self.symbols, tokens)
        draw = partial(random_feeds, known, seed, extents, sizes, condition, self.ranges)
        fixed = self._fixes_all(model, shapes)
        label = f"seed {seed}" if fixed else f"seed {seed}, {_in_words(extents)}"
        label += ", empty caches" * sizes.empty
        label += "".join(f", {name} {size}" for name, size in self.symbols.items())
        label += f", {tokens.value}" if tokens.value else ""
        label += "" if condition is None else f", conditions {condition}"
        return Feed(draw, extents, label, self._options(seed, extents), seed, condition)

    def _fixes_all(self, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether shapes and symbols leave no extent of an input to choose."""
        return all(
            value.name in shapes
            or all(isinstance(d, int) or d in self.symbols for d in type_of(value.type).shape or ())
            for value in inputs_of(model.graph)
        )

    def _options(self, seed: int, extents: Mapping[str, tuple[int, ...]]) -> str:
        """The options that draw the same again."""
        words = ["--seed", str(seed), "--iterations", "1"]
        for name, shape in extents.items():
            words += ["--input-shapes", f"{name}:{list(shape)}".replace(" ", "")]
        for name, (low, high) in self.ranges.items():
            words += ["--val-range", f"{name}:[{low!r},{high!r}]".removeprefix(":")]
        return shlex.join(words)


def _in_words(extents: Mapping[str, tuple[int, ...]]) -> str:
    """The shapes of the first inputs, such as `input_ids 2x7 and 2 more inputs`."""
    texts = [f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in extents.items()]
    more = len(texts) - LABELLED
    return ", ".join(texts[:LABELLED]) + (f" and {more} more inputs" if more > 0 else "")


def _same(values: Mapping[str, Array]) -> Mapping[str, Array]:
    return values


def _conditions(model: onnx.ModelProto) -> tuple[bool | None, ...]:
    """Both ways where a single boolean is drawn: a branch that is not taken is not compared.

    Several are also drawn apart: a branch in a branch may need one of each.
    """
    count = sum(map(is_condition, model.graph.input))
    return ((None,), (True, False))[count] if count < 2 else (True, False, None)


def _unbound(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """The shapes of inputs whose rank the model does not tell: no other size can be made up."""
    known = {value.name for value in model.graph.input if type_of(value.type).shape is not None}
    return {name: shape for name, shape in shapes.items() if name not in known}


def feeding_of(asked: Feeds) -> Feeding:
    """What to feed, as the user asks for it."""
    # A list of numbers is as good as an array.
    given: Any = asked.inputs
    inputs = None if given is None else [_as_feeds(each) for each in given]
    return Feeding(
        asked.seed,
        asked.iterations,
        inputs,
        asked.input_shapes,
        asked.val_range,
        asked.run_limit,
        asked.symbols,
    )


def load_inputs(path: str) -> Mapping[str, Array]:
    """Feeds of an .npz file, an array for each input. Raises UsageError."""
    try:
        with np.load(Path(path), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except MemoryError:
        raise
    except Exception as error:
        # numpy, zipfile and zlib each raise their own classes on damaged archives.
        raise UsageError(
            f"{path} cannot be read as feeds ({in_one_line(error)})",
            "write it with numpy.savez(file, input_name=array)",
        ) from error


def load_script(text: str, iterations: int | None = None) -> list[Mapping[str, Array]]:
    """The feeds that a function of a script yields, `file.py:load_data`; as many as asked for.

    The script runs with all of Python's rights. Raises UsageError.
    """
    path, _, name = text.rpartition(":") if ".py:" in text else (text, "", "load_data")
    remedy = "write `def load_data(): yield {'input_name': array}` and pass FILE.py:load_data"
    spec = importlib.util.spec_from_file_location("graphfuse_data_loader", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UsageError(f"{path} is no Python file", remedy)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        found: Any = getattr(module, name)()
        feeds = [_as_feeds(item) for item in itertools.islice(found, iterations)]
    except MemoryError:
        raise
    except Exception as error:
        # It is the user's code: whatever it raises is about that code.
        problem = f"{type(error).__name__}: {in_one_line(error)}"
        raise UsageError(f"{path}:{name} gives no feeds ({problem})", remedy) from error
    if not feeds:
        raise UsageError(f"{path}:{name} yields nothing", remedy)
    return feeds


def _as_feeds(item: Any) -> Mapping[str, Array]:
    return {str(name): np.asarray(array) for name, array in item.items()}
