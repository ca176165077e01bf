"""The JSON document of a folder of models: one of each, and what is of all."""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.records.folder_results import FolderModel, FolderResult
from graphfuse.report.document import file_document, fuse_document
from graphfuse.report.head import Document, ended, head


def fuse_folder_document(result: FolderResult, options: Sequence[str] = ()) -> Document:
    """What `graphfuse fuse FOLDER` did; `options` are those that name the user's feeds."""
    return {
        **head("fuse-folder"),
        "folder": result.folder,
        "output": result.output or None,
        "models": [_model(model, options) for model in result.models],
        "copied": [file_document(file) for file in result.copied],
        "notes": list(result.notes),
    }


def _model(model: FolderModel, options: Sequence[str]) -> Document:
    """The document of one model; of one that failed, how it ended."""
    document = {**head("fuse"), "model": model.path}
    if model.result is not None:
        document = fuse_document(model.path, model.result, options)
    return {"name": model.name, **ended(document, model.error)}
