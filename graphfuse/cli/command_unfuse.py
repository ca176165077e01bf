"""graphfuse unfuse."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.options import (
    Destination,
    JsonOption,
    LevelOption,
    ModelArgument,
    Repeated,
    can_isolate,
    takes_feeds,
    takes_limits,
    writes,
)
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds, Level


@can_isolate
@takes_limits
@takes_feeds
@writes
def unfuse(
    model: ModelArgument,
    feeds: Feeds,
    limits: Limits,
    output: Destination,
    level: LevelOption = Level.FAST,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 6 when a fused node has to stay.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write every fused node out again in ONNX's own operators, validate, and write the result."""
    from graphfuse.api import changing

    with progress() as shown:
        result = changing.unfuse_file(
            model,
            output.of(model),
            level=level,
            feeds=feeds,
            strict=strict,
            limits=limits,
            progress=shown,
        )
    with reporting(result.written):
        if as_json:
            from graphfuse.report.document import unfuse_document

            print_json(unfuse_document(model, result, Repeated.words(feeds)))
        else:
            from graphfuse.report.terminal import print_unfused

            print_unfused(console(), model, result)
