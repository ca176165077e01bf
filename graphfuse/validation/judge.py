"""One validation from end to end, on each provider: the gates of a level, and who is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphfuse.errors import UsageError, in_one_line
from graphfuse.files.model_file import Model
from graphfuse.records import Check, NotShown, Unpaired, ValidationReport
from graphfuse.records.progress import Progress
from graphfuse.records.requests import Level
from graphfuse.records.residual_stream import Reading
from graphfuse.running.feeding import Feeding
from graphfuse.running.fitting import TooLargeError
from graphfuse.running.sessions import require_provider
from graphfuse.system import machine
from graphfuse.validation.alone import notes
from graphfuse.validation.differences import (
    Difference,
    Differing,
    check_differences,
    differences,
)
from graphfuse.validation.each_site import SiteResults, check_sites, new_sites
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.inside import activation, captured, first_beyond
from graphfuse.validation.reference import evaluated_by
from graphfuse.validation.well_formed import flaw, narrower
from graphfuse.validation.whole_model import WholeModel
from graphfuse.views.cutting import NodePlace, parts_by_scope
from graphfuse.views.fused_nodes import FusedNode, unlike_functions
from graphfuse.views.keys import ScopeKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass
class _Findings:
    """What piles up over the providers."""

    checks: list[Check] = field(default_factory=list[Check])
    wrong: list[str] = field(default_factory=list[str])
    unpaired: dict[str, Unpaired] = field(default_factory=dict[str, Unpaired])
    activations: dict[str, Reading] = field(default_factory=dict[str, Reading])
    notes: list[str] = field(default_factory=list[str])
    evaluated: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    shown: set[NodePlace] = field(default_factory=set[NodePlace])
    reached: set[ScopeKey] = field(default_factory=set[ScopeKey])
    level: str = ""
    """The level that was judged at, where the one asked for could not be."""
    strays: dict[str, NotShown] = field(default_factory=dict[str, NotShown])

    def add(self, found: SiteResults) -> None:
        self.checks += found.checks
        self.wrong += found.wrong
        self.unpaired.update((item.site, item) for item in found.unpaired)
        self.notes += notes(found.lost)


def judge(
    original: Model,
    fused: Model,
    providers: Mapping[str, str],
    feeding: Feeding,
    level: Level,
    only: Sequence[str],
    progress: Progress,
) -> ValidationReport:
    """Validate on each provider; `providers` are named by what the user calls them.

    `only` are the outputs of the fused nodes to check alone; all of them when it is empty. Raises
    OriginalModelError, ProviderError, UsageError, and UnsupportedModelError; where the whole model
    is too large or has no meaning in float64, fused nodes are judged alone, and a note says so.
    """
    for provider in providers.values():
        require_provider(provider)
    found = _Findings()
    sites, unknown = new_sites(original, fused, feeding.seed, only)
    found.unpaired.update((each.place[1], Unpaired(each.place[1], why)) for each, why in unknown)
    # Nodes that only the original has fused: the arguments swapped, or unfused again.
    others, _ = new_sites(fused, original, feeding.seed, only)
    missing = set(only) - {site.output for site in (*sites, *others)} - found.unpaired.keys()
    if missing:
        raise UsageError(
            f"no fused node computes {min(missing)!r}", "name an output that `--json` shows"
        )
    done = _runs(original, fused, providers, feeding, level, (sites, others), progress, found)
    differing = Differing()
    if not only:
        progress.stage("looking at what else differs")
        fused_ones = [each for each, _ in unknown]
        differing = _differing(original, fused, fused_ones, level, feeding.seed, found)
        found.checks += _not_taken(original, fused)
    not_shown = _not_shown(original, fused, sites, differing, found)
    if not found.checks:
        found.notes.append("no fused node could be checked alone: nothing was judged")
    order = {site.output: number for number, site in enumerate((*sites, *others))}
    wrong = sorted(set(found.wrong), key=lambda name: order.get(name, len(order)))
    return ValidationReport(
        tuple(found.checks),
        done,
        feeding.seed,
        found.level or level,
        tuple(wrong),
        found.evaluated,
        tuple(found.activations.values()),
        tuple(found.unpaired.values()),
        tuple(dict.fromkeys(found.notes)),
        tuple(differing.changes),
        not_shown,
    )


def _runs(
    original: Model,
    fused: Model,
    providers: Mapping[str, str],
    feeding: Feeding,
    level: Level,
    nodes: tuple[Sequence[FusedNode], Sequence[FusedNode]],
    progress: Progress,
    found: _Findings,
) -> tuple[str, ...]:
    """Run both models and each of the fused nodes of either, on each distinct provider."""
    sites, others = nodes
    done: dict[str, None] = {}
    for ep, provider in providers.items():
        if provider in done:
            continue
        done[provider] = None
        before = len(found.checks)
        whole = None
        activations: dict[str, tuple[Array, Array]] = {}
        if level != "sites":
            whole = _whole(original, fused, provider, feeding, level, progress, nodes, found)
            found.strays |= {} if whole is None else whole.strays
        if whole is not None and level == Level.FULL:
            progress.stage("looking at activations")
            activations = _activations(whole, sites, found)
        progress.stage(f"validating each site on {provider}")
        run = "" if whole is None else f"--validate full {whole.ran[0].feed.repeat}"
        mine = check_sites(
            original, fused, sites, provider, feeding.seed, activations, run, progress
        )
        theirs = check_sites(fused, original, others, provider, feeding.seed)
        found.add(mine)
        found.add(theirs)
        found.shown |= mine.shown | theirs.replaced
        if whole is not None:
            _blame(whole, sites, found, progress)
            found.reached |= {scope for scope in parts_by_scope(fused) if whole.reached(scope)}
        found.checks[before:] = [
            replace(check, repeat=f"--ep {ep} {check.repeat}") for check in found.checks[before:]
        ]
    return tuple(done)


def _whole(
    original: Model,
    fused: Model,
    provider: str,
    feeding: Feeding,
    level: Level,
    progress: Progress,
    nodes: tuple[Sequence[FusedNode], Sequence[FusedNode]],
    found: _Findings,
) -> WholeModel | None:
    """The whole model, run; None where it cannot be judged and each fused node alone can.

    It may take more memory than there is, or hold an operator without a meaning in float64, such as
    onnxruntime's GreedySearch: a loop over a decoder, which has no second way of being computed.
    """
    captured = [site.roles[role] for site in nodes[0] for role in ("A", "B")]
    whole = WholeModel(original, fused, provider, feeding, level, progress)
    whole.captured = captured if level == Level.FULL else ()
    try:
        found.checks += whole.run()
    except (TooLargeError, UnsupportedModelError) as error:
        if not any(nodes):
            raise
        found.level = "sites"
        found.notes += whole.notes
        found.notes.append(
            f"{error.message}: each fused node was judged alone, as by --validate sites"
        )
        return None
    return whole


def _differing(
    original: Model,
    fused: Model,
    unknown: Sequence[Difference],
    level: Level,
    seed: int,
    found: _Findings,
) -> Differing:
    """What differs outside of the sites, checked alone where that can be done.

    `unknown` are fused nodes that are no sites, for want of what is known of them.
    """
    before, after = parts_by_scope(original), parts_by_scope(fused)
    # Where nothing else was judged, the models have to be equal in all that they hold.
    every = level != "sites" or not found.checks
    listed = (*unknown, *differences(before, after, every))
    result = check_differences(listed, before, after, found.shown, seed, every)
    repeat = f"--validate {level} --seed {seed}"
    found.checks += [replace(check, repeat=repeat) for check in result.checks]
    found.wrong += result.wrong
    found.shown |= result.shown
    for each, _ in result.left:
        judged = "whole model" if each.scope in found.reached else ""
        result.changes.append(each.change(judged))
    result.changes += [each.change("") for each, _ in result.unseen]
    return result


def _not_taken(original: Model, fused: Model) -> list[Check]:
    """What keeps the second model from being loaded, or takes fewer inputs than the first does."""
    found: list[tuple[str, str]] = []
    problem = flaw(fused.proto)
    if problem and not flaw(original.proto):
        found.append(("no session loads the fused model, and one does the original", problem))
    for name, shapes in narrower(original.proto.graph, fused.proto.graph):
        found.append((f"the fused model takes fewer shapes of input {name!r}", shapes))
    return [Check("G2", what, float("inf"), 0.0, why, False) for what, why in found]


def _not_shown(
    original: Model,
    fused: Model,
    sites: Sequence[FusedNode],
    differing: Differing,
    found: _Findings,
) -> tuple[NotShown, ...]:
    """What is in the fused model and not in the original, and no check has reached.

    Fused nodes that a comparison of what reads them has reached are no longer unpaired.
    """
    missing: dict[str, NotShown] = dict(found.strays)
    for _, output in found.shown:
        found.unpaired.pop(output, None)
    for site in sites:
        if site.output in found.unpaired and site.scope not in found.reached:
            missing[site.output] = NotShown(site.output, found.unpaired[site.output].why)
    runs = [(each, why) for each, why in differing.left if each.scope not in found.reached]
    for each, why in (*runs, *differing.unseen):
        change = each.change("")
        subject = f"{change.operator} {change.output!r}"
        subject += f" in {change.scope}" if change.scope else ""
        missing.setdefault(subject, NotShown(subject, f"it is {each.how}: {why}"))
    for one, other in ((fused, original), (original, fused)):
        for function in unlike_functions(one.proto, other.proto):
            subject = f"function {function.domain}::{function.name}"
            why = "it is not the one that graphfuse writes: graphfuse's kernels compute another"
            missing[subject] = NotShown(subject, why)
    return tuple(missing.values())


def _activations(
    whole: WholeModel, sites: Sequence[FusedNode], found: _Findings
) -> dict[str, tuple[Array, Array]]:
    """The operands of the sites in the original's own run; their statistics go to the findings."""
    operands: dict[str, tuple[Array, Array]] = {}
    for site, a, b in captured(whole.original, sites, whole.provider, whole.ran[0].feed):
        operands[site.output] = (a, b)
        statistics = activation(site, a, b)
        if statistics is not None:
            found.activations[site.output] = statistics
    return operands


def _blame(
    whole: WholeModel, sites: Sequence[FusedNode], found: _Findings, progress: Progress
) -> None:
    """Add what the whole model showed; look inside it when it failed and no node alone did."""
    found.wrong += whole.wrong
    found.notes += whole.notes
    found.evaluated |= evaluated_by((whole.twins.original, whole.twins.fused))
    runs = [check for check in found.checks if check.gate in ("G2", "G3", "G4")]
    if found.wrong or all(check.passed for check in runs):
        return
    outputs = [site.output for site in sites if site.scope == ("main",)]
    computed = {name for node in whole.original.proto.graph.node for name in node.output}
    progress.stage("looking for the fused node that leaves its bound")
    try:
        first = first_beyond(whole, [name for name in outputs if name in computed])
    except Exception as error:
        # Whatever else onnxruntime raises on a model with more outputs; the failure itself stands.
        machine.check(error, "looking for the fused node that leaves its bound")
        found.notes.append(f"no node could be blamed ({in_one_line(error, 160)})")
        return
    found.wrong += [first] if first else []
