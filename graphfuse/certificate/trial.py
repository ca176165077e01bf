"""One site, evaluated: the original's nodes, the definition, and the function that the file has."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.cut import Cut, Dims
from graphfuse.certificate.definitions import is_centred
from graphfuse.certificate.digits import LargestDifference, difference
from graphfuse.certificate.exact import Evaluator, ExactValues
from graphfuse.certificate.implied import Parameters, Seen, roundings
from graphfuse.certificate.numbers import finite, number, objects
from graphfuse.certificate.rows import (
    KINDS_OF_ROWS,
    Extents,
    KnownShape,
    kinds_of,
    operands,
    vector,
)
from graphfuse.certificate.values import ExactValue, ShapeError, UnknownError, integers, size
from graphfuse.records import CertificateVerdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST = 2**18
"""Elements of a sum whose extents are those of the file; small ones are tried before."""

BATCH, SEQUENCE = 2, 3
"""Extents of the axes before the normalised ones, where the file's nodes take any."""


@dataclass(frozen=True)
class Outcome:
    """What a trial shows: a verdict of `records`, and what is said of it."""

    verdict: CertificateVerdict
    detail: str = ""
    difference: float | None = None
    extents: str = ""
    rows: int = 0


class _OtherShapeError(Exception):
    """An output has another shape in the fused model; the text says which."""


@dataclass
class Run:
    """One pass: the values of the original, of the definition, and of the function's body."""

    kinds: Sequence[int]
    operands: Mapping[str, Array]
    before: ExactValues
    after: ExactValues
    body: ExactValues | None


@dataclass
class RowTrial:
    """A cut with extents, and whether the letters are drawn or as stored."""

    cut: Cut
    seed: int
    drawn: bool

    def outcome(self) -> Outcome:
        """Try small extents, then those of the file; a difference must show at the latter too."""
        said: Outcome | None = None
        for choices in (_extents(self.cut, False), _extents(self.cut, True)):
            for extents in choices:
                try:
                    found = self._at(extents)
                except ShapeError as error:
                    said = said or Outcome(
                        CertificateVerdict.UNCERTIFIED, f"the extents {_text(extents)}: {error}"
                    )
                    continue
                except UnknownError as error:
                    return Outcome(CertificateVerdict.UNCERTIFIED, str(error))
                except _OtherShapeError as error:
                    found = Outcome(CertificateVerdict.DIFFERENT, str(error), None, _text(extents))
                if found.verdict != CertificateVerdict.DIFFERENT:
                    return found
                said = found
                break
        return said or Outcome(
            CertificateVerdict.UNCERTIFIED, "the extents of its operands are not known"
        )

    def _at(self, extents: Extents) -> Outcome:
        runs = list(self._runs(extents))
        rows = sum(len(run.kinds) for run in runs)
        worst, where = self._worst([(run, run.before, run.after) for run in runs])
        bodies = [(run, run.after, run.body) for run in runs if run.body is not None]
        body, place = self._worst(bodies)
        outcome = partial(Outcome, extents=_text(extents), rows=rows)
        largest = float(worst.value)
        if not body.is_none:
            said = f"the function that the file has for it differs in digit {body.digit} of {place}"
            both = body.text(("the definition", "the function"))
            return outcome(CertificateVerdict.DIFFERENT, f"{said}: {both}", float(body.value))
        if worst.is_none:
            return outcome(CertificateVerdict.IDENTICAL, "", largest)
        found = self._rounded(runs)
        if found:
            return outcome(CertificateVerdict.ROUNDED, ", ".join(found), largest)
        said = f"they differ in digit {worst.digit} of {where}: {worst.text()}"
        return outcome(CertificateVerdict.DIFFERENT, said, largest)

    def _worst(
        self, pairs: Sequence[tuple[Run, ExactValues, ExactValues | None]]
    ) -> tuple[LargestDifference, str]:
        """The largest difference of the outputs, and where it is."""
        worst, where = LargestDifference(number(0)), ""
        for run, wanted, got in pairs:
            for name in self.cut.outputs:
                one, other = wanted[name].array, (got or {})[name].array
                if one.shape != other.shape:
                    raise _OtherShapeError(
                        f"{name} has shape {list(one.shape)} in the original and "
                        f"{list(other.shape)} in the fused model"
                    )
                if not finite(one).any():
                    raise UnknownError(f"{name} has no finite number in the original")
                found = difference(one, other)
                if found.value > worst.value:
                    place = np.ravel_multi_index(found.index, one.shape)
                    kind = run.kinds[int(place) // self.cut.site.hidden % len(run.kinds)]
                    worst, where = found, f"{name}{list(found.index)} ({KINDS_OF_ROWS[kind]})"
        return worst, where

    def _runs(self, extents: Extents) -> Iterator[Run]:
        """Passes until each kind of row was there, and once is enough."""
        cut = self.cut
        rng = random.Random(f"graphfuse certificate {self.seed}")
        letters = self._letters(rng)
        before = Evaluator(cut.before.part, bound=cut.before.bound)
        after = Evaluator(cut.after.part, bound=cut.after.bound)
        body = Evaluator(cut.after.part, bodies=True, bound=cut.after.bound)
        added = self._added(after, extents, letters)
        kinds, first = kinds_of(extents), 0
        while first < len(kinds):
            drawn = operands(rng, extents, number(cut.site.epsilon), first, added, cut.a == cut.b)
            fed = {**self._fed(drawn), **self._targets(extents)}
            yield Run(
                [(first + row) % len(kinds) for row in range(extents.rows)],
                drawn,
                before.run({**cut.before.given, **letters, **fed}),
                after.run({**cut.after.given, **letters, **fed}),
                body.run({**cut.after.given, **letters, **fed})
                if body.carries_body(cut.site.node)
                else None,
            )
            first += extents.rows

    def _fed(self, drawn: Mapping[str, Array]) -> ExactValues:
        names = {"A": self.cut.a, "B": self.cut.b}
        return {
            names[role]: ExactValue(array, self.cut.site.elem_type) for role, array in drawn.items()
        }

    def _targets(self, extents: Extents) -> ExactValues:
        """Shapes that are computed elsewhere, as they are for these extents."""
        symbols: dict[object, int] = {}
        for dims, shape in zip(self.cut.shapes, (extents.a, extents.b), strict=True):
            symbols.update((dim, n) for dim, n in zip(dims, shape, strict=False) if dim)
        found: ExactValues = {}
        for name, dims in self.cut.targets.items():
            if len(dims) == len(extents.total) and _may_be(dims, extents.total):
                found[name] = integers(extents.total)
                continue
            # Rows may be laid out in any way: one axis has them all where nothing is known.
            known = [dim if isinstance(dim, int) else symbols.get(dim, -1) for dim in dims]
            free = [at for at, extent in enumerate(known) if extent == -1]
            for at in free[:-1]:
                known[at] = symbols[dims[at]] = 1
            found[name] = integers(known)
        return found

    def _letters(self, rng: random.Random) -> ExactValues:
        """The vectors that both models hold alike, drawn; those of a function always are."""
        weights = {tensor.name for tensor in self.cut.after.part.proto.graph.initializer}
        return {
            name: ExactValue(vector(rng, shape), elem_type, True)
            for name, (elem_type, shape) in self.cut.letters.items()
            if self.drawn or name not in weights
        }

    def _added(self, after: Evaluator, extents: Extents, letters: ExactValues) -> Any:
        """What the fused node adds beside its operands; 0 where it adds nothing more."""
        name = self.cut.site.roles.get("AddBias")
        if name is None:
            return number(0)
        nothing = {"A": _zeros(extents.a), "B": _zeros(extents.b)}
        more = self._targets(extents)
        return after.run({**self.cut.after.given, **letters, **self._fed(nothing), **more})[
            name
        ].array

    def _rounded(self, runs: Sequence[Run]) -> tuple[str, ...] | None:
        """The parameters that are rounded once, where the sums are the same and that explains Y."""
        site = self.cut.site
        roles = site.roles
        others = [name for name in self.cut.outputs if name in site.node.output[1:]]
        normal = [name for name in self.cut.outputs if name not in others]
        if len(normal) != 1 or not self._only_reshaped(runs[0], normal[0]):
            return None
        for run in runs:
            for name in others:
                if not difference(run.before[name].array, run.after[name].array).is_none:
                    return None
        row = (-1, site.hidden)
        added = runs[0].after[roles["AddBias"]].array if "AddBias" in roles else number(0)
        x = [objects(run.operands["A"] + (run.operands["B"] + added)).reshape(row) for run in runs]
        y = [run.before[normal[0]].array.reshape(row) for run in runs]
        kinds = [kind for run in runs for kind in run.kinds]
        seen = Seen(np.concatenate(x), np.concatenate(y), kinds)
        held = Parameters(
            runs[0].after[roles["Scale"]],
            runs[0].after[roles["Bias"]] if "Bias" in roles else None,
            number(site.epsilon),
            is_centred(site.node.op_type),
        )
        return roundings(seen, held)

    def _only_reshaped(self, run: Run, name: str) -> bool:
        """Whether an output is what the fused node yields, in another shape at most."""
        yielded, given = run.after[self.cut.site.output].array, run.after[name].array
        return bool(yielded.size == given.size and (yielded.reshape(-1) == given.reshape(-1)).all())


def _zeros(shape: KnownShape) -> Array:
    return np.full(shape, number(0), dtype=object)


def _may_be(dims: Dims, shape: KnownShape) -> bool:
    """Whether what is known of a tensor allows a shape, whose outer extents are of our choosing."""
    return isinstance(dims[-1], str | None) or dims[-1] == shape[-1]


def _text(extents: Extents) -> str:
    return " + ".join("x".join(map(str, shape)) for shape in (extents.a, extents.b))


def _extents(cut: Cut, static: bool) -> list[Extents]:
    """Extents to try: small ones, or those of the file where they are others and not too many."""
    found: list[Extents] = []
    for length, batch in ((SEQUENCE, BATCH), (SEQUENCE, 1), (1, 1)):
        extents = _concrete(cut, static, length, batch)
        if extents is None or extents in found:
            continue
        if not static or (size(extents.total) <= MOST and extents not in _extents(cut, False)):
            found.append(extents)
    return found


def _concrete(cut: Cut, static: bool, length: int, batch: int) -> Extents | None:
    """Extents for all axes; `static` keeps numbers of the file, else they are small as well."""
    normalized = len(cut.site.extents)
    ranks = [len(shape) for shape in cut.shapes]
    known: dict[int, int] = {}
    for shape in cut.shapes:
        for place, dim in _outer(shape, normalized):
            if isinstance(dim, int) and dim > 1:
                known[place] = dim

    def extent(place: int, dim: object) -> int:
        if dim == 1:
            return 1
        if static and place in known:
            return known[place]
        return {1: length, 2: batch}.get(place, 1)

    made: list[KnownShape] = []
    for shape in cut.shapes:
        outer = tuple(extent(place, dim) for place, dim in _outer(shape, normalized))
        made.append((*outer, *_inner(shape, cut.site.extents)))
    try:
        extents = Extents(made[0], made[1], normalized)
        whole = extents.total[len(extents.total) - normalized :] == cut.site.extents
    except ValueError:
        return None
    return extents if whole and max(ranks) >= normalized else None


def _outer(shape: Dims, normalized: int) -> list[tuple[int, object]]:
    """The axes before the normalised ones, each with its place counted from those."""
    outer = shape[: max(0, len(shape) - normalized)]
    return [(len(outer) - at, dim) for at, dim in enumerate(outer)]


def _inner(shape: Dims, extents: tuple[int, ...]) -> KnownShape:
    """The normalised axes that an operand has; one of extent 1 broadcasts."""
    own = shape[max(0, len(shape) - len(extents)) :]
    wanted = extents[len(extents) - len(own) :]
    return tuple(1 if dim == 1 else extent for dim, extent in zip(own, wanted, strict=True))
