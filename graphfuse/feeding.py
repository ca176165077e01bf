"""What a validation feeds to the models: drawn inputs of several sizes, or the user's own data.

Options follow polygraphy: `--input-shapes`, `--val-range`, `--load-inputs`,
`--data-loader-script`, `--seed` and `--iterations`.
"""

from __future__ import annotations

import importlib.util
import itertools
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import UsageError, in_one_line
from graphfuse.feeds import Ranges, Sizes, check_feeds, is_condition, random_feeds
from graphfuse.graph.shapes import type_of
from graphfuse.joined import past_symbols

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

USUAL = (Sizes(2, 7), Sizes(1, 7), Sizes(1, 64), Sizes(2, 7, empty=True), Sizes(1, 7, empty=True))
"""A batch of 2, of 1 where the model only runs so, or more where nothing is left of little.

Some decoders take several tokens only while their caches are empty, and then one at a time.
"""

ONES = (Sizes(1, 1),)
ODD = (Sizes(3, 5, 2), Sizes(3, 5), Sizes(1, 5), Sizes(3, 5, empty=True), Sizes(1, 5, empty=True))
"""A small odd size; different ones for different symbols, where the model runs so."""


RUN_LIMIT = 45.0
"""Seconds that one run of the original may take: a loop in it may have no end."""


@dataclass(frozen=True, slots=True)
class Feed:
    """An array for each input, what it is in words, and the options that give it again."""

    values: Mapping[str, Array]
    label: str
    repeat: str


@dataclass(frozen=True)
class Feeding:
    """What to feed: given inputs, or inputs drawn with as many seeds as there are iterations."""

    seed: int = 0
    iterations: int | None = None
    inputs: Sequence[Mapping[str, Array]] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    ranges: Ranges = field(default_factory=dict[str, tuple[float, float]])
    run_limit: float = RUN_LIMIT

    def feeds(self, model: onnx.ModelProto, iterations: int) -> list[list[Feed]]:
        """Sets of feeds; of each set the first that the model runs on is used.

        `iterations` is how many are drawn where the user does not say. The first has the user's
        sizes, or small ones; then every symbolic extent is 1, then odd; then again.
        """
        if self.inputs is not None:
            return [[feed] for feed in self._given(model)]
        count = self.iterations or iterations
        plans = itertools.islice(itertools.cycle((USUAL, ONES, ODD)), count)
        drawn: list[list[Feed]] = []
        for number, sizes in enumerate(plans):
            own = self.shapes if sizes is USUAL else _unbound(model, self.shapes)
            choices = sizes[:1] if own and sizes is USUAL and _fixes_all(model, own) else sizes
            if not past_symbols(type_of(value.type).shape or () for value in model.graph.input):
                choices = [size for size in choices if not size.empty]
            drawn += [
                [self._draw(model, self.seed + number, own, size, condition) for size in choices]
                for condition in _conditions(model)
            ]
        return drawn

    def sized(self, model: onnx.ModelProto, sizes: Sequence[Sequence[Sizes]]) -> list[list[Feed]]:
        """Sets of feeds for measuring: the user's own, or `iterations` for each set of sizes.

        Of each set the first that the model runs on is used. Branches are taken as drawn.
        """
        if self.inputs is not None:
            return [[feed] for feed in self._given(model)]
        return [
            [self._draw(model, self.seed + number, self.shapes, size, None) for size in choices]
            for choices in (sizes[:1] if _fixes_all(model, self.shapes) else sizes)
            for number in range(self.iterations or 1)
        ]

    def _given(self, model: onnx.ModelProto) -> Iterable[Feed]:
        for number, values in enumerate(self.inputs or ()):
            check_feeds(model, values)
            yield Feed(values, f"given feeds {number + 1}", "")

    def _draw(
        self,
        model: onnx.ModelProto,
        seed: int,
        shapes: Mapping[str, tuple[int, ...]],
        sizes: Sizes,
        condition: bool | None,
    ) -> Feed:
        values = random_feeds(model, seed, shapes, sizes, condition, self.ranges)
        fixed = _fixes_all(model, shapes)
        label = f"seed {seed}" if fixed else f"seed {seed}, {sizes}"
        label += "" if condition is None else f", conditions {condition}"
        return Feed(values, label, self._options(seed, values))

    def _options(self, seed: int, values: Mapping[str, Array]) -> str:
        """The options that draw the same again."""
        words = ["--seed", str(seed), "--iterations", "1"]
        for name, array in values.items():
            words += ["--input-shapes", f"{name}:{list(array.shape)}".replace(" ", "")]
        for name, (low, high) in self.ranges.items():
            words += ["--val-range", f"{name}:[{low!r},{high!r}]".removeprefix(":")]
        return shlex.join(words)


def _conditions(model: onnx.ModelProto) -> tuple[bool | None, ...]:
    """Both ways where a single boolean is drawn: a branch that is not taken is not compared.

    Several are also drawn apart: a branch in a branch may need one of each.
    """
    count = sum(map(is_condition, model.graph.input))
    return ((None,), (True, False))[count] if count < 2 else (True, False, None)


def _fixes_all(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether shapes leave no extent of an input to choose."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    return all(
        value.name in shapes or all(isinstance(dim, int) for dim in type_of(value.type).shape or ())
        for value in model.graph.input
        if value.name not in initialized
    )


def _unbound(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """The shapes of inputs whose rank the model does not tell: no other size can be made up."""
    known = {value.name for value in model.graph.input if type_of(value.type).shape is not None}
    return {name: shape for name, shape in shapes.items() if name not in known}


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
