"""Each fused node alone: what it means (G0), and how accurate its kernel is (G1).

G0 evaluates the node and the part of the original that it replaced in float64, on rows around the
size of epsilon: there a wrong epsilon shows, which activations of the usual size hide. G1 runs the
node on the provider (alone.py), on hard rows, every element against its rounding bound; where it
means what the original means, what is beyond the bound may be as far off in the original.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.files.model_file import Model
from graphfuse.records import Check, Unpaired
from graphfuse.records.progress import SILENT, Progress, counted
from graphfuse.validation.alone import Lost, Replaced, Trial, on_activations, on_hard_rows
from graphfuse.validation.comparing import Compared, compared, other_casts
from graphfuse.validation.differences import Difference
from graphfuse.validation.drawing import on_grid
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.hard_inputs import operands
from graphfuse.validation.lifting import added_to
from graphfuse.validation.reference import Twin
from graphfuse.validation.tolerance import MEANING_BOUND, distance, distances
from graphfuse.views.cutting import NodePlace, Part, Parts, parts_by_scope
from graphfuse.views.fused_nodes import OWN_DOMAIN, FusedNode, fused_nodes, unlike_functions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass
class SiteResults:
    """What checking the fused nodes alone gave; `wrong` are the outputs of those that failed.

    `lost` are rows that onnxruntime gets wrong at a site, fused or not. `shown` are the nodes of
    the fused model that took part in a comparison that passed, `replaced` those of the original.
    """

    checks: list[Check] = field(default_factory=list[Check])
    wrong: list[str] = field(default_factory=list[str])
    unpaired: list[Unpaired] = field(default_factory=list[Unpaired])
    lost: list[Lost] = field(default_factory=list[Lost])
    shown: set[NodePlace] = field(default_factory=set[NodePlace])
    replaced: set[NodePlace] = field(default_factory=set[NodePlace])

    def add(self, trial: Trial | Check | None) -> None:
        """Run a trial and keep what it shows."""
        if isinstance(trial, Trial):
            self.checks += trial.checks()
            self.lost += [trial.lost] if trial.lost is not None else []
        elif trial is not None:
            self.checks.append(trial)


def new_sites(
    original: Model, fused: Model, seed: int, only: Sequence[str] = ()
) -> tuple[list[FusedNode], list[tuple[Difference, str]]]:
    """The fused nodes that only the second model has, or those of them with a given output.

    Also gives those of which too little is known to run them alone, and what that is.
    """
    before, protos = parts_by_scope(original), (original.proto, fused.proto)
    # A node means what its function says, where that is not ours.
    pairs = (protos, protos[::-1])
    other = {function.name for pair in pairs for function in unlike_functions(*pair)}
    found: list[FusedNode] = []
    unknown: list[tuple[Difference, str]] = []
    for node, scope, site in fused_nodes(fused, np.random.default_rng(seed)):
        there, output = before.get(scope), node.output[0]
        new = there is None or there.node(output) != node
        new = new or (node.domain == OWN_DOMAIN and node.op_type in other)
        if new and (not only or output in only):
            if isinstance(site, str):
                unknown.append((Difference(scope, node, "fused"), site))
            else:
                found.append(site)
    return found, unknown


def check_sites(
    original: Model,
    fused: Model,
    sites: Sequence[FusedNode],
    provider: str,
    seed: int,
    activations: Mapping[str, tuple[Array, Array]] | None = None,
    options: str = "",
    progress: Progress = SILENT,
) -> SiteResults:
    """Check fused nodes alone: what each means, and the kernel of each distinct one.

    `activations` are operands from the original's own run, by output, which `options` repeat.
    """
    results = SiteResults()
    before, after = parts_by_scope(original), parts_by_scope(fused)
    parts: dict[str, Replaced] = {}
    for site in counted(progress, sites):
        there, here = before.get(site.scope), after[site.scope]
        if there is None:
            results.unpaired.append(Unpaired(site.output, "the original has no such graph"))
            continue
        part = _replaced(there, here, site)
        found = _check_meaning(there, here, site, part, seed)
        if found.check is None:
            results.unpaired.append(Unpaired(site.output, found.why))
            continue
        results.checks.append(found.check)
        if found.check.passed:
            results.shown |= here.places(found.nodes, there, found.names)
            # Only where both mean the same can the one be measured by the other's bound.
            parts[site.output] = partial(_replaced, there, here, site)
            nodes = part.proto.graph.node if part is not None else ()
            results.replaced |= there.places(nodes, here, found.names)
    alike: dict[object, list[FusedNode]] = {}
    for site in sites:
        alike.setdefault(_likeness(site), []).append(site)
    progress.stage(f"running each distinct site on {provider}")
    for group in counted(progress, tuple(alike.values())):
        _check_kernels(results, fused, group, provider, seed, parts)
    given = activations or {}
    if given:
        progress.stage(f"running each site on its activations, on {provider}")
        for site in counted(progress, [site for site in sites if site.output in given]):
            captured, part = given[site.output], parts.get(site.output, _nothing)
            first = len(results.checks)
            results.add(on_activations(fused, site, provider, captured, part))
            results.checks[first:] = [replace(c, repeat=options) for c in results.checks[first:]]
    results.wrong += [check.subject for check in results.checks if not check.passed]
    order = {site.output: number for number, site in enumerate(sites)}
    results.wrong = sorted(set(results.wrong), key=order.__getitem__)
    repeat = f"--validate sites --seed {seed} --site "
    results.checks = [
        check if check.repeat else replace(check, repeat=repeat + shlex.quote(check.subject))
        for check in results.checks
    ]
    return results


def _check_kernels(
    results: SiteResults,
    fused: Model,
    alike: Sequence[FusedNode],
    provider: str,
    seed: int,
    parts: Mapping[str, Replaced],
) -> None:
    """G1 on hard rows of sites that one run of the kernel speaks for."""
    first, *others = alike
    more = f", {len(others)} more alike" if others else ""
    trial = on_hard_rows(fused, first, provider, seed, parts.get(first.output, _nothing), more)
    checks = trial.checks() if isinstance(trial, Trial) else [trial]
    if others and isinstance(trial, Trial) and trial.asked:
        # What they replaced need not be alike: each is compared with its own.
        for site in alike:
            part = parts.get(site.output, _nothing)
            results.add(on_hard_rows(fused, site, provider, seed, part))
        return
    results.checks += checks
    if isinstance(trial, Trial) and trial.lost is not None:
        results.lost.append(trial.lost)
    if not all(check.passed for check in checks):
        results.wrong += [site.output for site in alike]


def _nothing() -> None:
    """The part of a site whose original cannot be compared."""


def _likeness(site: FusedNode) -> object:
    """What a kernel's result depends on: sites that have it in common are run once."""
    vectors = tuple((role, array.tobytes()) for role, array in site.vectors.items())
    attributes = tuple(sorted(a.SerializeToString() for a in site.node.attribute))
    outputs = tuple(bool(name) for name in site.node.output)
    types = (site.elem_type, site.parameter_type, site.a_shape, site.b_shape, site.extents)
    return (
        site.node.domain,
        site.node.op_type,
        attributes,
        outputs,
        tuple(site.roles),
        types,
        vectors,
    )


def _check_meaning(
    before: Parts, after: Parts, site: FusedNode, part: Model | None, seed: int
) -> Compared:
    """The node against the part that it replaced, in float64; or why they cannot be paired.

    What cannot be paired, or does not run on rows of another number, is left to the whole model.
    """
    if before.node(site.output) is None:
        return Compared(why=f"the original computes no {site.output!r}")
    replacement = after.behind(site.node, _shared(before, after, site))
    if part is not None and replacement is not None:
        found = _figure(before, after, (part, replacement), site, seed)
        if not isinstance(found, str):
            pair = Part(replacement, frozenset()), Part(part, frozenset())
            lost = other_casts(before, after, pair, site.elem_type) if found.passed else ""
            names = tuple(value.name for value in part.proto.graph.output)
            return Compared(
                None if lost else found, tuple(replacement.proto.graph.node), names, lost
            )
    # What it replaced reads more, or something else: cut where both have tensors.
    return compared(before, after, site.node, "fused", seed)


def _figure(
    before: Parts, after: Parts, parts: tuple[Model, Model], site: FusedNode, seed: int
) -> Check | str:
    part, replacement = parts
    rng = np.random.default_rng(seed)
    smallest = float(np.sqrt(site.epsilon)) / 10
    drawn = operands(site, _rows_around_epsilon(site, rng), rng, as_declared=True)
    a, b = (on_grid(operand, smallest) for operand in drawn)
    values = {**site.vectors, "A": a, "B": b}
    known = {name: values[role] for role, name in reversed(site.roles.items())}
    feeds = {value.name: known[value.name] for value in part.proto.graph.input}
    feeds |= {value.name: known[value.name] for value in replacement.proto.graph.input}
    try:
        meant = Twin(part, added=added_to(before.model, after.model)).run(feeds)
    except UnsupportedModelError as error:
        return f"what it replaced does not run on rows of its own ({error.message[:120]})"
    twin = Twin(replacement, added=added_to(after.model, before.model))
    try:
        results = twin.run(feeds)
    except UnsupportedModelError as error:
        return _wrong(site, f"float64, {error.message[:160]}")
    nudged: Mapping[str, Array] = {}
    figures: list[tuple[float, float, str]] = []
    for name, wanted in meant.items():
        result = results[name]
        whole = wanted.size % site.hidden == 0 or name != site.output
        if result.shape != wanted.shape or not whole:
            what = "shape" if name == site.output else f"{name!r} of shape"
            return _wrong(site, f"float64, {what} {result.shape} in place of {wanted.shape}")
        values = _distances(site, result, wanted)
        bounds = np.full(values.shape, MEANING_BOUND)
        if (values > MEANING_BOUND).any():
            # What float32 does to an epsilon is no difference in meaning.
            nudged = nudged or twin.run(feeds, nudged=True)
            slack = _distances(site, nudged[name], result)
            moved = (values > bounds) & np.isfinite(slack)
            bounds = np.where(moved, bounds + slack, bounds)
        worst = int(np.argmax(values / bounds))
        where = "" if name == site.output else f" of {name!r}"
        figures.append((float(values[worst]), float(bounds[worst]), where))
    value, bound, which = max(figures, key=lambda figure: figure[0] / figure[1])
    where = f"float64, rows around epsilon{which}, seed {seed}"
    return Check("G0", site.output, value, bound, where, value <= bound)


def _wrong(site: FusedNode, where: str) -> Check:
    return Check("G0", site.output, float("inf"), MEANING_BOUND, where, False)


def _distances(site: FusedNode, result: Array, wanted: Array) -> Array:
    """How far apart two tensors are, in each row and in each column.

    In one norm over all, large rows would hide the small ones, and a row a small entry of a scale.
    """
    if not wanted.size or wanted.size % site.hidden:
        return np.array([distance(result, wanted)])
    rows = [each.reshape(-1, site.hidden) for each in (result, wanted)]
    columns = [each.T for each in rows]
    return np.concatenate([distances(*rows), distances(*columns)])


def _shared(before: Parts, after: Parts, site: FusedNode) -> set[str]:
    names = site.roles.values()
    return {name for name in names if before.computes(name) and after.computes(name)}


def _replaced(before: Parts, after: Parts, site: FusedNode) -> Model | None:
    """The part of the original that a fused node stands for."""
    return before.behind(site.node, _shared(before, after, site))


def _rows_around_epsilon(site: FusedNode, rng: np.random.Generator) -> Array:
    root = float(np.sqrt(site.epsilon))
    rows = [
        rng.standard_normal(site.hidden) * sigma + ratio * sigma
        for sigma in (root / 10, root, 10 * root, 1.0)
        for ratio in (0.0, 1.0)
    ]
    return np.stack(rows)
