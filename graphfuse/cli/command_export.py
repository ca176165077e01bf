"""graphfuse export."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import Annotated

import typer

from graphfuse.cli.options import (
    Destination,
    GateOption,
    LevelOption,
    ProviderOption,
    RuntimeOption,
    StrictModeOption,
    StrictOption,
    ends,
    takes_selection,
    writes,
)
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.errors import UsageError
from graphfuse.records.requests import Level, Selection

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A program of torch.export (.pt2; it may run code), a folder of Hugging Face "
        "(config.json, safetensors), or package.module:function that returns a module and its "
        "arguments.",
    ),
]
DynamicOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Axes that are symbols, such as input_ids=batch,sequence, auto or none. May be "
        "repeated."
    ),
]
OpsetOption = Annotated[
    int | None, typer.Option(min=1, help="Version of ONNX's operators [PyTorch's own].")
]
TypeOption = Annotated[
    str | None,
    typer.Option(help="float32, float16 or bfloat16 [a folder: float32, a module: its own]."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the inputs that are drawn.")]


@writes
@takes_selection
@ends
def export(
    source: SourceArgument,
    output: Destination,
    selection: Selection,
    says: Saying,
    dynamic: DynamicOption = None,
    opset: OpsetOption = None,
    dtype: TypeOption = None,
    seed: SeedOption = 0,
    ep: ProviderOption = "cpu",
    runtime: RuntimeOption = None,
    strict_mode: StrictModeOption = False,
    level: LevelOption = Level.FAST,
    strict: StrictOption = False,
    min_fused: GateOption = 0,
) -> None:
    """Export a PyTorch model, fuse it, validate it against PyTorch itself, and write it."""
    if output.in_place:
        raise UsageError("--in-place has no model to replace", "pass -o FILE or --dry-run")
    file = output.of("")
    says.check_apart(source, output.named)
    from graphfuse.integrations.exporting import export_source
    from graphfuse.report import document, terminal

    # Reports alone go to standard output, and what libraries have to say nowhere.
    logging.disable(logging.WARNING)
    with (
        progress() as shown,
        contextlib.redirect_stdout(sys.stderr),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        result = export_source(
            source,
            file,
            dynamic=dynamic,
            dtype=dtype,
            seed=seed,
            progress=shown,
            opset=opset,
            ep=ep,
            runtime=runtime,
            strict_mode=strict_mode,
            selection=selection,
            level=level,
            strict=strict,
            min_fused=min_fused,
        )
    says.say(
        lambda: document.fuse_document(source, result, command="export"),
        lambda console: terminal.print_summary(console, source, result),
        result.written,
    )
