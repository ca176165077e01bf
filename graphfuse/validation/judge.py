"""One validation from end to end, on each provider: the gates of a level, and who is to blame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphfuse import machine
from graphfuse.errors import UsageError, in_one_line
from graphfuse.feeding import Feeding
from graphfuse.graph.model_file import Model
from graphfuse.records import Activation, Check, Unpaired, ValidationReport
from graphfuse.runtime import require_provider
from graphfuse.validation.alone import notes
from graphfuse.validation.exposed import activation, captured, first_beyond
from graphfuse.validation.fused_nodes import FusedNode
from graphfuse.validation.reference import evaluated_by
from graphfuse.validation.sites import SiteResults, check_sites, new_sites
from graphfuse.validation.whole_model import WholeModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Stage = Callable[[str], object]

LEVELS = ("fast", "full", "sites")
"""fast: one feed, optimizations on. full: several, on and off, and real activations. sites: each
fused node alone, at the memory of one of them."""


@dataclass
class _Findings:
    """What piles up over the providers."""

    checks: list[Check] = field(default_factory=list[Check])
    wrong: list[str] = field(default_factory=list[str])
    unpaired: dict[str, Unpaired] = field(default_factory=dict[str, Unpaired])
    activations: dict[str, Activation] = field(default_factory=dict[str, Activation])
    notes: list[str] = field(default_factory=list[str])
    evaluated: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

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
    level: str,
    only: Sequence[str],
    stage: Stage,
) -> ValidationReport:
    """Validate on each provider; `providers` are named by what the user calls them.

    `only` are the outputs of the fused nodes to check alone; all of them when it is empty. Raises
    OriginalModelError, ProviderError, UsageError, and UnsupportedModelError.
    """
    for provider in providers.values():
        require_provider(provider)
    found = _Findings()
    sites, unknown = new_sites(original, fused, feeding.seed, only)
    found.unpaired.update((item.site, item) for item in unknown)
    # Nodes that only the original has fused: the arguments swapped, or unfused again.
    others, _ = new_sites(fused, original, feeding.seed, only)
    missing = set(only) - {site.output for site in (*sites, *others)} - found.unpaired.keys()
    if missing:
        raise UsageError(
            f"no fused node computes {min(missing)!r}", "name an output that `--json` shows"
        )
    done: set[str] = set()
    for ep, provider in providers.items():
        if provider in done:
            continue
        done.add(provider)
        before = len(found.checks)
        whole = None
        activations: dict[str, tuple[Array, Array]] = {}
        if level != "sites":
            whole = WholeModel(original, fused, provider, feeding, level, stage)
            found.checks += whole.run()
        if whole is not None and level == "full":
            stage("looking at activations")
            activations = _activations(whole, sites, found)
        stage(f"validating each site on {provider}")
        run = "" if whole is None else f"--validate full {whole.ran[0].feed.repeat}"
        found.add(check_sites(original, fused, sites, provider, feeding.seed, activations, run))
        found.add(check_sites(fused, original, others, provider, feeding.seed))
        if whole is not None:
            _blame(whole, sites, found, stage)
        found.checks[before:] = [
            replace(check, repeat=f"--ep {ep} {check.repeat}") for check in found.checks[before:]
        ]
    if not found.checks:
        found.notes.append("no fused node could be checked alone: nothing was judged")
    order = {site.output: number for number, site in enumerate((*sites, *others))}
    wrong = sorted(set(found.wrong), key=lambda name: order.get(name, len(order)))
    return ValidationReport(
        tuple(found.checks),
        tuple(done),
        feeding.seed,
        level,
        tuple(wrong),
        found.evaluated,
        tuple(found.activations.values()),
        tuple(found.unpaired.values()),
        tuple(dict.fromkeys(found.notes)),
    )


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


def _blame(whole: WholeModel, sites: Sequence[FusedNode], found: _Findings, stage: Stage) -> None:
    """Add what the whole model showed; look inside it when it failed and no node alone did."""
    found.wrong += whole.wrong
    found.notes += whole.notes
    found.evaluated |= evaluated_by((whole.twins.original, whole.twins.fused))
    runs = [check for check in found.checks if check.gate in ("G2", "G3", "G4")]
    if found.wrong or all(check.passed for check in runs):
        return
    outputs = [site.output for site in sites if site.scope == ("main",)]
    computed = {name for node in whole.original.proto.graph.node for name in node.output}
    stage("looking for the fused node that leaves its bound")
    try:
        first = first_beyond(whole, [name for name in outputs if name in computed])
    except Exception as error:
        # Whatever else onnxruntime raises on a model with more outputs; the failure itself stands.
        machine.check(error, "looking for the fused node that leaves its bound")
        found.notes.append(f"no node could be blamed ({in_one_line(error, 160)})")
        return
    found.wrong += [first] if first else []
