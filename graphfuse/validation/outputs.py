"""G2 to G4: what one output of a run is worth, beside the original's and float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from graphfuse.records import Check
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.validation.chance import Spread, as_accurate, spread, thinned
from graphfuse.validation.tolerance import FLOAT, HUGE, distance, end_to_end

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FEW = 5
HOPELESS = 4.0
"""After a few samples of rounding, no more are looked at for what is this many times its bound."""

GROSS, STRAYS = 0.1, 100.0
"""An original is not what float64 says when its distance is above the first, relative in L2, and
above this many times that of samples of rounding."""

CLEAR = 4.0
"""An argmax is clear when the gap to the next is this many times the original's own error."""


@dataclass
class OutputJudge:
    """One output: the float64 reference, and what the original's runs gave.

    A sequence is judged item by item; `elem_type` is that of its items. `originals` are the runs
    with optimizations off and on, or one of them; `rounded` gives, when they are needed, runs of
    the float64 twin with every edge rounded to its type. `decides` says that one such run can be
    any distance from another. `least` is G2's bound at the least.
    `peers` are the same output on all feeds, for what one feed alone says too little about.
    """

    name: str
    elem_type: int
    exact: Any
    originals: Sequence[Any]
    rounded: Callable[[], Iterable[Any]]
    decides: bool = False
    least: float = 0.0
    peers: Callable[[], Iterable[OutputJudge]] = tuple

    def checks(self, result: Any, base: Any, where: str) -> list[Check]:
        """G2, G3 and G4 of a run of the fused model; `base` is the original's run like it."""
        if self.elem_type not in FLOAT_TYPES:
            return [self._same(result, where)]
        if isinstance(self.exact, list):
            return self._items(cast("list[Any]", result), cast("list[Any]", base), where)
        exact: Array = self.exact
        y, x = (np.asarray(array).astype(np.float64) for array in (result, base))
        if y.shape != exact.shape:
            text = f"{where}: shape {y.shape} in place of {exact.shape}"
            return [Check("G2", self.name, float("inf"), 0.0, text, False)]
        # NaN in both, and overflow of what the type cannot hold, are no differences.
        number = FLOAT[self.elem_type]
        in_range = np.isfinite(exact) & (np.abs(exact) <= number.largest)
        compared = in_range & np.isfinite(y) & np.isfinite(x)
        value = distance(y[compared], exact[compared])
        factor = end_to_end(int(compared.sum()))
        bound = factor * distance(x[compared], exact[compared]) + number.roundoff
        bound = max(bound, self.least)
        hopeless = self.decides
        kept: list[Array] = []
        for count, sample in enumerate(self.rounded() if not value <= bound else ()):
            if count >= FEW and not self.decides and not value <= HOPELESS * bound:
                hopeless = True
                break
            # One sample is far from another where an output is small, or hangs on one near tie.
            rounded = np.asarray(sample)
            kept.append(thinned(rounded))
            there = compared & np.isfinite(rounded)
            spec = distance(rounded[there], exact[there])
            bound = max(bound, factor * spec + number.roundoff)
            if value <= bound:
                break
        if not value <= bound and not hopeless:
            bound = max(bound, self._by_chance(kept) + number.roundoff)
        return [
            Check("G2", self.name, value, bound, where, value <= bound),
            self._finite(y, x, in_range, where),
            *self._decisions(y, number.roundoff, where),
        ]

    def _items(self, result: Sequence[Any], base: Sequence[Any], where: str) -> list[Check]:
        """A sequence of floats, each item as an output of its own."""
        exact = cast("list[Any]", self.exact)
        count = len(exact)
        if len(result) != count or len(base) != count:
            # Float64 has decided otherwise, or the original has: nothing tells which item is which.
            return [self._same(result, f"{where}, {len(result)} items in place of {len(base)}")]
        return [
            check
            for number in range(count)
            for check in self._item(number).checks(result[number], base[number], where)
        ]

    def _all_items(self) -> Iterable[OutputJudge]:
        """The items that float64 and all runs of the original have."""
        count = min(len(run) for run in (self.exact, *self.originals))
        return map(self._item, range(count))

    def _item(self, number: int) -> OutputJudge:
        def peers() -> Iterable[OutputJudge]:
            for peer in self.peers():
                if number < len(peer.exact):
                    yield peer._item(number)

        return OutputJudge(
            f"{self.name}[{number}]",
            self.elem_type,
            self.exact[number],
            [run[number] for run in self.originals if number < len(run)],
            lambda: (sample[number] for sample in self.rounded() if number < len(sample)),
            self.decides,
            self.least,
            peers,
        )

    @property
    def strays(self) -> str:
        """Why G2 shows nothing: the original's own runs are far from what its twin computes.

        Then the twin stands for something else than what onnxruntime runs, and a bound that grows
        with that distance lets anything pass. Kernels are a few times as far from float64 as
        samples of rounding are, and a hundred times where they cancel; a share of the output
        itself on top of that is no rounding. '' where the runs are as near as they should be.
        """
        if self.elem_type not in FLOAT_TYPES or self.decides:
            return ""
        if isinstance(self.exact, list):
            return next(filter(None, (item.strays for item in self._all_items())), "")
        if any(np.shape(run) != np.shape(self.exact) for run in self.originals):
            return "the original's output has another shape than float64 gives it"
        far = self.far
        if not far > GROSS:
            return ""
        explained = 0.0
        for sample in islice(self.rounded(), FEW):
            rounded = np.asarray(sample)
            there = np.isfinite(rounded) & np.isfinite(self.exact)
            explained = max(explained, distance(rounded[there], self.exact[there]))
            if far <= STRAYS * explained:
                return ""
        return (
            f"the original is {far:.2g} from its own meaning in float64, and rounding explains "
            f"{explained:.2g}: what onnxruntime runs is something else"
        )

    @property
    def few(self) -> Spread | None:
        """The spread of the output on this feed, from a few samples of rounding."""
        return self._spread([thinned(np.asarray(each)) for each in islice(self.rounded(), FEW)])

    def _spread(self, samples: Sequence[Array]) -> Spread | None:
        return spread(samples, thinned(self.exact), FLOAT[self.elem_type].largest)

    @property
    def far(self) -> float:
        """How far from float64 the original's runs are: the root mean square of their distances."""
        exact = self.exact
        runs = [np.asarray(base).astype(np.float64) for base in self.originals]
        there = np.isfinite(exact) & (np.abs(exact) <= min(HUGE, FLOAT[self.elem_type].largest))
        there = np.logical_and.reduce([there, *map(np.isfinite, runs)])
        found = [distance(run[there], exact[there]) for run in runs]
        return float(np.sqrt(np.square(found).mean()))

    def _by_chance(self, samples: Sequence[Array]) -> float:
        """How far an equally accurate model may be, by the number of independent errors."""
        own = self._spread(samples)
        if own is None:
            return 0.0
        found = [(each.few, each.far) for each in self.peers()]
        known = [(few, far) for few, far in found if few is not None and np.isfinite(far)]
        return as_accurate(own, known) if known else 0.0

    def _same(self, result: Any, where: str) -> Check:
        """G4 of integers, booleans, strings and sequences: as one of the original's runs."""
        equal = any(_equal(result, base) for base in self.originals) or _equal(result, self.exact)
        return Check("G4", self.name, 0.0 if equal else 1.0, 0.0, where, equal)

    def _finite(self, y: Array, x: Array, in_range: Array, where: str) -> Check:
        """G3: how many elements or rows went wrong that the original has right."""
        lost = in_range & np.isfinite(x) & ~np.isfinite(y)
        exact = self.exact
        odd = ~np.isfinite(exact)
        with np.errstate(invalid="ignore"):
            kept = (np.isnan(exact) & np.isnan(y)) | (exact == y) | (np.isnan(x) & np.isnan(y))
            kept |= x == y
        changed = odd & ~kept
        zeros = np.zeros(0, bool)
        if y.ndim and y.shape[-1]:
            zeros = (y == 0).all(-1) & ~(x == 0).all(-1) & ~(exact == 0).all(-1)
        wrong = int(lost.sum() + changed.sum() + zeros.sum())
        better = int((in_range & ~np.isfinite(x) & np.isfinite(y)).sum())
        more = f", {better} elements finite that are not in the original" if better else ""
        return Check("G3", self.name, float(wrong), 0.0, where + more, wrong == 0)

    def _decisions(self, y: Array, roundoff: float, where: str) -> list[Check]:
        """G4: rows whose largest element is clear keep it."""
        exact = self.exact
        if exact.ndim < 2 or exact.shape[-1] < 2 or not exact.size:
            return []
        rows = np.where(np.isfinite(exact), exact, -np.inf)
        top = np.partition(rows, -2, axis=-1)[..., -2:]
        with np.errstate(invalid="ignore"):
            gap = top[..., 1] - top[..., 0]
            errors = [
                np.where(np.abs(exact) > HUGE, 0.0, np.abs(np.asarray(base, np.float64) - exact))
                for base in self.originals
            ]
            error = np.maximum.reduce(errors).max(-1)
            shown = np.where(np.abs(rows) > HUGE, 0.0, rows)
            clear = gap > CLEAR * np.maximum(error, roundoff * np.abs(shown).max(-1))
        moved = clear & (np.argmax(y, -1) != np.argmax(rows, -1))
        wrong = int(moved.sum())
        text = f"{where}, {int(clear.sum())} of {clear.size} rows clear"
        return [Check("G4", self.name, float(wrong), 0.0, text, wrong == 0)]


def _equal(result: Any, other: Any) -> bool:
    if isinstance(other, list):
        items, others = cast("list[Any]", result), cast("list[Any]", other)
        return len(items) == len(others) and all(map(_equal, items, others))
    return np.array_equal(np.asarray(result), np.asarray(other))
