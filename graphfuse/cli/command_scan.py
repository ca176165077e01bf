"""graphfuse scan."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.options import (
    JsonOption,
    ModelArgument,
    can_isolate,
    takes_feeds,
    takes_limits,
)
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
from graphfuse.errors import UsageError
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds


@can_isolate
@takes_limits
@takes_feeds
def scan(
    model: ModelArgument,
    feeds: Feeds,
    limits: Limits,
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
    as_json: JsonOption = False,
) -> None:
    """List the sites of a model, and what is not fused and why."""
    from graphfuse.api import looking
    from graphfuse.planning import advice, runtimes

    if not activations and feeds.given:
        raise UsageError("feeds are given, and nothing is run", "pass --activations as well")
    with progress() as shown:
        shown.stage("scanning")
        found = looking.scan(model, limits=limits)
    right = [*found.notes, *advice.of_scan(found)]
    notes = advice.of_sites(found.sites, runtimes.runtime()) + right
    readings = None
    if activations:
        with progress() as shown:
            readings = looking.activations(model, feeds=feeds, limits=limits, progress=shown)
    with reporting():
        if as_json:
            from graphfuse.report.document import scan_document

            print_json(scan_document(model, found, readings, notes))
        elif readings is None:
            from graphfuse.report.scan_view import print_scan

            print_scan(console(), found, notes, every)
        else:
            from graphfuse.report.activations import print_readings

            print_readings(console(), readings, found.already_fused, right, every)
