"""graphfuse validate."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from graphfuse.cli.options import (
    CertifyOption,
    JsonOption,
    LevelOption,
    Repeated,
    can_isolate,
    takes_feeds,
    takes_limits,
)
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds, Level


@can_isolate
@takes_limits
@takes_feeds
def validate(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    fused: Annotated[str, typer.Argument(metavar="FUSED")],
    feeds: Feeds,
    limits: Limits,
    ep: Annotated[str, typer.Option(help="Execution providers, such as cpu,cuda.")] = "cpu",
    level: LevelOption = Level.FULL,
    site: Annotated[
        list[str] | None,
        typer.Option(help="Only the fused node with this output, alone. May be repeated."),
    ] = None,
    certify: CertifyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two models with each other and with float64. Exits with 1 when a gate fails."""
    from graphfuse.api import verdicts

    with progress() as shown:
        report = verdicts.validate(
            original,
            fused,
            ep,
            level=level,
            sites=site or (),
            certify=certify,
            feeds=feeds,
            limits=limits,
            progress=shown,
        )
    with reporting():
        if as_json:
            from graphfuse.report.document import validation_document

            document = validation_document(original, fused, report, Repeated.words(feeds))
            print_json(document, code=0 if report.passed else 1)
        else:
            from graphfuse.report.terminal import print_checks

            repeat = shlex.join(["graphfuse", "validate", original, fused, *Repeated.words(feeds)])
            print_checks(console(), report, repeat)
    if not report.passed:
        raise typer.Exit(1)
