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
    JsonOption,
    LevelOption,
    takes_selection,
    writes,
)
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
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
ProviderOption = Annotated[
    str, typer.Option(help="cpu, cuda, portable, auto, or several: one file for cpu,cuda.")
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(help="The onnxruntime that will run it, such as 1.29 [the installed one]."),
]
StrictModeOption = Annotated[
    bool,
    typer.Option(
        "--strict-mode",
        help="CUDA sessions will have enable_skip_layer_norm_strict_mode: float16 before 1.27.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Fail when a site does, instead of putting it back.")
]
GateOption = Annotated[
    int, typer.Option(min=0, help="Exit with 6 and write nothing when fewer sites are fused.")
]


@writes
@takes_selection
def export(
    source: SourceArgument,
    output: Destination,
    selection: Selection,
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
    as_json: JsonOption = False,
) -> None:
    """Export a PyTorch model, fuse it, validate it against PyTorch itself, and write it."""
    if output.in_place:
        raise UsageError("--in-place has no model to replace", "pass -o FILE or --dry-run")
    file = output.of("")
    from graphfuse.integrations.exporting import export_source

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
    with reporting(result.written):
        if as_json:
            from graphfuse.report.document import fuse_document

            print_json(fuse_document(source, result, command="export"))
        else:
            from graphfuse.report.terminal import print_summary

            print_summary(console(), source, result)
