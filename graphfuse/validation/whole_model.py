"""The whole model against its original: meaning (G0) and accuracy end to end (G2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.errors import OriginalModelError, UsageError
from graphfuse.feeds import check_feeds, random_feeds
from graphfuse.graph.model_file import Model
from graphfuse.graph.shapes import type_of
from graphfuse.graph.tensors import FLOAT_TYPES
from graphfuse.records import Check
from graphfuse.runtime import has_kernels, run, session
from graphfuse.validation.reference import FUSED_DOMAINS, OWN_DOMAIN, Twin
from graphfuse.validation.tolerance import END_TO_END, FLOAT, MEANING_BOUND, distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Outputs = Mapping[str, Array]


def check_whole_model(
    original: Model,
    fused: Model,
    provider: str,
    seed: int,
    feeds: Mapping[str, Array] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    condition: bool | None = None,
) -> tuple[list[Check], str]:
    """Run both models, and both float64 twins, on the same feeds and compare every output.

    Gives the checks, and the first fused output whose meaning differs when G0 fails. `condition` is
    what the single booleans among drawn inputs are.

    Raises OriginalModelError when the original does not run on the feeds.
    """
    values, before, drawn = _originals(original, provider, seed, feeds, shapes, condition)
    where = f"{provider}, {drawn}"
    twin = Twin(original)
    reference = twin.run(values)
    if not any(np.isfinite(array).any() for array in reference.values() if _numeric(array)):
        raise UsageError(
            f"no output of the original is finite ({drawn}), so nothing can be compared",
            "give other feeds with --load-inputs or --input-shapes",
        )
    other = Twin(fused, like=twin)
    checks = meaning(other, reference, values, where)
    types = {value.name: type_of(value.type).elem_type for value in original.proto.graph.output}
    judge = _Judge(twin, values, before, reference, types)
    for optimize, kernels in _ways(fused, provider):
        at = f"{where}, optimizations {'on' if optimize else 'off'}"
        at += ", graphfuse kernels" if kernels else ""
        checks += _end_to_end(fused, provider, optimize, kernels, values, judge, at)
    meanings_agree = all(check.passed for check in checks if check.gate == "G0")
    return checks, "" if meanings_agree else first_difference(twin, other, values)


def _ways(fused: Model, provider: str) -> list[tuple[bool, bool]]:
    """How the fused model is run: optimizations, graphfuse's kernels.

    Whoever has no kernels runs the functions' bodies, so those are run as well.
    """
    own = any(opset.domain == OWN_DOMAIN for opset in fused.proto.opset_import)
    if own and has_kernels([provider]):
        return [(False, True), (True, True), (True, False)]
    return [(False, False), (True, False)]


def _numeric(array: Array) -> bool:
    return array.dtype.kind in "fiub"


def first_difference(original: Twin, fused: Twin, feeds: Outputs) -> str:
    """The first fused node's output that the float64 twins disagree on; '' when there is none.

    A fused node keeps the names of the tensors that it replaces, so both twins have them.
    """
    old, new = original.run_all(feeds), fused.run_all(feeds)
    for node in fused.model.proto.graph.node:
        if node.domain not in FUSED_DOMAINS:
            continue
        for name in reversed([name for name in node.output if name in old and name in new]):
            if not compare(new[name], old[name]) <= MEANING_BOUND:
                return name
    return ""


def _originals(
    original: Model,
    provider: str,
    seed: int,
    feeds: Outputs | None,
    shapes: Mapping[str, tuple[int, ...]] | None,
    condition: bool | None,
) -> tuple[Outputs, dict[bool, Outputs], str]:
    """Feeds on which the original runs, and its outputs with optimizations off and on.

    Drawn feeds have batches of 2, or of 1 where the model only runs so, or larger extents where
    nothing is left of small ones (images).
    """
    attempts: list[tuple[Outputs, str]] = []
    if feeds is not None:
        check_feeds(original.proto, feeds)
        attempts.append((feeds, "given feeds"))
    else:
        for batch, later in ((2, 7), (1, 7), (1, 64)):
            drawn = random_feeds(original.proto, seed, shapes, batch, later, condition)
            taken = "" if condition is None else f", conditions {condition}"
            attempts.append((drawn, f"seed {seed}, batch {batch}, extents {later}{taken}"))
    failures: list[OriginalModelError] = []
    for values, label in attempts:
        try:
            runs = {flag: _run_original(original, provider, flag, values) for flag in (False, True)}
        except OriginalModelError as error:
            failures.append(error)
        else:
            drawn = feeds is None and not shapes
            if not drawn or any(array.size for array in runs[False].values()):
                return values, runs, label
            failures.append(
                OriginalModelError(
                    f"every output of the original is empty ({label})",
                    "give larger feeds with --input-shapes or --load-inputs",
                )
            )
    raise failures[0]


def _run_original(model: Model, provider: str, optimize: bool, feeds: Outputs) -> Outputs:
    try:
        made = session(model.proto, model.folder, provider, optimize)
        return run(made, feeds)
    except Exception as error:
        # onnxruntime raises its own classes, one per failure code.
        text = " ".join(str(error).split())[:300]
        raise OriginalModelError(
            f"the original model does not run on {provider}: {text}",
            "run it in onnxruntime alone first; feeds can be given with --load-inputs "
            "or --input-shapes, and `fuse --validate none` skips the run",
        ) from error


def meaning(fused: Twin, reference: Outputs, feeds: Outputs, where: str) -> list[Check]:
    """G0 of every output: both twins agree, but for what float32 does to an epsilon."""
    results = fused.run(feeds)
    nudged: Outputs | None = None
    checks: list[Check] = []
    for name, exact in reference.items():
        value, bound = compare(results[name], exact), MEANING_BOUND
        if bound < value < float("inf"):
            nudged = nudged or fused.run_nudged(feeds)
            bound += compare(nudged[name], results[name])
        checks.append(Check("G0", name, value, bound, where, value <= bound))
    return checks


def compare(result: Array, reference: Array) -> float:
    """Floating point by relative L2; integers, booleans and strings must be equal."""
    if reference.dtype.kind == "f":
        return distance(result, reference)
    return 0.0 if np.array_equal(result, reference) else float("inf")


def _end_to_end(
    fused: Model,
    provider: str,
    optimize: bool,
    kernels: bool,
    feeds: Outputs,
    judge: _Judge,
    where: str,
) -> list[Check]:
    try:
        made = session(fused.proto, fused.folder, provider, optimize, kernels)
        results = run(made, feeds)
    except Exception as error:
        # onnxruntime raises its own classes, one per failure code.
        text = " ".join(str(error).split())[:300]
        return [Check("G2", "the fused model does not run", float("inf"), 0.0, text, False)]
    return [
        judge.check(name, results[name], judge.before[optimize][name], where) for name in results
    ]


@dataclass
class _Judge:
    """What G2 compares with: the original's outputs, the float64 twin's, and the rounded twin's.

    The rounded twin is evaluated only when an output needs it.
    """

    twin: Twin
    feeds: Outputs
    before: Mapping[bool, Outputs]
    reference: Outputs
    types: Mapping[str, int]
    _rounded: Outputs | None = None

    def check(self, name: str, result: Array, base: Array, where: str) -> Check:
        """Judge one output of the fused model."""
        exact = self.reference[name]
        if self.types[name] not in FLOAT_TYPES:
            same = np.array_equal(result, base)
            return Check("G2", name, 0.0 if same else 1.0, 0.0, where, same)
        roundoff = FLOAT[self.types[name]].roundoff
        value = compare(result, exact)
        bound = END_TO_END * compare(base, exact) + roundoff
        if not value <= bound:
            if self._rounded is None:
                self._rounded = self.twin.run_rounded(self.feeds)
            bound = max(bound, END_TO_END * compare(self._rounded[name], exact) + roundoff)
        return Check("G2", name, value, bound, where, value <= bound)
