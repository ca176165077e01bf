"""The whole model against its original: meaning (G0) and accuracy end to end (G2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.errors import OriginalModelError
from graphfuse.feeds import random_feeds
from graphfuse.graph.model_file import Model
from graphfuse.graph.shapes import type_of
from graphfuse.graph.tensors import FLOAT_TYPES
from graphfuse.records import Check
from graphfuse.runtime import run, session
from graphfuse.validation.reference import Twin
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
) -> list[Check]:
    """Run both models, and both float64 twins, on the same feeds and compare every output.

    Raises OriginalModelError when the original does not run on the feeds.
    """
    values, before, drawn = _originals(original, provider, seed, feeds, shapes)
    where = f"{provider}, {drawn}"
    twin = Twin(original)
    reference = twin.run(values)
    meant = Twin(fused, like=twin).run(values)
    checks = [_meaning(name, meant[name], reference[name], where) for name in reference]
    spec = _Lazily(lambda: twin.run_rounded(values))
    for optimize, base in before.items():
        at = f"{where}, optimizations {'on' if optimize else 'off'}"
        checks += _end_to_end(original, fused, provider, optimize, values, base, reference, spec, at)
    return checks


class _Lazily:
    """The rounded twin's outputs, evaluated only when an output needs them."""

    def __init__(self, evaluate: Callable[[], Outputs]) -> None:
        self._evaluate = evaluate
        self._outputs: Outputs | None = None

    def __getitem__(self, name: str) -> Array:
        if self._outputs is None:
            self._outputs = self._evaluate()
        return self._outputs[name]


def _originals(
    original: Model,
    provider: str,
    seed: int,
    feeds: Outputs | None,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> tuple[Outputs, dict[bool, Outputs], str]:
    """Feeds on which the original runs, and its outputs with optimizations off and on.

    Drawn feeds have batches of 2, or of 1 where the model only runs so.
    """
    attempts: list[tuple[Outputs, str]] = []
    if feeds is not None:
        attempts.append((feeds, "given feeds"))
    else:
        for batch in (2, 1):
            drawn = random_feeds(original.proto, seed, shapes, batch)
            attempts.append((drawn, f"seed {seed}, batch {batch}"))
    failures: list[OriginalModelError] = []
    for values, label in attempts:
        try:
            runs = {flag: _run_original(original, provider, flag, values) for flag in (False, True)}
        except OriginalModelError as error:
            failures.append(error)
        else:
            return values, runs, label
    raise failures[0]


def _run_original(model: Model, provider: str, optimize: bool, feeds: Outputs) -> Outputs:
    try:
        made = session(model.proto, model.folder, provider, optimize, own_norm_fusions=False)
        return run(made, feeds)
    except Exception as error:
        # onnxruntime raises its own classes, one per failure code.
        text = " ".join(str(error).split())[:300]
        raise OriginalModelError(
            f"the original model does not run on {provider}: {text}",
            "run it in onnxruntime alone first; feeds can be given with --load-inputs "
            "or --input-shapes, and --validate none skips the run",
        ) from error


def _meaning(name: str, fused: Array, original: Array, where: str) -> Check:
    value = _compare(fused, original)
    return Check("G0", name, value, MEANING_BOUND, where, value <= MEANING_BOUND)


def _compare(result: Array, reference: Array) -> float:
    """Floating point by relative L2; integers, booleans and strings must be equal."""
    if reference.dtype.kind == "f":
        return distance(result, reference)
    return 0.0 if np.array_equal(result, reference) else float("inf")


def _end_to_end(
    original: Model,
    fused: Model,
    provider: str,
    optimize: bool,
    feeds: Outputs,
    base: Outputs,
    reference: Outputs,
    spec: _Lazily,
    where: str,
) -> list[Check]:
    try:
        made = session(fused.proto, fused.folder, provider, optimize)
        results = run(made, feeds)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return [Check("G2", "the fused model does not run", float("inf"), 0.0, text, False)]
    types = {value.name: type_of(value.type).elem_type for value in original.proto.graph.output}
    checks: list[Check] = []
    for name, exact in reference.items():
        value, limit = _compare(results[name], exact), _compare(base[name], exact)
        if types[name] not in FLOAT_TYPES:
            # Integers: where the original itself differs from float64, a tie was decided.
            same = np.array_equal(results[name], base[name])
            checks.append(Check("G2", name, 0.0 if same else 1.0, 0.0, where, same))
            continue
        roundoff = FLOAT[types[name]].roundoff  # pyright: ignore[reportArgumentType]
        bound = END_TO_END * limit + roundoff
        if not value <= bound:
            bound = max(bound, END_TO_END * _compare(spec[name], exact) + roundoff)
        checks.append(Check("G2", name, value, bound, where, value <= bound))
    return checks
