"""Before and after everything else: the model is loaded, the result is written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import onnx

from graphfuse.errors import UsageError
from graphfuse.files import leftovers
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import Model, load, unchanged, wrap
from graphfuse.files.weights import check_output, drafted
from graphfuse.records import HashedFile, arguments
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import Output
from graphfuse.records.results import Rewritten

Result = TypeVar("Result", bound=Rewritten)
ModelLike = str | os.PathLike[str] | onnx.ModelProto


def as_model(model: ModelLike, folder: Path | None = None, limits: Limits | None = None) -> Model:
    """Load a path, or wrap a ModelProto whose external data lies in `folder`."""
    if limits is not None:
        arguments.expect("limits", limits, Limits, "give a graphfuse.Limits")
    if isinstance(model, onnx.ModelProto):
        return wrap(model, folder or Path(), limits)
    if model == "":
        raise UsageError("the path of the model is empty", "name an .onnx file")
    try:
        path = Path(model)
    except TypeError:
        raise UsageError(
            f"the model is of type {type(model).__name__}",
            "give the path of an .onnx file, or an onnx.ModelProto (onnx.load_from_string makes "
            "one of bytes, onnx_ir.to_proto of an onnx_ir.Model)",
        ) from None
    return load(path, limits)


def opened(
    model: ModelLike, output: Output | None, limits: Limits | None, progress: Progress
) -> Model:
    """The model that a file is to be made of, loaded; raises what speaks against that file."""
    if output is not None:
        # Before anything is looked at: it may take a mark off the model's own weights.
        leftovers.remove(output.path.parent)
    progress.stage("loading")
    source = as_model(model, limits=limits)
    if output is not None:
        check_output(output, source)
    return source


def write(result: Result, source: Model, output: Output, progress: Progress) -> Result:
    """Write a result atomically; byte for byte what was read when nothing changed.

    Raises ChangedError, and writes nothing, when a file of the original is not as it was.
    """
    if output.only_if_changed and not result.changed:
        return result
    progress.stage("writing")
    check_output(output, source)
    proto = result.proto if result.changed else None
    with (
        unchanged(source, at_end=False),
        drafted(proto, source, output, progress) as (draft, notes),
    ):
        written = draft.commit(source.check_same)
    return replace(result, written=written, notes=(*result.notes, *notes))


def saved(source: Model, result: Rewritten, output: Output) -> tuple[HashedFile, ...]:
    """The files of a result that was written; see records.results.Rewritten.save."""
    leftovers.remove(output.path.parent)
    return write(result, source, output, SILENT).written


def files_read(source: Model) -> tuple[HashedFile, ...]:
    """The files of the original; the hash of those that were read as a whole."""
    if source.path is None:
        return ()
    own = HashedFile(str(source.path), source.identity[2], source.digest)
    files = source.files
    data = (
        HashedFile(str(source.folder / place), files.status(place).st_size, "")
        for place in source.external_files()
    )
    return (own, *data)
