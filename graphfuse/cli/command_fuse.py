"""graphfuse fuse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphfuse.cli.fusing_folders import fuse_all
from graphfuse.cli.options import (
    CertifyOption,
    Destination,
    GateOption,
    LevelOption,
    ProviderOption,
    Repeated,
    RuntimeOption,
    StrictModeOption,
    StrictOption,
    can_isolate,
    ends,
    takes_feeds,
    takes_limits,
    takes_selection,
    writes,
)
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.errors import GateError, UsageError
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Feeds, Level, Selection


@can_isolate
@takes_limits
@takes_feeds
@writes
@takes_selection
@ends
def fuse(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An ONNX file, or the folder of an export.")
    ],
    feeds: Feeds,
    limits: Limits,
    output: Destination,
    selection: Selection,
    says: Saying,
    ep: ProviderOption = "cpu",
    runtime: RuntimeOption = None,
    strict_mode: StrictModeOption = False,
    level: LevelOption = Level.FAST,
    strict: StrictOption = False,
    certify: CertifyOption = False,
    min_fused: GateOption = 0,
    genai: Annotated[
        bool,
        typer.Option("--genai", help="genai_config.json names the fused file, and the kernels."),
    ] = False,
) -> None:
    """Fuse every site of a model, or of each model in a folder, validate it, and write it."""
    options: dict[str, Any] = {
        "ep": ep,
        "runtime": runtime,
        "strict_mode": strict_mode,
        "selection": selection,
        "level": level,
        "feeds": feeds,
        "strict": strict,
        "certify": certify,
        "min_fused": min_fused,
        "limits": limits,
    }
    says.check_apart(model, output.named)
    if Path(model).is_dir():
        fuse_all(model, output, options, genai, says)
        return
    if genai:
        raise UsageError("--genai is for a folder", "name the one that has genai_config.json")
    _fuse_one(model, output, options, says)


def _fuse_one(model: str, output: Destination, options: dict[str, Any], says: Saying) -> None:
    """Fuse a single file as `options` say, and show what came of it."""
    from graphfuse.api import changing
    from graphfuse.records import FuseResult
    from graphfuse.report import document, terminal
    from graphfuse.steps.fusing import all_put_back

    with progress() as shown:
        try:
            result = changing.optimize(model, output.of(model), **options, progress=shown)
            missed = all_put_back(result)
        except GateError as error:
            if not says.wants_document or not isinstance(error.result, FuseResult):
                raise
            # The report says what was fused, and why the rest was not.
            result, missed = error.result, error
    says.say(
        lambda: document.fuse_document(model, result, Repeated.words(options["feeds"])),
        lambda console: terminal.print_summary(console, model, result),
        result.written,
        missed,
    )
    if missed is not None:
        raise missed
