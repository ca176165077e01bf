"""graphfuse unfuse."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.options import (
    Destination,
    LevelOption,
    ModelArgument,
    Repeated,
    can_isolate,
    ends,
    takes_feeds,
    takes_limits,
    writes,
)
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds, Level


@can_isolate
@takes_limits
@takes_feeds
@writes
@ends
def unfuse(
    model: ModelArgument,
    feeds: Feeds,
    limits: Limits,
    output: Destination,
    says: Saying,
    level: LevelOption = Level.FAST,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 6 when a fused node has to stay.")
    ] = False,
) -> None:
    """Write every fused node out again in ONNX's own operators, validate, and write the result."""
    from graphfuse.api import changing
    from graphfuse.report import document, terminal

    says.check_apart(model, output.named)

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
    says.say(
        lambda: document.unfuse_document(model, result, Repeated.words(feeds)),
        lambda console: terminal.print_unfused(console, model, result),
        result.written,
    )
