"""From what a command line names to a fused file: `graphfuse export`."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx

from graphfuse.errors import OriginalModelError, UsageError
from graphfuse.files.model_file import Model
from graphfuse.files.weights import check_output
from graphfuse.integrations.module import NotExportedError, torch_module
from graphfuse.integrations.pytorch import export
from graphfuse.integrations.sources import Exportable, opened_source
from graphfuse.integrations.symbols import (
    AUTO,
    NONE,
    as_allowed,
    chosen_symbols,
    likely_symbols,
    named_arguments,
    parse_dynamic,
)
from graphfuse.records import FuseResult
from graphfuse.records.progress import Progress
from graphfuse.records.requests import Output
from graphfuse.system import machine


def export_source(
    text: str,
    output: Output | None,
    *,
    dynamic: Sequence[str] | None,
    dtype: str | None,
    seed: int,
    progress: Progress,
    **options: Any,
) -> FuseResult:
    """Export what a text names, fused and validated; `options` are those of `graphfuse.export`.

    `dynamic` are the axes that are symbols, `auto` for those that are likely ones, `none` for none;
    without a word those of a folder are likely ones, and a function's stay numbers. Where PyTorch
    does not take a likely one, it chooses. Raises what `opened_source` and `graphfuse.export` do.
    """
    if output is not None:
        # Before PyTorch, which takes seconds to load.
        check_output(output, Model(onnx.ModelProto(), None, output.path.parent))
    progress.stage(f"opening {text}")
    source = opened_source(text, dtype, seed)
    shapes, may_choose = _shapes(source, dynamic)
    names = source.outputs
    made: dict[str, Any] = {"kwargs": source.kwargs, "output_names": names, **options}
    made["progress"] = progress
    try:
        return export(source.module, source.args, output, dynamic_shapes=shapes, **made)
    except NotExportedError as error:
        if not may_choose:
            raise
        why = error
    except OriginalModelError as error:
        if "--load-inputs" not in error.remedy:
            raise
        # Feeds are the arguments that the module was exported with.
        remedy = (
            "onnxruntime may have no kernel for that type: try --dtype float32, or another --ep"
        )
        raise OriginalModelError(error.message, remedy) from error
    program = _as_allowed(source, shapes)
    if program is None:
        # It is not for want of the right symbols: the first error says more.
        raise why
    result = export(program, source.args, output, **made)
    said = "PyTorch does not take every axis that is likely to be a symbol: it chose among them"
    return replace(result, notes=(*result.notes, f"{said} ({why.cause})"))


def _as_allowed(source: Exportable, shapes: Any) -> Any:
    """The module as a program whose symbols PyTorch has chosen; None where it has no such program.

    torch.onnx.export, given the module, writes axes as symbols that had to be numbers.
    """
    torch = torch_module()
    allowed = as_allowed(torch, shapes)
    try:
        with torch.no_grad():
            return torch.export.export(
                source.module, source.args, source.kwargs, dynamic_shapes=allowed, strict=False
            )
    except Exception as error:
        # The exporter raises anything.
        machine.check(error, "exporting the module")
        return None


def _shapes(source: Exportable, dynamic: Sequence[str] | None) -> tuple[Any, bool]:
    """Dynamic shapes as torch.export takes them, and whether PyTorch may choose among them."""
    if source.program:
        if dynamic:
            raise UsageError(
                "a program of torch.export has its own dynamic shapes",
                "leave --dynamic out, or say them to torch.export.export",
            )
        return None, False
    words = list(dynamic or ([AUTO] if source.is_folder else [NONE]))
    if len(words) > 1 and {AUTO, NONE} & set(words):
        raise UsageError("--dynamic auto and none go alone", "name axes, or leave them out")
    # Also where no axis is a symbol: what does not fit is no fault of the exporter.
    arguments = named_arguments(source.module, source.args or (), source.kwargs)
    if words == [NONE]:
        return None, False
    torch = torch_module()
    if words == [AUTO]:
        return likely_symbols(torch, arguments), True
    return chosen_symbols(torch, arguments, parse_dynamic(words)), False
