"""graphfuse fuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from graphfuse.cli.options import (
    CertifyOption,
    Destination,
    LevelOption,
    ModelArgument,
    Repeated,
    can_isolate,
    ends,
    takes_feeds,
    takes_limits,
    takes_selection,
    writes,
)
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.errors import GateError
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds, Level, Selection

if TYPE_CHECKING:
    from graphfuse.records import FuseResult


@can_isolate
@takes_limits
@takes_feeds
@writes
@takes_selection
@ends
def fuse(
    model: ModelArgument,
    feeds: Feeds,
    limits: Limits,
    output: Destination,
    selection: Selection,
    says: Saying,
    ep: Annotated[
        str, typer.Option(help="cpu, cuda, portable, auto, or several: one file for cpu,cuda.")
    ] = "cpu",
    runtime: Annotated[
        str | None,
        typer.Option(help="The onnxruntime that will run it, such as 1.29 [the installed one]."),
    ] = None,
    strict_mode: Annotated[
        bool,
        typer.Option(
            "--strict-mode",
            help="CUDA sessions will have enable_skip_layer_norm_strict_mode: float16 before 1.27.",
        ),
    ] = False,
    level: LevelOption = Level.FAST,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when a site does, instead of putting it back.")
    ] = False,
    certify: CertifyOption = False,
    min_fused: Annotated[
        int, typer.Option(min=0, help="Exit with 6 and write nothing when fewer sites are fused.")
    ] = 0,
) -> None:
    """Fuse every site of a model, validate the result, and write it."""
    from graphfuse.api import changing
    from graphfuse.records import FuseResult
    from graphfuse.report import document, terminal

    says.check_apart(model, output.named)
    with progress() as shown:
        try:
            result = changing.optimize(
                model,
                output.of(model),
                ep,
                runtime=runtime,
                strict_mode=strict_mode,
                selection=selection,
                level=level,
                feeds=feeds,
                strict=strict,
                certify=certify,
                min_fused=min_fused,
                limits=limits,
                progress=shown,
            )
            missed = _missed(result)
        except GateError as error:
            if not says.wants_document or not isinstance(error.result, FuseResult):
                raise
            # The report says what was fused, and why the rest was not.
            result, missed = error.result, error
    says.say(
        lambda: document.fuse_document(model, result, Repeated.words(feeds)),
        lambda console: terminal.print_summary(console, model, result),
        result.written,
        missed,
    )
    if missed is not None:
        raise missed


def _missed(result: FuseResult) -> GateError | None:
    if result.changed or not result.put_back:
        return None
    return GateError(
        f"all {len(result.put_back)} sites that were fused failed validation and were put back: "
        "the output, if one was asked for, is the original",
        "the report says what each of them failed: real feeds (--load-inputs) may help, and "
        "whatever is wrong with a node of graphfuse's please report",
    )
