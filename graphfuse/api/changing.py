"""The functions that rewrite a model: fuse, unfuse, and, to a file, optimize and unfuse_file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphfuse.files.limits import Limits
from graphfuse.files.model_file import unchanged
from graphfuse.planning import runtimes, targets
from graphfuse.records import FuseResult, UnfuseResult, arguments
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import (
    DRAWN,
    EVERY_SITE,
    AnyFeeds,
    AnyOutput,
    Feeds,
    Level,
    Selection,
    chosen,
    feeds_of,
    output_of,
)
from graphfuse.steps import unfusing
from graphfuse.steps.fusing import Fusing
from graphfuse.steps.judging import Asked
from graphfuse.steps.opening import ModelLike, as_model, opened, write
from graphfuse.system import libraries

if TYPE_CHECKING:
    import onnx_ir
    from typing_extensions import TypeIs


def fuse(
    model: ModelLike | onnx_ir.Model,
    ep: str | Sequence[str] = "cpu",
    *,
    runtime: str | None = None,
    strict_mode: bool = False,
    selection: Selection = EVERY_SITE,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> FuseResult:
    """Rewrite the sites of a model for an execution provider; nothing is written or validated.

    Args:
        model: The path of an .onnx file, or an onnx.ModelProto, which is not changed. An
            onnx_ir.Model is fused in place: what stays are the same objects.
        ep: Who will run the result: cpu, cuda or portable (planning/targets.py has them all), the
            name of onnxruntime's provider, auto for the best one here, or several, such as
            cpu,cuda, for one file that serves each.
        runtime: The version of onnxruntime that will run the result, such as 1.29; None for the
            installed one.
        strict_mode: Whether CUDA sessions of the result will have the options of `providers`, which
            float16 needs before onnxruntime 1.27.
        selection: Which sites, and in which form.
        limits: The budgets of what is admitted; None for those of `Limits()`.
        progress: Is told of each stage.

    Returns:
        `model`, the rewritten model; what was `fused`, and what was `left`, each with its reason.
        External data stays where it is: `save` writes the model to any place, with what it needs.

    Raises:
        ModelError: For a file that is unreadable, unsafe, or over a budget.
        UsageError: For an unknown `ep`, `runtime` or site, and for an onnx_ir.Model that cannot be
            said in ONNX.
        InternalError: When the rewrite cannot be proven.

    Example:
        >>> result = graphfuse.fuse("models/bert.onnx", runtime="1.32")
        >>> len(result.fused), result.nodes_before, result.nodes_after
        (5, 107, 98)
    """
    if _is_ir_model(model):
        from graphfuse.integrations.ir_models import fuse_model
        from graphfuse.integrations.wanted import Wanted

        asked = Wanted(
            ep=ep,
            runtime=runtime,
            strict_mode=strict_mode,
            selection=selection,
            limits=limits,
            progress=progress,
        )
        return fuse_model(model, asked)
    source = as_model(model, limits=limits)
    target, known = targets.target(ep), runtimes.runtime(runtime)
    fusing = Fusing(source, target, selection, known, strict_mode, Feeds(), progress)
    with unchanged(source):
        return fusing.result({})


def _is_ir_model(model: ModelLike | onnx_ir.Model) -> TypeIs[onnx_ir.Model]:
    """Whether a model is one of onnx_ir's; nobody has one who has not imported it."""
    found = sys.modules.get("onnx_ir")
    return found is not None and isinstance(model, found.Model)


def optimize(
    model: ModelLike,
    output: AnyOutput | None,
    ep: str | Sequence[str] = "cpu",
    *,
    runtime: str | None = None,
    strict_mode: bool = False,
    selection: Selection = EVERY_SITE,
    level: Level | str = Level.FAST,
    feeds: AnyFeeds = DRAWN,
    strict: bool = False,
    certify: bool = False,
    min_fused: int = 0,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> FuseResult:
    """The whole step: load, scan, rewrite, validate, and write in one atomic rename.

    A site that fails validation is put back, and named in `result.left` with the reason PUT_BACK.
    A model in which nothing is rewritten is copied byte for byte.

    Args:
        model: The path of an .onnx file, or an onnx.ModelProto, which is not changed.
        output: The file to write, or an `Output` that says more; None for a run that writes none.
        ep: As for `fuse`.
        runtime: As for `fuse`; the installed onnxruntime validates.
        strict_mode: As for `fuse`.
        selection: Which sites, and in which form.
        level: How much is validated: fast, full, sites or none (`Level`).
        feeds: What the models are run on: arrays by input, or a `Feeds`.
        strict: Whether a site that fails is an error, instead of being put back.
        certify: Whether each fused node needs a certificate of `validate` as well.
        min_fused: How many sites have to be fused, those that were before included.
        limits: The budgets of what is admitted; None for those of `Limits()`.
        progress: Is told of each stage.

    Returns:
        The result of `fuse`, with the report of the validation and the files that were written.

    Raises:
        ValidationError: When a check fails and no site can be blamed, or `strict`; nothing is
            written.
        GateError: When fewer than `min_fused` sites were fused; nothing is written.
        UsageError: For an output that exists without `force`, and for other wrong arguments.
        WriteError: When the output cannot be written; what was there still is.
        OriginalModelError: When the model itself does not run on the feeds.
        ProviderError: When onnxruntime or the execution provider is missing.
        ModelError: For a file that is unreadable, unsafe, or over a budget.

    Example:
        >>> result = graphfuse.optimize("models/bert.onnx", "fused.onnx", runtime="1.32")
        >>> result.validation.passed, result.written[0].path
        (True, 'fused.onnx')
    """
    level, feeds = chosen(Level, level, "level"), feeds_of(feeds)
    file = None if output is None else output_of(output)
    if certify:
        libraries.mpmath()
    target = targets.target(ep)
    source = opened(model, file, limits, progress)
    known = runtimes.runtime(runtime)
    fusing = Fusing(source, target, selection, known, strict_mode, feeds, progress)
    with unchanged(source):
        result = fusing.accepted(Asked(level, certify=certify), strict, min_fused)
    return result if file is None else write(result, source, file, progress)


def unfuse(model: ModelLike, *, limits: Limits | None = None) -> UnfuseResult:
    """Write every fused node of a model out, graphfuse's and onnxruntime's; nothing is validated.

    A fused node becomes an Add and a LayerNormalization (opset 17 and later), an RMSNormalization
    (23 and later), or primitives; functions that nothing calls any more go with them. Fusing the
    result gives the fused model that it was, for the same target and runtime.

    Args:
        model: The path of an .onnx file, or an onnx.ModelProto, which is not changed.
        limits: The budgets of what is admitted; None for those of `Limits()`.

    Returns:
        `model`, the rewritten model; what was `unfused`, and what was `left`, with reasons.

    Raises:
        ModelError: For a file that is unreadable or unsafe.

    Example:
        >>> fused = graphfuse.fuse("models/bert.onnx", runtime="1.32").model
        >>> len(graphfuse.unfuse(fused).unfused)
        5
    """
    source = as_model(model, limits=limits)
    with unchanged(source):
        return unfusing.unfused(source)


def unfuse_file(
    model: ModelLike,
    output: AnyOutput | None,
    *,
    level: Level | str = Level.FAST,
    feeds: AnyFeeds = DRAWN,
    strict: bool = False,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> UnfuseResult:
    """Load, write the fused nodes out, validate, and write `output` in one atomic rename.

    Args:
        model: As for `unfuse`.
        output: As for `optimize`.
        level: How much is validated, on the CPU: fast, full, sites or none (`Level`).
        feeds: As for `optimize`.
        strict: Whether a fused node that has to stay is an error.
        limits: As for `unfuse`.
        progress: Is told of each stage.

    Returns:
        The result of `unfuse`, with the report of the validation and the files that were written.

    Raises:
        ValidationError: When a check fails; nothing is written.
        GateError: With `strict`, when a fused node has to stay; nothing is written.
        GraphfuseError: What `optimize` raises of models, files and feeds.

    Example:
        >>> graphfuse.optimize("models/gpt2.onnx", "gpt2-fused.onnx", level="none").changed
        True
        >>> graphfuse.unfuse_file("gpt2-fused.onnx", "gpt2-plain.onnx").validation.passed
        True
    """
    arguments.told(progress)
    arguments.flag("strict", strict)
    asked, feeds = Asked(chosen(Level, level, "level")), feeds_of(feeds)
    file = None if output is None else output_of(output)
    source = opened(model, file, limits, progress)
    with unchanged(source):
        result = unfusing.validated(source, asked, feeds, strict, progress)
    return result if file is None else write(result, source, file, progress)
