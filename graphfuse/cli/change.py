"""The commands that write or judge a fused model: fuse, unfuse, validate."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from graphfuse.cli.options import (
    CertifyOption,
    ChoiceOptions,
    FeedOptions,
    JsonOption,
    ModelArgument,
    OutputOptions,
    can_isolate,
    chooses,
    data_options,
    is_gated,
    takes_feeds,
    writes,
)
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
from graphfuse.errors import GateError
from graphfuse.files.limits import Limits


@can_isolate
@is_gated
@takes_feeds
@writes
@chooses
def fuse(
    model: ModelArgument,
    feeds: FeedOptions,
    limits: Limits,
    output: OutputOptions,
    choice: ChoiceOptions,
    ep: Annotated[
        str, typer.Option(help="cpu, cuda, portable, auto, or several: one file for cpu,cuda.")
    ] = "cpu",
    validation: Annotated[
        str, typer.Option("--validate", help="fast, full, sites (each fused node alone) or none.")
    ] = "fast",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when a site does, instead of putting it back.")
    ] = False,
    certify: CertifyOption = False,
    min_fused: Annotated[
        int, typer.Option(min=0, help="Exit with 6 and write nothing when fewer sites are fused.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option(help="Do everything but write.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fuse every site of a model, validate the result, and write it."""
    from graphfuse import pipeline

    target = output.target(model, dry_run)
    with progress() as shown:
        result = pipeline.optimize(
            model,
            target,
            ep,
            validation=validation,
            strict=strict,
            certify=certify,
            min_fused=min_fused,
            dry_run=dry_run,
            limits=limits,
            progress=shown,
            **choice.arguments,
            **output.arguments,
            **feeds.arguments,
        )
    with reporting(result.written):
        if as_json:
            from graphfuse.report.document import fuse_document

            print_json(fuse_document(model, result, data_options()))
        else:
            from graphfuse.report.terminal import print_summary

            print_summary(console(), model, result)
    if result.put_back and not result.changed:
        raise GateError(
            f"all {len(result.put_back)} sites that were fused failed validation and were put "
            "back: the output, if one was asked for, is the original",
            "the report says what each of them failed: real feeds (--load-inputs) may help, and "
            "whatever is wrong with a node of graphfuse's please report",
        )


@can_isolate
@is_gated
@takes_feeds
@writes
def unfuse(
    model: ModelArgument,
    feeds: FeedOptions,
    limits: Limits,
    output: OutputOptions,
    validation: Annotated[
        str, typer.Option("--validate", help="fast, full, sites (each fused node alone) or none.")
    ] = "fast",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 6 when a fused node has to stay.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Do everything but write.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write every fused node out again in ONNX's own operators, validate, and write the result."""
    from graphfuse.unfusing import unfuse_file

    target = output.target(model, dry_run)
    with progress() as shown:
        result = unfuse_file(
            model,
            target,
            validation=validation,
            strict=strict,
            dry_run=dry_run,
            limits=limits,
            progress=shown,
            **output.arguments,
            **feeds.arguments,
        )
    with reporting(result.written):
        if as_json:
            from graphfuse.report.document import unfuse_document

            print_json(unfuse_document(model, result, data_options()))
        else:
            from graphfuse.report.terminal import print_unfused

            print_unfused(console(), model, result)


@can_isolate
@is_gated
@takes_feeds
def validate(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    fused: Annotated[str, typer.Argument(metavar="FUSED")],
    feeds: FeedOptions,
    limits: Limits,
    ep: Annotated[str, typer.Option(help="Execution providers, such as cpu,cuda.")] = "cpu",
    level: Annotated[
        str,
        typer.Option(
            "--validate", help="fast, full, sites (each fused node alone), or none with --certify."
        ),
    ] = "full",
    site: Annotated[
        list[str] | None,
        typer.Option(help="Only the fused node with this output, alone. May be repeated."),
    ] = None,
    certify: CertifyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two models with each other and with float64. Exits with 1 when a gate fails."""
    from graphfuse import pipeline

    with progress() as shown:
        report = pipeline.validate(
            original,
            fused,
            ep.split(","),
            level=level,
            sites=site or (),
            certify=certify,
            limits=limits,
            progress=shown,
            **feeds.arguments,
        )
    with reporting():
        if as_json:
            from graphfuse.report.document import validation_document

            print_json(validation_document(original, fused, report, data_options()))
        else:
            from graphfuse.report.terminal import print_checks

            repeat = shlex.join(["graphfuse", "validate", original, fused, *data_options()])
            print_checks(console(), report, repeat)
    if not report.passed:
        raise typer.Exit(1)
