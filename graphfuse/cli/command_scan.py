"""graphfuse scan."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.options import (
    ModelArgument,
    can_isolate,
    ends,
    takes_feeds,
    takes_limits,
)
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.errors import UsageError
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds


@can_isolate
@takes_limits
@takes_feeds
@ends
def scan(
    model: ModelArgument,
    feeds: Feeds,
    limits: Limits,
    says: Saying,
    activations: Annotated[
        bool,
        typer.Option(
            "--activations", help="Run the model on the feeds: how large its residual stream gets."
        ),
    ] = False,
    every: Annotated[
        bool,
        typer.Option("--all", help="On a terminal too, show sites that are alike one by one."),
    ] = False,
) -> None:
    """List the sites of a model, and what is not fused and why."""
    from graphfuse.api import looking
    from graphfuse.planning import advice, runtimes
    from graphfuse.report import document
    from graphfuse.report.activations import print_readings
    from graphfuse.report.scan_view import print_scan

    if not activations and feeds.given:
        raise UsageError("feeds are given, and nothing is run", "pass --activations as well")
    says.check_apart(model)
    with progress() as shown:
        shown.stage("scanning")
        found = looking.scan(model, pictures=says.wants_document, limits=limits)
    right = [*found.notes, *advice.of_scan(found)]
    notes = advice.of_sites(found.sites, runtimes.runtime()) + right
    readings = None
    if activations:
        with progress() as shown:
            readings = looking.activations(model, feeds=feeds, limits=limits, progress=shown)
    says.say(
        lambda: document.scan_document(model, found, readings, notes),
        lambda console: (
            print_scan(console, found, notes, every)
            if readings is None
            else print_readings(console, readings, found.already_fused, right, every)
        ),
    )
