"""The step back: every fused node becomes a sum and a norm of ONNX's own operators again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from graphfuse.errors import GateError, ValidationError
from graphfuse.files.model_file import Model, materialized
from graphfuse.graph.tensors import count_nodes
from graphfuse.planning import targets
from graphfuse.records import UnfuseResult
from graphfuse.records.progress import Progress
from graphfuse.records.requests import Feeds, Level
from graphfuse.records.results import Unfused
from graphfuse.rewriting.apart import take_apart
from graphfuse.running.feeding import feeding_of
from graphfuse.steps.judging import Asked, failure, validate_models
from graphfuse.steps.opening import files_read, saved
from graphfuse.steps.picturing import of_unfusing


def unfused(source: Model) -> UnfuseResult:
    """The model with its fused nodes written out; nothing is validated."""
    apart = take_apart(source)
    operators = (Unfused(place[1], origin.operator) for place, origin in apart.origins.items())
    return UnfuseResult(
        proto=apart.model.proto,
        unfused=tuple(operators),
        left=tuple(apart.left),
        nodes_before=count_nodes(source.proto),
        nodes_after=count_nodes(apart.model.proto),
        read=files_read(source),
        notes=source.notes,
        complete=partial(materialized, source),
        saver=partial(saved, source),
        drawer=partial(of_unfusing, source),
    )


def validated(
    source: Model, asked: Asked, feeds: Feeds, strict: bool, progress: Progress
) -> UnfuseResult:
    """The same, compared with the fused model on the CPU.

    Raises ValidationError when a check fails, and GateError, when `strict`, where a fused node has
    to stay.
    """
    progress.stage("taking fused nodes apart")
    result = unfused(source)
    if strict and result.left:
        first = result.left[0]
        raise GateError(
            f"{len(result.left)} fused nodes have to stay, such as {first.add}: "
            f"{first.reason.sentence} ({first.got})",
            "leave out --strict to write the others out",
        )
    if asked.level == Level.NONE or not result.changed:
        return result
    plain = source.edited(result.proto)
    cpu, feeding = targets.target("cpu"), feeding_of(feeds)
    report = validate_models(source, plain, cpu, asked, feeding, progress)
    if not report.passed:
        raise ValidationError(
            failure(report), "nothing was written; please report it with the model's graph"
        )
    return replace(result, validation=report)
