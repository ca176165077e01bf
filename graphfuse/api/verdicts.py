"""The functions that compare two models: validate and bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphfuse.errors import UsageError
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import unchanged
from graphfuse.planning import targets
from graphfuse.records import ValidationReport, arguments
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import DRAWN, AnyFeeds, Level, chosen, feeds_of
from graphfuse.running.feeding import feeding_of
from graphfuse.steps.judging import Asked, check_signature, validate_models
from graphfuse.steps.opening import ModelLike, as_model, files_read
from graphfuse.steps.picturing import of_comparison
from graphfuse.steps.scanning import look

if TYPE_CHECKING:
    from graphfuse.speed.measurements import BenchOptions, BenchReport


def validate(
    original: ModelLike,
    fused: ModelLike,
    ep: str | Sequence[str] = "cpu",
    *,
    level: Level | str = Level.FULL,
    sites: Sequence[str] = (),
    certify: bool = False,
    pictures: bool = False,
    feeds: AnyFeeds = DRAWN,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> ValidationReport:
    """Compare two models with each other and with float64 on each execution provider.

    The second model may come from any tool. G0: both are one function, to 1e-11 in float64. G1:
    every fused node alone, on hard inputs, is within its type's rounding bound. G2: the fused model
    is no further from float64 than the original. G3: no finite number is lost. G4: integers and
    clear decisions are kept. With a certificate, a fused node and what it replaced, evaluated with
    100 digits (and 100 guard digits), are the same to 90 (`Certificate`).

    Args:
        original: The path of an .onnx file, or an onnx.ModelProto.
        fused: The same; it has the inputs and outputs of `original`. External data of a ModelProto
            is looked for beside the original.
        ep: Execution providers, as for `fuse`.
        level: How much is run: fast, full or sites (`Level`), or none, with `certify`.
        sites: Outputs of fused nodes: only these are checked, alone.
        certify: Whether each distinct fused node gets a certificate as well.
        pictures: Whether to draw the graph around each distinct site, before and after, as well.
        feeds: What the models are run on: arrays by input, or a `Feeds`.
        limits: The budgets of what is admitted; None for those of `Limits()`.
        progress: Is told of each stage.

    Returns:
        What passed and what did not: a failure does not raise.

    Raises:
        OriginalModelError: When the original does not run on the feeds.
        ProviderError: When a provider, or mpmath for a certificate, is missing.
        UsageError: For models whose inputs or outputs differ, and for other wrong arguments.
        ModelError: For a file that is unreadable, unsafe, or over a budget.

    Example:
        >>> fused = graphfuse.fuse("models/bert.onnx").model
        >>> report = graphfuse.validate("models/bert.onnx", fused, level="fast")
        >>> report.verdict, report.worst("G0").value < 1e-11
        ('pass', True)
    """
    asked = Asked(chosen(Level, level, "level"), sites, certify)
    arguments.told(progress)
    arguments.flag("pictures", pictures)
    if asked.level == Level.NONE and not certify:
        levels = ", ".join(each for each in Level if each != Level.NONE)
        raise UsageError(
            "at the level none there are certificates alone, and none are asked for",
            f"pass --certify, or choose one of {levels}",
        )
    target, feeding = targets.target(ep), feeding_of(feeds_of(feeds))
    first = as_model(original, limits=limits)
    second = as_model(fused, first.folder, limits)
    with unchanged(first, second):
        report = validate_models(first, second, target, asked, feeding, progress)
        found, drawn = of_comparison(first, second) if pictures else ((), ())
    read = (*files_read(first), *files_read(second))
    return replace(report, read=read, sites=found, pictures=drawn)


def bench(
    original: ModelLike,
    fused: ModelLike | None,
    ep: str | Sequence[str] = "cpu",
    *,
    options: BenchOptions | None = None,
    feeds: AnyFeeds = DRAWN,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> BenchReport:
    """Time two models in paired runs on each execution provider, or each site of one alone.

    Args:
        original: The path of an .onnx file, or an onnx.ModelProto.
        fused: The same; None to time each distinct site of `original` alone, in every form.
        ep: Execution providers, as for `fuse`.
        options: What is measured (`BenchOptions`).
        feeds: What the models are run on. Of sites alone, shapes and symbols count.
        limits: The budgets of what is admitted; None for those of `Limits()`.
        progress: Is told of each stage.

    Returns:
        For each pair of contenders the speed-up, the median over pairs of runs, with its interval.

    Raises:
        ProviderError: When a provider is missing, or fused nodes ran on another one.
        GraphfuseError: What `validate` raises.

    Example:
        >>> fused = graphfuse.fuse("models/bert.onnx").model
        >>> options = graphfuse.BenchOptions(seconds=0.1, look_inside=False, memory=False)
        >>> report = graphfuse.bench("models/bert.onnx", fused, options=options)
        >>> len(report.comparisons)
        1
    """
    from graphfuse.running.sessions import require_provider
    from graphfuse.speed.contests import compare
    from graphfuse.speed.measurements import BenchOptions
    from graphfuse.speed.site_timing import time_sites

    arguments.told(progress)
    options, asked = BenchOptions() if options is None else options, feeds_of(feeds)
    arguments.expect("options", options, BenchOptions, "give a graphfuse.BenchOptions")
    target = targets.target(ep)
    for single in target.singles:
        require_provider(single.provider, targets.since(single))
    first = as_model(original, limits=limits)
    if fused is None:
        with unchanged(first):
            looked = look(first)
            report = time_sites(looked.model, looked.scan, target, options, asked, progress)
        return replace(report, read=files_read(first))
    second = as_model(fused, first.folder, limits)
    check_signature(first.proto.graph, second.proto.graph)
    with unchanged(first, second):
        report = compare(first, second, target, feeding_of(asked), options, progress)
    return replace(report, read=(*files_read(first), *files_read(second)))
