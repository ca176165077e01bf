"""The stages in order. The only module that knows them all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import onnx

from graphfuse.errors import GateError, UsageError
from graphfuse.files import leftovers
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import Model, load, unchanged, wrap
from graphfuse.files.weights import Output, check_output, drafted
from graphfuse.fusing import (
    LEVELS,
    Fusing,
    check_costs,
    check_signature,
    validate_models,
)
from graphfuse.planning import advice, runtimes, targets
from graphfuse.records import (
    Explanation,
    FuseResult,
    HashedFile,
    Scan,
    UnfuseResult,
    ValidationReport,
)
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.residual_stream import Reading
from graphfuse.running.feeding import feeding_of
from graphfuse.running.random_feeds import Ranges
from graphfuse.scanning import look
from graphfuse.system import libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graphfuse.bench.contests import BenchOptions
    from graphfuse.bench.measurements import BenchReport

    Array = NDArray[Any]
    Feeds = Mapping[str, Array]

Result = TypeVar("Result", FuseResult, UnfuseResult)
ModelLike = str | os.PathLike[str] | onnx.ModelProto


def as_model(model: ModelLike, folder: Path | None = None, limits: Limits | None = None) -> Model:
    """Load a path, or wrap a ModelProto whose external data lies in `folder`."""
    if model == "":
        raise UsageError("the path of the model is empty", "name an .onnx file")
    if isinstance(model, onnx.ModelProto):
        return wrap(model, folder or Path(), limits)
    return load(model, limits)


def scan(model: ModelLike, *, limits: Limits | None = None) -> Scan:
    """Find every residual Add that feeds a LayerNorm or an RMSNorm.

    `model` is a path or an onnx.ModelProto. Weights are not read. `limits` are the budgets of
    what is admitted (files/admission.py). Returns the sites that can be fused and the near misses,
    each with its reason. Raises ModelError for a file that is unreadable, unsafe, or over a budget.
    """
    loaded = as_model(model, limits=limits)
    with unchanged(loaded):
        return look(loaded).shown


def activations(
    model: ModelLike,
    *,
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    symbols: Mapping[str, int] | None = None,
    val_range: Ranges | None = None,
    run_limit: float | None = None,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> tuple[Reading, ...]:
    """Run a model on the CPU and measure its residual stream: a reading for each sum, in order.

    Sums are those that norms read (the sites of `scan`), and those x + F(x) that none reads, of the
    main graph. Feeds are those of `validate`, one drawn where nothing is said; a reading is of all
    of them. Raises OriginalModelError when the model does not run, UsageError, ModelError,
    and ProviderError when onnxruntime is missing.
    """
    from graphfuse.stream.in_runs import read
    from graphfuse.stream.sums import stream
    from graphfuse.views.view import views

    loaded = as_model(model, limits=limits)
    feeding = feeding_of(seed, iterations, inputs, input_shapes, val_range, run_limit, symbols)
    with unchanged(loaded):
        progress.stage("scanning")
        looked = look(loaded)
        sums = stream(views(looked.model)[0], looked.scan)
        progress.stage("running the model")
        return tuple(read(looked.model, sums, feeding))


def explain(model: ModelLike, site: str, *, limits: Limits | None = None) -> Explanation:
    """Say why a site is or is not fused: what was seen, beside the definition.

    `site` is an id of the scan (s1, m1), or the name of an output or an Add. Raises UsageError when
    there is none, and ModelError for an unreadable file.
    """
    from graphfuse.recognition.explain import explain as explain_item

    return explain_item(scan(model, limits=limits), site)


def fuse(
    model: ModelLike,
    ep: str = "cpu",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fold_bias: bool | None = None,
    limits: Limits | None = None,
    costs: str = "table",
    runtime: str | None = None,
    strict_mode: bool = False,
    progress: Progress = SILENT,
) -> FuseResult:
    """Rewrite every site of a model for an execution provider; nothing is written or validated.

    `ep` is cpu, cuda or portable (targets.py has them all), auto, or several, such as cpu,cuda, for
    one file that serves each; `include` and `exclude` select sites by id or by a pattern of output
    names; `fold_bias` says whether the fused node adds a bias vector that stands before the
    residual (None: where it wins). `costs` says how it is known that a node wins: by the table that
    the package ships, by `autotune` on this machine, or `none` to fuse all. `runtime` is the
    version of onnxruntime that will run the result, such as 1.29; the installed one if not given.
    `strict_mode` says that CUDA sessions of the result will have the options of `providers`, which
    float16 needs before onnxruntime 1.27.
    The input is not changed; external data of the result stays where it is. Raises ModelError,
    UsageError, or InternalError when the rewrite cannot be proven.
    """
    source = as_model(model, limits=limits)
    with unchanged(source):
        result = fuse_model(
            source,
            ep,
            include=include,
            exclude=exclude,
            fold_bias=fold_bias,
            costs=costs,
            runtime=runtime,
            strict_mode=strict_mode,
            progress=progress,
        )
        return replace(result, read=files_read(source))


def fuse_model(
    source: Model,
    ep: str = "cpu",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fold_bias: bool | None = None,
    costs: str = "table",
    runtime: str | None = None,
    strict_mode: bool = False,
    progress: Progress = SILENT,
) -> FuseResult:
    """`fuse`, of a model that was loaded; weights that were left in its file stay there."""
    ep = ",".join(targets.resolve(ep))
    check_costs(costs)
    known = runtimes.runtime(runtime)
    fusing = Fusing(
        source, ep, include, exclude, fold_bias, costs, {}, progress, known, strict_mode
    )
    return fusing.result({})


def validate(
    original: ModelLike,
    fused: ModelLike,
    eps: Sequence[str] = ("cpu",),
    *,
    level: str = "full",
    sites: Sequence[str] = (),
    certify: bool = False,
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    symbols: Mapping[str, int] | None = None,
    val_range: Ranges | None = None,
    run_limit: float | None = None,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> ValidationReport:
    """Compare two models with each other and with float64 on each execution provider.

    The models have the same inputs and outputs; the second may come from any tool. Gates: G0 both
    in float64 agree to 1e-11; G1 every fused node alone, on hard inputs, is within its type's
    rounding bound; G2 the fused model is no further from float64 than the original; G3 nothing
    finite is lost; G4 integers and clear decisions are kept. `level` is fast, full, or sites (each
    fused node alone, at the memory of one), `sites` the outputs of the fused nodes to check alone.
    `inputs` are feeds by name, or several; without them they are drawn, `iterations` times with
    seeds from `seed` on, `input_shapes` fixing sizes, `symbols` an extent of all inputs by its
    symbol, and `val_range` the numbers ('' for all).
    A run of the original may take `run_limit` seconds, 45 where nothing is said.
    `certify` adds a certificate for each distinct fused node: it and what it replaced, evaluated
    with 200 digits, are the same to 90 (records.Certificate); with it `level` may be none.
    External data of a ModelProto is looked for beside the original. The report says what passed:
    a failure does not raise. Raises OriginalModelError when the original does not run, and
    ProviderError when a provider, or mpmath for a certificate, is missing.
    """
    first = as_model(original, limits=limits)
    second = as_model(fused, first.folder, limits)
    feeding = feeding_of(seed, iterations, inputs, input_shapes, val_range, run_limit, symbols)
    with unchanged(first, second):
        return validate_models(first, second, eps, feeding, level, sites, progress, certify)


def bench(
    original: ModelLike,
    fused: ModelLike | None,
    eps: Sequence[str] = ("cpu",),
    *,
    options: BenchOptions | None = None,
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    symbols: Mapping[str, int] | None = None,
    val_range: Ranges | None = None,
    run_limit: float | None = None,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> BenchReport:
    """Time two models in paired runs on each execution provider; without `fused`, each site alone.

    Raises what `validate` raises, and ProviderError when fused nodes ran on another provider.
    """
    from graphfuse.bench.contests import BenchOptions, compare
    from graphfuse.bench.site_timing import time_sites
    from graphfuse.running.sessions import require_provider

    options = options or BenchOptions()
    rows = [targets.target(ep) for ep in targets.resolve(eps)]
    for row in rows:
        require_provider(row.provider, targets.since(row))
    providers = {row.name: row.provider for row in rows}
    first = as_model(original, limits=limits)
    if fused is None:
        with unchanged(first):
            looked, shapes = look(first), input_shapes or {}
            return time_sites(
                looked.model, looked.scan, providers, options, shapes, progress, symbols
            )
    second = as_model(fused, first.folder, limits)
    check_signature(first.proto.graph, second.proto.graph)
    feeding = feeding_of(seed, iterations, inputs, input_shapes, val_range, run_limit, symbols)
    with unchanged(first, second):
        return compare(first, second, providers, feeding, options, progress)


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    ep: str = "cpu",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fold_bias: bool | None = None,
    costs: str = "table",
    runtime: str | None = None,
    strict_mode: bool = False,
    validation: str = "fast",
    strict: bool = False,
    certify: bool = False,
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    symbols: Mapping[str, int] | None = None,
    val_range: Ranges | None = None,
    run_limit: float | None = None,
    min_fused: int = 0,
    weights: str = "auto",
    force: bool = False,
    in_place: bool = False,
    only_if_changed: bool = False,
    dry_run: bool = False,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> FuseResult:
    """The whole step: load, scan, rewrite, validate, and write `output` in one atomic rename.

    `validation` is a level of `validate`, or none. A site that fails is put back, and named in
    `result.left` with the reason PUT_BACK; with `strict` nothing is written then. With `dry_run`
    nothing is written. `certify` asks for the certificates of `validate` as well: a site without
    one is put back. A model without sites is copied byte for byte, or not written with
    `only_if_changed`. `weights` says where they go: auto (they stay in the model's folder, and are
    copied elsewhere), keep, copy, reflink or embed. `in_place` allows `output` to be `model`.
    `runtime` and `strict_mode` are those of `fuse`; the installed onnxruntime validates.
    Raises ValidationError (nothing is written) when a gate fails and no site can be blamed,
    GateError when fewer than `min_fused` sites were fused, UsageError for an output that exists
    without `force`, WriteError when it cannot be written, and what `fuse` and `validate` raise.
    """
    if validation not in LEVELS:
        raise UsageError(f"unknown level {validation!r}", f"choose one of {', '.join(LEVELS)}")
    if certify:
        libraries.mpmath()
    ep = ",".join(targets.resolve(ep))
    target = Output(Path(output), weights, force, in_place)
    source = opened(model, target, dry_run, limits, progress)
    check_costs(costs)
    shapes = input_shapes or {}
    known = runtimes.runtime(runtime)
    fusing = Fusing(
        source,
        ep,
        include,
        exclude,
        fold_bias,
        costs,
        shapes,
        progress,
        known,
        strict_mode,
        symbols or {},
    )
    with unchanged(source):
        result = fusing.result({})
        _check_fused(result, model, min_fused)
        if (validation != "none" or certify) and result.changed:
            feeding = feeding_of(
                seed, iterations, inputs, input_shapes, val_range, run_limit, symbols
            )
            result = fusing.validated(validation, feeding, strict, certify)
            _check_fused(result, model, min_fused)
        result = replace(result, read=files_read(source))
    if dry_run or (only_if_changed and not result.changed):
        return result
    return write(result, source, target, progress)


def opened(
    model: ModelLike, target: Output, dry_run: bool, limits: Limits | None, progress: Progress
) -> Model:
    """The model that a file is to be made of, loaded; raises what speaks against that file."""
    if not dry_run:
        # Before anything is looked at: it may take a mark off the model's own weights.
        leftovers.remove(target.path.parent)
    progress.stage("loading")
    source = as_model(model, limits=limits)
    if not dry_run:
        check_output(target, source)
    return source


def write(result: Result, source: Model, target: Output, progress: Progress) -> Result:
    """Write a result atomically; byte for byte what was read when nothing changed.

    Raises ChangedError, and writes nothing, when a file of the original is not as it was.
    """
    progress.stage("writing")
    check_output(target, source)
    proto = result.proto if result.changed else None
    with (
        unchanged(source, at_end=False),
        drafted(proto, source, target, progress) as (draft, notes),
    ):
        written = draft.commit(source.check_same)
    return replace(result, written=written, notes=(*result.notes, *notes))


def files_read(source: Model) -> tuple[HashedFile, ...]:
    """The files of the original; the hash of those that were read as a whole."""
    if source.path is None:
        return ()
    own = HashedFile(str(source.path), source.identity[2], source.digest)
    files = source.files
    data = (
        HashedFile(str(source.folder / place), files.status(place).st_size, "")
        for place in source.external_files()
    )
    return (own, *data)


def _check_fused(result: FuseResult, model: str | os.PathLike[str], wanted: int) -> None:
    fused = len(result.fused) + result.kept
    if fused < wanted:
        raise GateError(
            f"{fused} of {wanted} sites were fused that --min-fused asks for",
            advice.of_left(result.left, str(model)),
        )
