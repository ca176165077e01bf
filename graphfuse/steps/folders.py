"""The models of an export, one after the other, and the folder that they are written to.

A model that fails is told of and does not stop the others. Written beside their originals, models
get their names one by one; a folder of their own gets its name when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from graphfuse.errors import GateError, GraphfuseError, UsageError
from graphfuse.files import exports, leftovers
from graphfuse.files.exports import Listing
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import Model, unchanged
from graphfuse.files.weights import check_output
from graphfuse.planning.targets import Target
from graphfuse.records import FuseResult, HashedFile
from graphfuse.records.folder_results import FolderModel, FolderResult
from graphfuse.records.progress import Progress, tell_part
from graphfuse.records.requests import Feeds, Output, Selection, Weights
from graphfuse.running.caches import symbols_of
from graphfuse.steps.fusing import Fusing, all_put_back
from graphfuse.steps.genai import GenaiConfig
from graphfuse.steps.judging import Asked
from graphfuse.steps.opening import as_model, write
from graphfuse.system import machine
from graphfuse.types.shapes import type_of

Found = TypeVar("Found")


@dataclass(frozen=True)
class EachModel:
    """What is wanted of each model; `make` gives the stage that fuses it."""

    make: Callable[[Model, Feeds, Progress], Fusing]
    target: Target
    selection: Selection
    feeds: Feeds
    asked: Asked
    strict: bool
    min_fused: int
    limits: Limits
    genai: bool


@dataclass(frozen=True)
class Stages:
    """Tells of each stage which model it is about."""

    name: str
    progress: Progress

    def stage(self, name: str) -> None:
        """A stage of this model begins."""
        self.progress.stage(f"{self.name}: {name}")

    def portion(self, what: str, done: int, total: int) -> None:
        """So much of a file is written."""
        self.progress.portion(what, done, total)

    def part(self, done: float, total: float) -> None:
        """So many pieces of the stage are done."""
        tell_part(self.progress, done, total)


@dataclass(frozen=True)
class Known:
    """What is known of a model before anything is done: its inputs, their symbols, its weights."""

    inputs: frozenset[str] = frozenset()
    symbols: frozenset[str] = frozenset()
    weights: tuple[str, ...] = ()
    error: GraphfuseError | None = None


@dataclass
class FolderFusing:
    """One folder of models on its way to fused ones; `output` is None where none is written."""

    folder: Path
    output: Output | None
    wanted: EachModel
    progress: Progress

    def run(self) -> FolderResult:
        """Fuse every model, and write those that did not fail.

        Raises what speaks against the call: before any model is looked at, and GateError when
        fewer than `min_fused` sites of all models together are fused.
        """
        _ = self.listing
        if self.output is not None and not self.output.in_place:
            exports.check_folder(self.output, self.folder)
            leftovers.remove(self.output.path.parent)
            if self.output.weights == Weights.KEEP:
                raise UsageError(
                    "weights can be kept in the models' own folder only", "pass --in-place"
                )
        self._check()
        if self.output is None or self.output.in_place:
            return self._beside()
        return self._elsewhere(self.output)

    @cached_property
    def listing(self) -> Listing:
        """What the folder has."""
        return exports.listed(self.folder, self.wanted.limits.allow_links)

    @cached_property
    def known(self) -> dict[str, Known]:
        """Each model as it was read first, by its name."""
        return {name: self._look(name) for name in self.listing.models}

    @cached_property
    def genai(self) -> GenaiConfig | None:
        """The configuration of onnxruntime-genai, where that is asked for."""
        return GenaiConfig.read(self.folder, self.wanted.target) if self.wanted.genai else None

    def _look(self, name: str) -> Known:
        self.progress.stage(f"{name}: looking")
        in_place = self.output is not None and self.output.in_place
        if in_place:
            leftovers.remove((self.folder / name).parent)
        try:
            model = as_model(self.folder / name, limits=self.wanted.limits)
        except GraphfuseError as error:
            return Known(error=error)
        if in_place:
            check_output(self._output(name, self.folder), model)
        values = model.proto.graph.input
        dims = (dim for value in values for dim in type_of(value.type).shape or ())
        texts = [dim for dim in dims if isinstance(dim, str)]
        place = Path(name).parent
        return Known(
            frozenset(value.name for value in values),
            frozenset(texts).union(*map(symbols_of, texts)),
            tuple((place / each).as_posix() for each in model.external_files()),
        )

    def _check(self) -> None:
        """Refuse what is said of one model where there are several, and names that none has."""
        names, feeds, selection = self.listing.models, self.wanted.feeds, self.wanted.selection
        several = f"the folder {self.folder} has {len(names)} models"
        if len(names) > 1 and feeds.inputs is not None:
            raise UsageError(
                f"{several}, and feeds (--load-inputs) are those of one",
                "leave them out, or fuse that model's file alone",
            )
        if len(names) > 1 and (selection.include or selection.exclude):
            raise UsageError(
                f"{several}, and --include and --exclude name sites of one",
                "leave them out, or fuse that model's file alone",
            )
        _ = self.genai
        inputs = frozenset[str]().union(*(each.inputs for each in self.known.values()))
        symbols = frozenset[str]().union(*(each.symbols for each in self.known.values()))
        asked = {*feeds.input_shapes, *filter(None, feeds.val_range)}
        if any(each.error for each in self.known.values()):
            # What cannot be read may have any name.
            return
        for kind, unknown in (("input", asked - inputs), ("symbol", {*feeds.symbols} - symbols)):
            if unknown:
                known = sorted(inputs if kind == "input" else symbols)
                raise UsageError(
                    f"no model of {self.folder} has the {kind} {min(unknown)!r}",
                    f"they have {', '.join(known) or 'none'}",
                )

    def _feeds(self, known: Known) -> Feeds:
        """What of the feeds is about this model."""
        feeds = self.wanted.feeds
        return replace(
            feeds,
            input_shapes={n: s for n, s in feeds.input_shapes.items() if n in known.inputs},
            symbols={n: s for n, s in feeds.symbols.items() if n in known.symbols},
            val_range={n: r for n, r in feeds.val_range.items() if not n or n in known.inputs},
        )

    def _output(self, name: str, folder: Path) -> Output:
        """The file of a fused model; `folder` is where it is made."""
        assert self.output is not None
        return Output(
            folder / exports.fused_name(name),
            weights=self.output.weights,
            force=self.output.force and self.output.in_place,
            only_if_changed=self.output.only_if_changed and self.output.in_place,
        )

    def _fused(self, name: str) -> tuple[FolderModel, Model | None]:
        """A model fused and judged; and that model as it was read, None when it failed."""
        path, progress = self.folder / name, Stages(name, self.progress)
        known, wanted = self.known[name], self.wanted
        made = FolderModel(name=name, path=str(path), error=known.error)
        if made.error is not None:
            return made, None

        def fuse() -> tuple[FuseResult, Model]:
            progress.stage("loading")
            source = as_model(path, limits=wanted.limits)
            fusing = wanted.make(source, self._feeds(known), progress)
            with unchanged(source):
                return fusing.accepted(wanted.asked, wanted.strict, 0), source

        found = _attempted(fuse, f"fusing {name}")
        if isinstance(found, GraphfuseError):
            return replace(made, error=found), None
        result, source = found
        return replace(made, result=result, error=all_put_back(result)), source

    def _write(self, made: FolderModel, source: Model, folder: Path) -> FolderModel:
        result, progress = made.result, Stages(made.name, self.progress)
        assert result is not None
        output = self._output(made.name, folder)
        found = _attempted(lambda: write(result, source, output, progress), "writing")
        if isinstance(found, GraphfuseError):
            return replace(made, result=None, error=found)
        return replace(made, result=found)

    def _all(self, folder: Path | None) -> tuple[FolderModel, ...]:
        """Every model, written to a folder if one is given.

        Where a number of fused sites is asked for, none is written before that is known.
        """
        made: list[FolderModel] = []
        later: list[tuple[FolderModel, Model | None]] = []
        for name in self.listing.models:
            model, source = self._fused(name)
            if self.wanted.min_fused:
                later.append((model, source))
            elif folder is None or source is None:
                made.append(model)
            else:
                made.append(self._write(model, source, folder))
        if later:
            self._check_fused([model for model, _ in later])
        for model, source in later:
            made.append(
                model if folder is None or source is None else self._write(model, source, folder)
            )
        return tuple(made)

    def _check_fused(self, models: list[FolderModel]) -> None:
        result = FolderResult(folder=str(self.folder), output="", models=tuple(models))
        if result.fused < self.wanted.min_fused:
            missed = GateError(
                f"{result.fused} of {self.wanted.min_fused} sites were fused that --min-fused asks "
                f"for of all {len(models)} models of {self.folder}",
                "nothing was written; `graphfuse scan` says of each model what is left, and why",
            )
            missed.result = result
            raise missed

    def _beside(self) -> FolderResult:
        folder = None if self.output is None else self.folder
        models = self._all(folder)
        any_written = folder is not None and any(model.written for model in models)
        files, said = self._genai(self.folder, models, True) if any_written else ((), ())
        return FolderResult(
            folder=str(self.folder),
            output=str(folder) if any_written else "",
            models=models,
            copied=files,
            notes=(*self.listing.notes, *said),
        )

    def _elsewhere(self, output: Output) -> FolderResult:
        with leftovers.scratch(output.path) as scratch:
            made = scratch / "new"
            along = self._along()
            with exports.written(output.path):
                exports.make_folders(made, self.folder, (*self.listing.models, *along))
            try:
                models = self._all(made)
                for error in (model.error for model in models if model.error):
                    exports.told_of(error, made, output.path)
                why = self._nothing(models)
                if why:
                    return FolderResult(
                        folder=str(self.folder),
                        output="",
                        models=tuple(_unwritten(model) for model in models),
                        notes=(*self.listing.notes, why),
                    )
                self.progress.stage("copying the other files")
                files = [exports.copy_file(self.folder / name, made / name) for name in along]
                added, said = self._genai(made, models, False)
                exports.place_folder(made, output.path, output.force)
            except GraphfuseError as error:
                exports.told_of(error, made, output.path)
                raise
        kept = {file.path: file for file in (*files, *added)}
        return FolderResult(
            folder=str(self.folder),
            output=str(output.path),
            models=tuple(_at(model, made, output.path) for model in models),
            copied=tuple(_moved(file, made, output.path) for file in kept.values()),
            notes=(*self.listing.notes, *said),
        )

    def _along(self) -> tuple[str, ...]:
        before = (self._look(name) for name in self.listing.fused)
        known = (*self.known.values(), *before)
        return self.listing.along(place for each in known for place in each.weights)

    def _nothing(self, models: tuple[FolderModel, ...]) -> str:
        """Why no folder is to be written; an empty text where one is."""
        assert self.output is not None
        if not any(model.written for model in models):
            return "every model failed: nothing was written"
        changed = any(model.result and model.result.changed for model in models)
        if self.output.only_if_changed and not changed:
            return "nothing was rewritten: nothing was written (--only-if-changed)"
        return ""

    def _genai(
        self, folder: Path, models: tuple[FolderModel, ...], in_place: bool
    ) -> tuple[tuple[HashedFile, ...], tuple[str, ...]]:
        """What onnxruntime-genai needs beside the fused models; else what is to be said of it."""
        names = [model.name for model in models if model.written]
        if self.genai is None:
            return (), GenaiConfig.advice(self.folder, folder, names)
        config = self.genai.naming({name: exports.fused_name(name) for name in names})
        return config.write(folder, in_place), config.notes


def _attempted(work: Callable[[], Found], doing: str) -> Found | GraphfuseError:
    """What comes of work on one model, or the error that it ends with."""
    try:
        try:
            return work()
        except Exception as error:
            # Memory, threads and files may give out for one model, and be there for the next.
            machine.check(error, doing)
            raise
    except GraphfuseError as error:
        error.__traceback__ = None
        return error


def _moved(file: HashedFile, made: Path, target: Path) -> HashedFile:
    return replace(file, path=str(target / os.path.relpath(file.path, made)))


def _at(model: FolderModel, made: Path, target: Path) -> FolderModel:
    """A model whose files are in the folder that has its name by now."""
    result = model.result
    if result is None:
        return model
    files = tuple(_moved(file, made, target) for file in result.written)
    notes = tuple(note.replace(str(made), str(target)) for note in result.notes)
    return replace(model, result=replace(result, written=files, notes=notes))


def _unwritten(model: FolderModel) -> FolderModel:
    result = model.result
    return model if result is None else replace(model, result=replace(result, written=()))
