"""The function for a folder of models, such as an export of Hugging Face's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from graphfuse.errors import ModelError, UsageError
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import Model
from graphfuse.planning import runtimes, targets
from graphfuse.records import arguments
from graphfuse.records.folder_results import FolderResult
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import (
    DRAWN,
    EVERY_SITE,
    AnyFeeds,
    AnyOutput,
    Feeds,
    Level,
    Selection,
    chosen,
    feeds_of,
    output_of,
)
from graphfuse.steps.folders import EachModel, FolderFusing
from graphfuse.steps.fusing import Fusing
from graphfuse.steps.judging import Asked
from graphfuse.system import libraries


def fuse_folder(
    folder: str | os.PathLike[str],
    output: AnyOutput | None,
    ep: str | Sequence[str] = "cpu",
    *,
    runtime: str | None = None,
    strict_mode: bool = False,
    selection: Selection = EVERY_SITE,
    level: Level | str = Level.FAST,
    feeds: AnyFeeds = DRAWN,
    strict: bool = False,
    certify: bool = False,
    min_fused: int = 0,
    genai: bool = False,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> FolderResult:
    """Fuse every ONNX model of a folder, as `optimize` does one: an export with all its files.

    NAME.onnx becomes NAME_graphfuse.onnx, in subfolders as well, but for hidden files and models
    that are named so already. A model that fails is told of and does not stop the others.

    Args:
        folder: The folder of the models, with configurations, tokenizers and whatever else.
        output: Another folder, which gets the fused models and all other files, but for the
            original models and their weights, in one rename when it is complete. With `force` it
            replaces one that has no other files. Output(folder, in_place=True) writes each fused
            model beside its original; None writes nothing.
        ep: As for `fuse`.
        runtime: As for `fuse`; the installed onnxruntime validates.
        strict_mode: As for `fuse`.
        selection: In which form sites are fused; `include` and `exclude` are for a single model.
        level: How much is validated of each: fast, full, sites or none (`Level`).
        feeds: What the models are run on. Shapes, symbols and ranges go to the models that have
            these inputs; arrays are for a single model.
        strict: Whether a site that fails is an error of its model, instead of being put back.
        certify: Whether each fused node needs a certificate of `validate` as well.
        min_fused: How many sites have to be fused in all models together.
        genai: Whether genai_config.json (onnxruntime-genai) is to name the fused files, and
            graphfuse's kernels, which are copied into the folder.
        limits: The budgets of what is admitted; None for those of `Limits()`.
        progress: Is told of each stage.

    Returns:
        What came of each model, with its own error if it has one, and the files that came along.
        Its `exit_code` is that of the worst. Where every model failed, nothing is written.

    Raises:
        UsageError: For a folder to write that is, holds or lies in `folder`, that is not empty
            without `force`, and for other wrong arguments.
        ModelError: For a folder that cannot be read or has no model.
        GateError: When fewer than `min_fused` sites were fused; nothing is written.
        WriteError: When the folder cannot be written; what was there still is.
        ProviderError: With `genai`, when the kernels were not built.

    Example:
        >>> result = graphfuse.fuse_folder("models", "fused-models", runtime="1.32")
        >>> [(model.name, model.fused, model.exit_code) for model in result.models]
        [('bert.onnx', 5, 0), ('gpt2.onnx', 5, 0)]
        >>> [file.path for file in result.written]
        ['fused-models/bert_graphfuse.onnx', 'fused-models/gpt2_graphfuse.onnx']
    """
    place = _folder(folder)
    level, feeds = chosen(Level, level, "level"), feeds_of(feeds)
    file = None if output is None else output_of(output)
    if file is not None and file.in_place and file.path.resolve() != place.resolve():
        raise UsageError(
            f"{file.path} is not the folder {place}, so nothing is in place there",
            "leave --in-place out",
        )
    arguments.flag("strict", strict)
    arguments.flag("genai", genai)
    arguments.count("min_fused", min_fused)
    if limits is not None:
        arguments.expect("limits", limits, Limits, "give a graphfuse.Limits")
    if certify:
        libraries.mpmath()
    target, known = targets.target(ep), runtimes.runtime(runtime)

    def make(model: Model, feeds: Feeds, told: Progress) -> Fusing:
        return Fusing(model, target, selection, known, strict_mode, feeds, told)

    arguments.expect("selection", selection, Selection, "give a graphfuse.Selection")
    arguments.flag("strict_mode", strict_mode)
    arguments.told(progress)
    asked = Asked(level, certify=certify)
    wanted = EachModel(
        make, target, selection, feeds, asked, strict, min_fused, limits or Limits(), genai
    )
    return FolderFusing(place, file, wanted, progress).run()


def _folder(folder: str | os.PathLike[str]) -> Path:
    arguments.expect("the folder", folder, (str, os.PathLike), "name a folder by its path")
    if not str(folder):
        raise UsageError("the path of the folder is empty", "name a folder with .onnx files")
    path = Path(folder)
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise ModelError(f"{path} {what}", "name a folder with .onnx files")
    return path
