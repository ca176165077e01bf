"""The step back: every fused node becomes a sum and a norm of ONNX's own operators again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfuse.errors import GateError, UsageError, ValidationError
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import Model, materialized, unchanged
from graphfuse.files.weights import Output
from graphfuse.fusing import LEVELS, failure, validate_models
from graphfuse.graph.tensors import count_nodes
from graphfuse.pipeline import ModelLike, as_model, files_read, opened, write
from graphfuse.records import UnfuseResult
from graphfuse.records.progress import SILENT, Progress
from graphfuse.rewriting.apart import take_apart
from graphfuse.running.feeding import feeding_of
from graphfuse.running.random_feeds import Ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Feeds = Mapping[str, Array]


def unfuse(model: ModelLike, *, limits: Limits | None = None) -> UnfuseResult:
    """Write every fused node of a model out, graphfuse's and onnxruntime's; nothing is validated.

    `model` is a path or an onnx.ModelProto, which is not changed. A fused node becomes an Add and a
    LayerNormalization (opset 17 and later), an RMSNormalization (23 and later), or primitives;
    functions that nothing calls any more go with them. Fusing the result gives the fused model that
    it was, for the same target and runtime. Returns the model and what was left, with reasons.
    Raises ModelError for a file that is unreadable or unsafe.
    """
    source = as_model(model, limits=limits)
    with unchanged(source):
        return _result(source)


def _result(source: Model) -> UnfuseResult:
    apart = take_apart(source)
    operators = ((place[1], origin.operator) for place, origin in apart.origins.items())
    return UnfuseResult(
        proto=apart.model.proto,
        unfused=tuple(operators),
        left=tuple(apart.left),
        nodes_before=count_nodes(source.proto),
        nodes_after=count_nodes(apart.model.proto),
        read=files_read(source),
        notes=source.notes,
        complete=partial(materialized, source),
    )


def unfuse_file(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    validation: str = "fast",
    seed: int = 0,
    iterations: int | None = None,
    inputs: Feeds | Sequence[Feeds] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    symbols: Mapping[str, int] | None = None,
    val_range: Ranges | None = None,
    run_limit: float | None = None,
    weights: str = "auto",
    force: bool = False,
    in_place: bool = False,
    only_if_changed: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> UnfuseResult:
    """Load, write out, validate against the fused model, and write `output` in one rename.

    The options are those of `optimize`. With `strict` a fused node that has to stay is an error.
    Raises ValidationError (nothing is written) when a gate fails, GateError with `strict`, and what
    `optimize` raises of files.
    """
    if validation not in LEVELS:
        raise UsageError(f"unknown level {validation!r}", f"choose one of {', '.join(LEVELS)}")
    target = Output(Path(output), weights, force, in_place)
    source = opened(model, target, dry_run, limits, progress)
    with unchanged(source):
        progress.stage("taking fused nodes apart")
        result = _result(source)
        if strict and result.left:
            first = result.left[0]
            raise GateError(
                f"{len(result.left)} fused nodes have to stay, such as {first.add}: "
                f"{first.reason.sentence} ({first.got})",
                "leave out --strict to write the others out",
            )
        if validation != "none" and result.changed:
            feeding = feeding_of(
                seed, iterations, inputs, input_shapes, val_range, run_limit, symbols
            )
            plain = source.edited(result.proto)
            report = validate_models(source, plain, ("cpu",), feeding, validation, (), progress)
            if not report.passed:
                raise ValidationError(
                    failure(report), "nothing was written; please report it with the model's graph"
                )
            result = replace(result, validation=report)
    if dry_run or (only_if_changed and not result.changed):
        return result
    return write(result, source, target, progress)
