"""Which models there are: in folders, by patterns, or in a manifest."""

from __future__ import annotations

import glob
import json
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, cast

from graphfuse.batches.places import Kind, Place, is_url, joined, parent, place_of, plain
from graphfuse.errors import ModelError, UsageError
from graphfuse.files.exports import ENDING, FUSED_MARK
from graphfuse.records.batch_rows import Task

EXPORTS = ("config.json", "model_index.json", "genai_config.json", "modules.json")
"""What makes a folder an export of Hugging Face, which is one unit."""

MANIFESTS = (".jsonl", ".ndjson")
NEGATED = "no-"
"""What an option's name begins with that is turned off."""
LAST_OF_ALL = "\U0010ffff"
"""What comes after all names that begin alike."""
LINE_FIELDS = ("path", "output", "ep", "options")


@dataclass(frozen=True)
class Unit:
    """A model or an export, what its result is called in the destination, and its bytes."""

    path: str
    name: str
    words: tuple[str, ...] = ()
    output: str = ""
    size: int = 0


def tasks_of(sources: Sequence[str], destination: str, words: Sequence[str]) -> list[Task]:
    """A task for each model of some folders, patterns, files and manifests, by path or URL.

    Options of a manifest's line come behind `words`, those of all, and so before them. What lies in
    the destination is no source. Raises UsageError for two results of one name and for a wrong
    manifest, ModelError for what names nothing.
    """
    found = [
        Task(
            unit.path,
            unit.output or joined(destination, unit.name),
            (*words, *unit.words),
            unit.size,
        )
        for source in sources
        for unit in _units(plain(source))
        # What was named as a source itself is one, wherever it is.
        if unit.output or unit.path == plain(source) or not _is_below(unit.path, destination)
    ]
    places: dict[str, Task] = {}
    for task in found:
        place = task.output if is_url(task.output) else os.path.normpath(task.output)
        if place in places and places[place].source != task.source:
            raise UsageError(
                f"{places[place].source} and {task.source} would both become {task.output}",
                "name their folders one by one, each with a destination, or give outputs in a "
                "manifest",
            )
        places[place] = task
    return list(places.values())


def _is_below(path: str, folder: str) -> bool:
    """Whether a path or URL is in a folder: a run's results are not the next one's sources."""
    if is_url(path) or is_url(folder):
        return path.startswith(f"{folder.rstrip('/')}/")
    return Path(path).absolute().is_relative_to(Path(folder).absolute())


def _units(source: str) -> Iterator[Unit]:
    place = place_of(source)
    kind = place.kind(source)
    if kind == Kind.FILE and source.endswith(MANIFESTS):
        yield from _manifest(place, source)
    elif kind == Kind.FOLDER:
        yield from _in_folder(place, source)
    elif kind == Kind.FILE:
        yield _one(place, source, PurePosixPath(source).name)
    else:
        yield from _by_pattern(place, source)


def _by_pattern(place: Place, pattern: str) -> Iterator[Unit]:
    names = place.matches(pattern) if glob.has_magic(pattern) else ()
    if not names:
        what = "matches nothing" if glob.has_magic(pattern) else "does not exist"
        raise ModelError(
            f"{pattern} {what}", "name a folder, an .onnx file, a pattern or a .jsonl manifest"
        )
    # Names below the folder that the pattern begins in are kept.
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base = "/".join(parts[:fixed])
    for path in names:
        name = path.removeprefix(f"{base}/") if base else path
        if place.kind(path) == Kind.FOLDER:
            for unit in _in_folder(place, path):
                is_whole = unit.path == path
                yield replace(unit, name=name if is_whole else f"{name}/{unit.name}")
        elif path.endswith(ENDING):
            yield _one(place, path, name)


def _one(place: Place, path: str, name: str) -> Unit:
    """A model that was named itself, with what lies beside it by its name."""
    if is_url(path):
        return Unit(path, name, size=max(0, place.stamp(path).size))
    here = Path(path)
    files = (file for file in here.parent.glob(f"{glob.escape(here.name)}*") if file.is_file())
    return Unit(path, name, size=sum(file.stat().st_size for file in files))


def _in_folder(place: Place, folder: str) -> Iterator[Unit]:
    """The exports and models of a folder: what lies in an export is part of it."""
    sizes = place.sizes(folder)
    onnx = [name for name in sizes if name.endswith(ENDING)]
    marked = {next(_around(name)) for name in sizes if PurePosixPath(name).name in EXPORTS}
    exports = marked & {around for name in onnx for around in _around(name)}
    # One in another is a part of it.
    whole = {each for each in exports if not each or exports.isdisjoint(_around(each))}
    models = [
        name
        for name in onnx
        if not name.endswith(FUSED_MARK + ENDING) and whole.isdisjoint(_around(name))
    ]
    if not models and not whole:
        raise ModelError(
            f"the folder {folder} has no ONNX model", "name one that has, or an .onnx file"
        )
    names = sorted(sizes)
    ends = [0, *accumulate(sizes[name] for name in names)]
    for name in sorted((*whole, *models)):
        begin = f"{name}/" if name and name in whole else name
        first, after = bisect_left(names, begin), bisect_left(names, f"{begin}{LAST_OF_ALL}")
        path = joined(folder, name) if name else folder
        yield Unit(path, name or _last(folder), size=ends[after] - ends[first])


def _around(name: str) -> Iterator[str]:
    """The folders that a name is in, the innermost first; the one that is listed is empty."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _last(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2] if is_url(folder) else Path(folder).name


def _manifest(place: Place, path: str) -> Iterator[Unit]:
    """A model for each line: {"path": ..., "output": ..., "ep": ..., "options": {...}}."""
    try:
        lines = place.read(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read ({error})", "give a text file of JSON") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _line(path, number, line)


def _line(path: str, number: int, line: str) -> Unit:
    where = f"line {number} of {path}"
    remedy = 'write {"path": "model.onnx", "output": "fused.onnx", "ep": "cpu", "options": {}}'
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON ({error})", remedy) from error
    given = cast("Mapping[str, Any]", found if isinstance(found, dict) else {})
    if not isinstance(given.get("path"), str):
        raise UsageError(f"{where} has no path", remedy)
    unknown = sorted(given.keys() - {*LINE_FIELDS})
    if unknown:
        raise UsageError(f"{where} has the unknown field {unknown[0]!r}", remedy)
    output = given.get("output", "")
    options = dict(given.get("options") or {})
    if "ep" in given:
        options["ep"] = given["ep"]
    if not isinstance(output, str):
        raise UsageError(f"{where} has an output that is no text", remedy)
    model = _from(path, given["path"])
    size = _one(place_of(model), model, "").size
    words = words_of(options, where)
    return Unit(model, _last(model), words, _from(path, output) if output else "", size)


def _from(manifest: str, name: str) -> str:
    """A path of a manifest, from the manifest's own folder unless it is whole."""
    return name if is_url(name) else joined(parent(manifest), plain(name))


def words_of(options: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Options as a command line has them: true is a flag, a list repeats its option.

    Raises UsageError for a value that is none.
    """
    found: list[str] = []
    for name, value in options.items():
        word = f"--{name.replace('_', '-').removeprefix('--')}"
        if value is True:
            found.append(word)
        elif value is False:
            found.append(f"--{NEGATED}{word.removeprefix('--')}")
        elif isinstance(value, (str, int, float)):
            found.append(f"{word}={value}")
        elif isinstance(value, (list, tuple)):
            found += [f"{word}={each}" for each in cast("Sequence[Any]", value)]
        else:
            raise UsageError(
                f"{where} has no value for {name!r}", "give a text, a number, true, or a list"
            )
    return tuple(found)
