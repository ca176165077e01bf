"""Which models there are: in folders, by patterns, or in a manifest."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from graphfuse.errors import ModelError, UsageError
from graphfuse.files.exports import ENDING, FUSED_MARK
from graphfuse.records.batch_rows import Task

EXPORTS = ("config.json", "model_index.json", "genai_config.json", "modules.json")
"""What makes a folder an export of Hugging Face, which is one unit."""

MANIFESTS = (".jsonl", ".ndjson")
NEGATED = "no-"
"""What an option's name begins with that is turned off."""
LINE_FIELDS = ("path", "output", "ep", "options")


@dataclass(frozen=True)
class Unit:
    """A model or an export, and what its result is called in the destination."""

    path: str
    name: str
    words: tuple[str, ...] = ()
    output: str = ""


def tasks_of(sources: Sequence[str], destination: str, words: Sequence[str]) -> list[Task]:
    """A task for each model of some folders, patterns, files and manifests.

    Options of a manifest's line come behind `words`, those of all, and so before them. Raises
    UsageError for what names nothing, for two results of one name, and for a wrong manifest.
    """
    found = [
        Task(
            unit.path,
            unit.output or str(Path(destination) / unit.name),
            (*words, *unit.words),
        )
        for source in sources
        for unit in _units(source)
    ]
    places: dict[str, Task] = {}
    for task in found:
        place = os.path.normpath(task.output)
        if place in places and places[place].source != task.source:
            raise UsageError(
                f"{places[place].source} and {task.source} would both become {task.output}",
                "name their folders one by one, each with a destination, or give outputs in a "
                "manifest",
            )
        places[place] = task
    return list(places.values())


def _units(source: str) -> Iterator[Unit]:
    path = Path(source)
    if path.suffix in MANIFESTS and path.is_file():
        yield from _manifest(path)
    elif path.is_dir():
        yield from _in_folder(path)
    elif path.is_file():
        yield Unit(source, path.name)
    else:
        names = sorted(glob.glob(source, recursive=True))  # noqa: PTH207
        if not names:
            what = "matches nothing" if glob.has_magic(source) else "does not exist"
            raise ModelError(
                f"{source} {what}", "name a folder, an .onnx file, a pattern or a .jsonl manifest"
            )
        base = _base(source)
        for name in names:
            if Path(name).is_dir() or name.endswith(ENDING):
                inner = os.path.relpath(name, base)
                yield from _below(Path(name), inner)


def _base(pattern: str) -> str:
    """The folder that a pattern begins in: names below it are kept."""
    parts: list[str] = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return str(Path(*parts)) if parts else "."


def _below(path: Path, name: str) -> Iterator[Unit]:
    if path.is_file():
        yield Unit(str(path), name)
        return
    for unit in _in_folder(path):
        yield Unit(unit.path, name if unit.name == path.name else f"{name}/{unit.name}")


def _in_folder(folder: Path) -> Iterator[Unit]:
    """The exports and models of a folder: what lies in an export is part of it."""
    if _is_export(folder):
        yield Unit(str(folder), folder.name)
        return
    found = list(_searched(folder, ""))
    if not found:
        raise ModelError(
            f"the folder {folder} has no ONNX model", "name one that has, or an .onnx file"
        )
    yield from found


def _searched(folder: Path, inside: str) -> Iterator[Unit]:
    try:
        entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
    except OSError as error:
        raise ModelError(
            f"{folder / inside} cannot be read ({error.strerror})", "check its rights"
        ) from error
    for entry in entries:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if _is_export(folder / name):
                yield Unit(str(folder / name), name)
            else:
                yield from _searched(folder, f"{name}/")
        elif name.endswith(ENDING) and not name.endswith(FUSED_MARK + ENDING):
            yield Unit(str(folder / name), name)


def _is_export(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in EXPORTS):
        return False
    return any(name.endswith(ENDING) for _, _, names in os.walk(folder) for name in names)


def _manifest(path: Path) -> Iterator[Unit]:
    """A model for each line: {"path": ..., "output": ..., "ep": ..., "options": {...}}."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})", "give a text file of JSON") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _line(path, number, line)


def _line(path: Path, number: int, line: str) -> Unit:
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
    model = path.parent / given["path"]
    output = given.get("output", "")
    options = dict(given.get("options") or {})
    if "ep" in given:
        options["ep"] = given["ep"]
    if not isinstance(output, str):
        raise UsageError(f"{where} has an output that is no text", remedy)
    place = str(path.parent / output) if output else ""
    return Unit(str(model), Path(given["path"]).name, words_of(options, where), place)


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
