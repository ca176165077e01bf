"""The stages in order. The only module that knows them all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from graphfuse import targets
from graphfuse.errors import GateError, UsageError, ValidationError
from graphfuse.feeding import Feeding
from graphfuse.feeds import Ranges
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
from graphfuse.stream import Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Feeds = Mapping[str, Array]

ModelLike = str | os.PathLike[str] | onnx.ModelProto
Stage = Callable[[str], object]

LEVELS = ("fast", "full", "sites", "none")
"""Levels of validation (validation/judge.py), and none."""


def silent(_: str) -> None:
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


def activations(
    model: ModelLike,
    *,
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    val_range: Ranges | None = None,
    stage: Stage = silent,
) -> tuple[Reading, ...]:
    """Run a model on the CPU and measure its residual stream: a reading for each sum, in order.

    Sums are those that norms read (the sites of `scan`), and those x + F(x) that none reads, of the
    main graph. Feeds are those of `validate`, one drawn where nothing is said; a reading is of all
    of them. Raises OriginalModelError when the model does not run, UsageError, ModelError,
    and ProviderError when onnxruntime is missing.
    """
    from graphfuse.graph.view import views
    from graphfuse.patterns.stream import stream
    from graphfuse.readings import read

    loaded = as_model(model)
    stage("scanning")
    sums = stream(views(loaded)[0], scan_model(loaded))
    stage("running the model")
    return tuple(read(loaded, sums, _feeding(seed, iterations, inputs, input_shapes, val_range)))


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
    stage: Stage = silent,
) -> FuseResult:
    """Rewrite every site of a model for an execution provider; nothing is written or validated.

    `ep` is cpu, cuda or portable; `include` and `exclude` select sites by id or by a pattern of
    output names; `fold_bias` lets the fused node add a bias vector that stands before the
    residual. The input is not changed; external data of the result stays where it is.
    Raises ModelError, UsageError, or InternalError when the rewrite cannot be proven.
    """
    return fuse_model(as_model(model), ep, include, exclude, fold_bias, stage)


def fuse_model(
    source: Model,
    ep: str = "cpu",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fold_bias: bool = False,
    stage: Stage = silent,
) -> FuseResult:
    """`fuse`, of a model that was loaded."""
    return _Fusing(source, ep, include, exclude, fold_bias, stage).result({})


@dataclass
class _Fusing:
    """One model and what the user wants of it; sites can be put back, so it may be asked again."""

    source: Model
    ep: str
    include: Sequence[str]
    exclude: Sequence[str]
    fold_bias: bool
    stage: Stage

    @cached_property
    def scan(self) -> Scan:
        """The sites, looked for once."""
        targets.target(self.ep)
        self.stage("scanning")
        return scan_model(self.source)

    def result(self, put_back: Mapping[str, str]) -> FuseResult:
        """The rewritten model; `put_back` are ids of sites to leave, and why."""
        planned = make_plan(
            self.source,
            self.scan,
            self.ep,
            self.include,
            self.exclude,
            self.fold_bias,
            put_back,
        )
        self.stage("rewriting")
        model = rewrite(self.source.proto, planned)
        return FuseResult(
            model=model,
            target=self.ep,
            scan=self.scan,
            fused=planned.fusions,
            left=(*self.scan.near_misses, *planned.left),
            nodes_before=self.scan.nodes,
            nodes_after=count_nodes(model),
        )

    def validated(self, level: str, feeding: Feeding, strict: bool) -> FuseResult:
        """The rewritten model without the sites that fail validation, and the report of the rest.

        Raises ValidationError when `strict`, or when no site can be blamed.
        """
        put_back: dict[str, str] = {}
        while True:
            result = self.result(put_back)
            if not result.changed:
                return result
            fused = Model(result.model, None, self.source.folder)
            report = _validate(self.source, fused, [self.ep], feeding, level, (), self.stage)
            if report.passed:
                return replace(result, validation=report)
            blamed = {
                fusion.site.id: _why(report, fusion.output)
                for fusion in result.fused
                if fusion.output in report.wrong
            }
            if strict or not blamed:
                raise ValidationError(_failure(report), "nothing was written; please report it")
            put_back |= blamed


def validate(
    original: ModelLike,
    fused: ModelLike,
    eps: Sequence[str] = ("cpu",),
    *,
    level: str = "full",
    sites: Sequence[str] = (),
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    val_range: Ranges | None = None,
    stage: Stage = silent,
) -> ValidationReport:
    """Compare two models with each other and with float64 on each execution provider.

    The models have the same inputs and outputs; the second may come from any tool. Gates: G0 both
    in float64 agree to 1e-11; G1 every fused node alone, on hard inputs, is within its type's
    rounding bound; G2 the fused model is no further from float64 than the original; G3 nothing
    finite is lost; G4 integers and clear decisions are kept. `level` is fast, full, or sites (each
    fused node alone, at the memory of one), `sites` the outputs of the fused nodes to check alone.
    `inputs` are feeds by name, or several; without them they are drawn, `iterations` times with
    seeds from `seed` on, `input_shapes` fixing sizes and `val_range` the numbers ('' for all).
    External data of a ModelProto is looked for beside the original. The report says what passed:
    a failure does not raise. Raises OriginalModelError when the original does not run, and
    ProviderError when a provider is missing.
    """
    first = as_model(original)
    second = as_model(fused, first.folder)
    feeding = _feeding(seed, iterations, inputs, input_shapes, val_range)
    return _validate(first, second, eps, feeding, level, sites, stage)


def _feeding(
    seed: int,
    iterations: int | None,
    inputs: Feeds | Sequence[Feeds] | None,
    shapes: Mapping[str, tuple[int, ...]] | None,
    ranges: Ranges | None,
) -> Feeding:
    given = [inputs] if isinstance(inputs, Mapping) else inputs
    return Feeding(seed, iterations, given, shapes or {}, ranges or {})


def _validate(
    original: Model,
    fused: Model,
    eps: Sequence[str],
    feeding: Feeding,
    level: str,
    sites: Sequence[str],
    stage: Stage,
) -> ValidationReport:
    from graphfuse.validation.judge import LEVELS, judge

    if level not in LEVELS:
        raise UsageError(f"unknown level {level!r}", f"choose one of {', '.join(LEVELS)}")
    providers = {ep: targets.target(ep).provider for ep in eps}
    _check_signature(original.proto.graph, fused.proto.graph)
    return judge(original, fused, providers, feeding, level, sites, stage)


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
    strict: bool = False,
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    val_range: Ranges | None = None,
    min_fused: int = 0,
    force: bool = False,
    dry_run: bool = False,
    stage: Stage = silent,
) -> FuseResult:
    """The whole step: load, scan, rewrite, validate, and write `output` in one atomic rename.

    `validation` is a level of `validate`, or none. A site that fails is put back, and named in
    `result.left` with the reason PUT_BACK; with `strict` nothing is written then. With `dry_run`
    nothing is written. A model without sites is copied byte for byte. Raises ValidationError
    (nothing is written) when a gate fails and no site can be blamed, GateError when fewer than
    `min_fused` sites were fused, UsageError for an output that exists without `force`, and what
    `fuse` and `validate` raise.
    """
    if validation not in LEVELS:
        raise UsageError(f"unknown level {validation!r}", f"choose one of {', '.join(LEVELS)}")
    targets.target(ep)
    stage("loading")
    source = as_model(model)
    target = Path(output)
    if not dry_run:
        check_output(target, source, force)
    fusing = _Fusing(source, ep, include, exclude, fold_bias, stage)
    result = fusing.result({})
    _check_fused(result, model, min_fused)
    if validation != "none" and result.changed:
        feeding = _feeding(seed, iterations, inputs, input_shapes, val_range)
        result = fusing.validated(validation, feeding, strict)
        _check_fused(result, model, min_fused)
    return result if dry_run else write(result, Path(model), target, source, force, stage)


def write(
    result: FuseResult, model: Path, target: Path, source: Model, force: bool, stage: Stage
) -> FuseResult:
    """Write a result to `target` atomically; `model` byte for byte when nothing changed."""
    stage("writing")
    data = serialize(result.model) if result.changed else model.read_bytes()
    check_output(target, source, force)
    with drafted(data, target, source, force) as draft:
        check_written(draft.path, data)
        return replace(result, written=draft.commit())


def _check_fused(result: FuseResult, model: str | os.PathLike[str], wanted: int) -> None:
    if len(result.fused) < wanted:
        raise GateError(
            f"{len(result.fused)} of {wanted} sites were fused that --min-fused asks for",
            f"`graphfuse scan {model}` says why the others were left",
        )


def _why(report: ValidationReport, output: str) -> str:
    """How a fused node failed: its own check, or the first of the whole model's."""
    own = [check for check in report.failures if check.subject == output]
    check = (own or list(report.failures))[0]
    return f"{check.gate} is {check.value:.3g}, bound {check.bound:.3g} ({check.where})"


def _failure(report: ValidationReport) -> str:
    first = report.failures[0]
    names = sorted({check.subject for check in report.failures})
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    at = f"; the first site that differs is {report.first_difference}"
    return (
        f"validation failed at {shown}: {first.gate} of {first.subject} is {first.value:.3g}, "
        f"bound {first.bound:.3g} ({first.where}){at if report.first_difference else ''}"
    )
