"""A task's files on the way: fetched to this machine, its results sent to where they belong.

What is on this machine is read and written where it is. A result goes back complete or not at all:
each file under a temporary name, read back and compared, then all get their names, models last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphfuse.batches.places import Kind, LocalPlace, Place, joined, parent
from graphfuse.batches.stamps import is_same
from graphfuse.errors import ChangedError, UsageError, WriteError
from graphfuse.files import leftovers
from graphfuse.files.copying import sha256
from graphfuse.files.exports import ENDING
from graphfuse.files.locations import locations_in
from graphfuse.records.batch_rows import Stamp, Task

PART = ".graphfuse-part"
"""The end of a name that a result has until all of it is there."""

FORCE = "--force"


@contextlib.contextmanager
def scratch_folder() -> Generator[Path]:
    """A folder for what is on the way; those that killed runs left go first."""
    folder = Path(tempfile.gettempdir())
    leftovers.remove(folder)
    with leftovers.scratch(folder / "graphfuse-batch") as made:
        yield made


def token_of(ledger: str) -> str:
    """What marks the unfinished files of a ledger's runs: the next one writes over them."""
    return hashlib.sha256(ledger.encode()).hexdigest()[:12]


@dataclass
class Load:
    """A task's files where its command reads and writes them.

    `source` and `output` are paths of this machine, `folder` is for temporary files. `ways` says
    which folder here stands for which elsewhere. `input` are the files that were fetched.
    """

    source: str
    output: str
    folder: str
    ways: dict[str, str] = field(default_factory=dict[str, str])
    input: tuple[Stamp, ...] = ()
    written: tuple[Stamp, ...] = ()

    def told(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """A document of the command, with the names that the user knows."""
        if not self.ways:
            return document
        text = json.dumps(document)
        for here, there in self.ways.items():
            text = text.replace(_quoted(here), _quoted(there))
        return json.loads(text)


@dataclass(frozen=True)
class Carrier:
    """Fetches and sends. `place` finds a storage; `token` marks what this ledger has on the way."""

    place: Callable[[str], Place]
    token: str
    scratch: Path

    @contextlib.contextmanager
    def carried(self, task: Task, replaces: bool) -> Generator[Load]:
        """A task's files, for as long as its command runs.

        Raises ModelError for what cannot be fetched, UsageError for an output that exists.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            load = Load(task.source, task.output, folder)
            source, target = self.place(task.source), self.place(task.output)
            if isinstance(target, LocalPlace):
                Path(task.output).parent.mkdir(parents=True, exist_ok=True)
            elif not replaces and FORCE not in task.words and target.kind(task.output):
                raise UsageError(f"{task.output} exists", "pass --force to replace it")
            if not isinstance(source, LocalPlace):
                load.source = _here(folder, "in", task.source, load)
                load.input = tuple(_fetched(source, task.source, Path(load.source)))
            if not isinstance(target, LocalPlace):
                load.output = _here(folder, "out", task.output, load)
                _occupy(target, load, task.output)
            yield load

    def send(self, task: Task, load: Load, written: Sequence[str]) -> None:
        """Send what a command wrote; where it is here already, nothing is done.

        Raises WriteError, with everything as it was, when a file does not arrive as it is.
        """
        target = self.place(task.output)
        if isinstance(target, LocalPlace):
            return
        there = parent(task.output)
        base = Path(load.output).parent
        files = [(Path(name), joined(there, str(Path(name).relative_to(base)))) for name in written]
        # What a model needs is there before the model is.
        files.sort(key=lambda pair: (pair[1].endswith(ENDING), pair[1]))
        load.written = tuple(_Sending(target, self.token).all(files))
        if Path(load.output).is_dir():
            names = {far for _, far in files}
            for name in target.sizes(task.output):
                if joined(task.output, name) not in names:
                    # As here: the new folder stands for the old one.
                    target.remove(joined(task.output, name))


def _here(folder: str, kind: str, far: str, load: Load) -> str:
    """The name that a far file has here: its own, in a folder that stands for its own."""
    base = Path(folder) / kind
    base.mkdir()
    load.ways[str(base)] = parent(far)
    return str(base / far.rstrip("/").rpartition("/")[2])


def _quoted(text: str) -> str:
    return json.dumps(text)[1:-1]


def _fetched(place: Place, far: str, here: Path) -> list[Stamp]:
    """Fetch a model with its external data, or all of a folder."""
    if place.kind(far) == Kind.FOLDER:
        return [_fetch(place, joined(far, name), here / name) for name in place.sizes(far)]
    found = [_fetch(place, far, here)]
    for location in locations_in(here):
        data = joined(parent(far), location)
        # What is not there is for the command to say, with the tensor that it is of.
        if not (here.parent / location).exists() and place.kind(data) == Kind.FILE:
            found.append(_fetch(place, data, here.parent / location))
    return found


def _fetch(place: Place, far: str, here: Path) -> Stamp:
    here.parent.mkdir(parents=True, exist_ok=True)
    before = place.stamp(far)
    place.get(far, here)
    can_tell = before.mark or before.sha256 or before.changed
    is_short = before.size > 0 and here.stat().st_size != before.size
    if is_short or (can_tell and not is_same(before, place.stamp(far))):
        raise ChangedError(far)
    return replace(before, sha256=sha256(here))


def _occupy(place: Place, load: Load, far: str) -> None:
    """Take the names of data files that are there with other content: the command avoids them."""
    if Path(load.source).is_dir():
        return
    folder = Path(load.output).parent
    for location in locations_in(Path(load.source)) if Path(load.source).is_file() else ():
        there, data = joined(parent(far), location), Path(load.source).parent / location
        if place.kind(there) is None or not data.is_file() or place.digest(there) == sha256(data):
            continue
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).touch()


@dataclass
class _Sending:
    place: Place
    token: str
    parts: dict[str, str] = field(default_factory=dict[str, str])
    made: list[str] = field(default_factory=list[str])

    def all(self, files: Sequence[tuple[Path, str]]) -> list[Stamp]:
        digests = {far: sha256(here) for here, far in files}
        try:
            for here, far in files:
                self._put(here, far, digests[far])
            for part, far in self.parts.items():
                is_new = self.place.kind(far) is None
                self.place.move(part, far)
                if is_new:
                    self.made.append(far)
        except BaseException:
            for name in (*self.parts, *self.made):
                with contextlib.suppress(WriteError):
                    self.place.remove(name)
            raise
        return [replace(self.place.stamp(far), sha256=digests[far]) for _, far in files]

    def _put(self, here: Path, far: str, digest: str) -> None:
        if self.place.kind(far) and not far.endswith(ENDING) and self.place.digest(far) == digest:
            return
        part = joined(parent(far), f".{far.rpartition('/')[2]}.{self.token}{PART}")
        self.parts[part] = far
        self.place.put(here, part)
        if self.place.digest(part) != digest:
            raise WriteError(
                f"{far} did not arrive as it was sent", "run the same again; nothing was replaced"
            )
