"""graphfuse validate."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from graphfuse.cli.options import (
    CertifyOption,
    LevelOption,
    Repeated,
    can_isolate,
    ends,
    takes_feeds,
    takes_limits,
)
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds, Level


@can_isolate
@takes_limits
@takes_feeds
@ends
def validate(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    fused: Annotated[str, typer.Argument(metavar="FUSED")],
    feeds: Feeds,
    limits: Limits,
    says: Saying,
    ep: Annotated[str, typer.Option(help="Execution providers, such as cpu,cuda.")] = "cpu",
    level: LevelOption = Level.FULL,
    site: Annotated[
        list[str] | None,
        typer.Option(help="Only the fused node with this output, alone. May be repeated."),
    ] = None,
    certify: CertifyOption = False,
) -> None:
    """Compare two models with each other and with float64. Exits with 1 when a gate fails."""
    from graphfuse.api import verdicts
    from graphfuse.report import document, terminal

    says.check_apart(original, fused)

    with progress() as shown:
        report = verdicts.validate(
            original,
            fused,
            ep,
            level=level,
            sites=site or (),
            certify=certify,
            pictures=says.wants_document,
            feeds=feeds,
            limits=limits,
            progress=shown,
        )
    words = Repeated.words(feeds)
    repeat = shlex.join(["graphfuse", "validate", original, fused, *words])
    says.say(
        lambda: document.validation_document(original, fused, report, words),
        lambda console: terminal.print_checks(console, report, repeat),
        code=0 if report.passed else 1,
    )
    if not report.passed:
        raise typer.Exit(1)
