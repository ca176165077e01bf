"""The stages in order. The only module that knows them all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from graphfuse import targets
from graphfuse.errors import GateError, UsageError, ValidationError
from graphfuse.feeds import is_condition
from graphfuse.graph.model_file import (
    Model,
    check_external_data,
    check_output,
    check_written,
    drafted,
    load,
    serialize,
)
from graphfuse.graph.tensors import count_nodes
from graphfuse.patterns.scan import scan as scan_model
from graphfuse.plan import plan as make_plan
from graphfuse.records import Explanation, FuseResult, Scan, ValidationReport
from graphfuse.rewrite import rewrite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ModelLike = str | os.PathLike[str] | onnx.ModelProto
Stage = Callable[[str], object]

LEVELS = {"fast": 1, "full": 3, "none": 0}
"""Levels of validation, and the number of seeded feeds that the whole model is run on."""


def _silent(_: str) -> None:
    """The progress of a library call: none."""


def as_model(model: ModelLike, folder: Path | None = None) -> Model:
    """Load a path, or wrap a ModelProto whose external data lies in `folder`."""
    if model == "":
        raise UsageError("the path of the model is empty", "name an .onnx file")
    if isinstance(model, onnx.ModelProto):
        handed = Model(model, None, folder or Path())
        check_external_data(handed)
        return handed
    return load(model)


def scan(model: ModelLike) -> Scan:
    """Find every residual Add that feeds a LayerNorm or an RMSNorm.

    `model` is a path or an onnx.ModelProto. Weights are not read. Returns the sites that can be
    fused and the near misses, each with its reason. Raises ModelError for an unreadable file.
    """
    return scan_model(as_model(model))


def explain(model: ModelLike, site: str) -> Explanation:
    """Say why a site is or is not fused: what was seen, beside the definition.

    `site` is an id of the scan (s1, m1), or the name of an output or an Add. Raises UsageError when
    there is none, and ModelError for an unreadable file.
    """
    from graphfuse.patterns.explain import explain as explain_item

    return explain_item(scan(model), site)


def fuse(
    model: ModelLike,
    ep: str = "cpu",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fold_bias: bool = False,
    stage: Stage = _silent,
) -> FuseResult:
    """Rewrite every site of a model for an execution provider; nothing is written or validated.

    `ep` is cpu, cuda or portable; `include` and `exclude` select sites by id or by a pattern of
    output names; `fold_bias` lets the fused node add a bias vector that stands before the
    residual. The input is not changed; external data of the result stays where it is.
    Raises ModelError, UsageError, or InternalError when the rewrite cannot be proven.
    """
    return _fuse(as_model(model), ep, include, exclude, fold_bias, stage)


def _fuse(
    source: Model,
    ep: str,
    include: Sequence[str],
    exclude: Sequence[str],
    fold_bias: bool,
    stage: Stage,
) -> FuseResult:
    targets.target(ep)
    stage("scanning")
    found = scan_model(source)
    planned = make_plan(source, found, ep, include, exclude, fold_bias)
    stage("rewriting")
    result = rewrite(source.proto, planned)
    return FuseResult(
        model=result,
        target=ep,
        scan=found,
        fused=planned.fusions,
        left=(*found.near_misses, *planned.left),
        nodes_before=found.nodes,
        nodes_after=count_nodes(result),
    )


def validate(
    original: ModelLike,
    fused: ModelLike,
    eps: Sequence[str] = ("cpu",),
    *,
    seed: int = 0,
    iterations: int = 1,
    inputs: Mapping[str, Array] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    stage: Stage = _silent,
) -> ValidationReport:
    """Compare two models with each other and with float64 on each execution provider.

    Gates: G0 both in float64 agree to 1e-11; G1 every fused node alone, on hard inputs, is within
    its type's rounding bound; G2 the fused model is no further from float64 than the original.
    `inputs` are feeds by name; without them they are drawn, `iterations` times with seeds from
    `seed` on, `input_shapes` fixing sizes.
    External data of a ModelProto is looked for beside the original. The report says what passed:
    a failure does not raise. Raises OriginalModelError when the original does not run, and
    ProviderError when a provider is missing.
    """
    first = as_model(original)
    second = as_model(fused, first.folder)
    drawn = _Feeding(seed, iterations, inputs, input_shapes)
    return _validate(first, second, eps, drawn, stage)


@dataclass(frozen=True)
class _Feeding:
    """What to feed: given inputs, or inputs drawn with as many seeds as there are iterations."""

    seed: int
    iterations: int
    inputs: Mapping[str, Array] | None
    shapes: Mapping[str, tuple[int, ...]] | None

    def conditions(self, model: Model) -> tuple[bool | None, ...]:
        """Both ways where a single boolean is drawn: a branch that is not taken is not compared."""
        drawn = not self.inputs and any(map(is_condition, model.proto.graph.input))
        return (True, False) if drawn else (None,)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + (1 if self.inputs else self.iterations))


def _validate(
    original: Model, fused: Model, eps: Sequence[str], feeding: _Feeding, stage: Stage
) -> ValidationReport:
    from graphfuse.runtime import require_provider
    from graphfuse.validation.sites import check_sites
    from graphfuse.validation.whole_model import check_whole_model

    providers = tuple(targets.target(ep).provider for ep in eps)
    for provider in providers:
        require_provider(provider)
    _check_signature(original.proto.graph, fused.proto.graph)
    checks, differs = (), ""
    for provider in dict.fromkeys(providers):
        stage(f"validating each site on {provider}")
        alone, at_site = check_sites(original, fused, provider, feeding.seed)
        # Nodes that only the original has fused: the arguments swapped, or unfused again.
        reverse, at_other = check_sites(fused, original, provider, feeding.seed)
        checks += (*alone, *reverse)
        for seed, condition in itertools.product(feeding.seeds, feeding.conditions(original)):
            stage(f"validating the whole model on {provider}, seed {seed}")
            whole, first = check_whole_model(
                original, fused, provider, seed, feeding.inputs, feeding.shapes, condition
            )
            checks += tuple(whole)
            differs = differs or first
        differs = differs or at_site or at_other
    return ValidationReport(checks, providers, feeding.seed, differs)


def _check_signature(original: onnx.GraphProto, fused: onnx.GraphProto) -> None:
    for kind in ("input", "output"):
        names = [[v.name for v in getattr(graph, kind)] for graph in (original, fused)]
        if names[0] != names[1]:
            raise UsageError(
                f"the models' {kind}s differ: {', '.join(names[0])} and {', '.join(names[1])}",
                "validate a model against the one that it was made from",
            )


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    ep: str = "cpu",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fold_bias: bool = False,
    validation: str = "fast",
    seed: int = 0,
    iterations: int | None = None,
    inputs: Mapping[str, Array] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    min_fused: int = 0,
    force: bool = False,
    dry_run: bool = False,
    stage: Stage = _silent,
) -> FuseResult:
    """The whole step: load, scan, rewrite, validate, and write `output` in one atomic rename.

    `validation` is fast (feeds of one seed), full (three), or none; `iterations` overrides the
    number of seeds. With `dry_run` nothing is written. A model without sites is
    copied byte for byte. Raises ValidationError (nothing is written) when a gate fails, GateError
    when fewer than `min_fused` sites were fused, UsageError for an output that exists without
    `force`, and what `fuse` and `validate` raise.
    """
    if validation not in LEVELS:
        raise UsageError(f"unknown level {validation!r}", f"choose one of {', '.join(LEVELS)}")
    targets.target(ep)
    stage("loading")
    source = as_model(model)
    target = Path(output)
    if not dry_run:
        check_output(target, source, force)
    result = _fuse(source, ep, include, exclude, fold_bias, stage)
    if len(result.fused) < min_fused:
        raise GateError(
            f"{len(result.fused)} of {min_fused} sites were fused that --min-fused asks for",
            f"`graphfuse scan {model}` says why the others were left",
        )
    report = None
    if validation != "none" and result.changed:
        fused = Model(result.model, None, source.folder)
        drawn = _Feeding(seed, iterations or LEVELS[validation], inputs, input_shapes)
        report = _validate(source, fused, [ep], drawn, stage)
        if not report.passed:
            raise ValidationError(_failure(report), "nothing was written; please report the model")
    written = ()
    if not dry_run:
        stage("writing")
        data = serialize(result.model) if result.changed else Path(model).read_bytes()
        check_output(target, source, force)
        with drafted(data, target, source, force) as draft:
            check_written(draft.path, data)
            written = draft.commit()
    return replace(result, validation=report, written=written)


def _failure(report: ValidationReport) -> str:
    first = report.failures[0]
    names = sorted({check.subject for check in report.failures})
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    at = f"; the first site that differs is {report.first_difference}"
    return (
        f"validation failed at {shown}: {first.gate} of {first.subject} is {first.value:.3g}, "
        f"bound {first.bound:.3g} ({first.where}){at if report.first_difference else ''}"
    )
