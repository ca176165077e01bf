"""What runs on a node of a cluster: the same worker, and messages to the disks of who asked.

A node shares no disk with anyone. What is in a storage it fetches itself; what is on the disks of
the machine that started the batch goes through an object there, piece by piece.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from graphfuse import errors
from graphfuse.batches.moving import Carrier, scratch_folder
from graphfuse.batches.places import LocalPlace, Place, RemotePlace, is_url, named
from graphfuse.batches.scheduling import processors
from graphfuse.batches.working import ChildBounds, Worker
from graphfuse.errors import GraphfuseError, MachineError, WriteError
from graphfuse.files.leftovers import lock
from graphfuse.records.batch_rows import BatchRow, Stamp, Task
from graphfuse.system import libraries

SENT_AT_ONCE = 2**23
"""Bytes of a file that go in one message."""

ASKED_EVERY = 3.0
"""Seconds after which a node asks again whether its batch is over."""

RESULTS_DEPEND_ON = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")
"""What a result may depend on beside graphfuse itself, which travels with the batch."""

Answer = tuple[Any, tuple[str, str, str] | None]
"""What came of a call: a value, or the kind, message and remedy of an error."""

Ask = Callable[..., Answer]
"""Calls a method of `Disks` where the batch was started, and waits."""


def versions() -> dict[str, str]:
    """The versions of what a result depends on, in this environment."""
    own = {name: libraries.version_of(name).split(" ", maxsplit=1)[0] for name in RESULTS_DEPEND_ON}
    return {"python": platform.python_version().rpartition(".")[0], **own}


def pins() -> list[str]:
    """What pip is told to install for them: onnxruntime by the name that it has here."""
    found: list[str] = []
    for name in RESULTS_DEPEND_ON:
        version, _, distribution = libraries.version_of(name).partition(" ")
        found.append(f"{distribution.strip('()') or name}=={version}")
    return found


@dataclass(frozen=True)
class Errand:
    """A task, and all that a node has to know to run it."""

    task: Task
    replaces: bool
    bounds: ChildBounds
    runtime: str
    token: str
    versions: Mapping[str, str]


class Disks:
    """The disks of the machine that started a batch, for its nodes; and who works on what.

    Paths are from the folder that the batch was started in.
    """

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        self._place, self._running, self._over = LocalPlace(), dict[str, str](), False

    def stop(self) -> None:
        """The batch ends."""
        self._over = True

    def is_over(self, source: str, node: str) -> bool:
        """A node works on a model, and asks whether it still should."""
        self._running[source] = node
        return self._over

    def running(self) -> Mapping[str, str]:
        """The models that were begun, and where."""
        return dict(self._running)

    def call(self, method: str, *given: Any) -> Answer:
        """Call a method of a place, or one of the two below; errors as text."""
        owner = self if method in {"piece", "add_piece"} else self._place
        try:
            return getattr(owner, method)(*given), None
        except GraphfuseError as error:
            return None, (type(error).__name__, error.message, error.remedy)

    def piece(self, path: str, offset: int) -> bytes:
        """A piece of a file, empty at its end."""
        with named(errors.ModelError, path, "read"), Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(SENT_AT_ONCE)

    def add_piece(self, path: str, offset: int, data: bytes) -> None:
        """Write a piece of a file; the one at 0 begins it anew."""
        with named(WriteError, path, "written"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


class FarDisks:
    """A place: the disks of the machine that the batch was started on, from a node."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def _call(self, method: str, *given: Any) -> Any:
        value, error = self._ask(method, *given)
        if error is not None:
            kind, message, remedy = error
            found = cast("type[GraphfuseError]", getattr(errors, kind))
            made = found.__new__(found)
            GraphfuseError.__init__(made, message, remedy)
            raise made
        return value

    def kind(self, path: str) -> Any:
        """What is there, None for nothing."""
        return self._call("kind", path)

    def sizes(self, folder: str) -> Mapping[str, int]:
        """The files below a folder."""
        return self._call("sizes", folder)

    def matches(self, pattern: str) -> Sequence[str]:
        """What a pattern stands for."""
        return self._call("matches", pattern)

    def read(self, path: str) -> bytes:
        """A small file."""
        return self._call("read", path)

    def stamp(self, path: str) -> Stamp:
        """What tells whether a file is as it was."""
        return self._call("stamp", path)

    def digest(self, path: str) -> str:
        """The SHA-256 of a file."""
        return self._call("digest", path)

    def get(self, path: str, here: Path) -> None:
        """Fetch a file piece by piece."""
        done = 0
        with here.open("wb") as file:
            while piece := self._call("piece", path, done):
                file.write(piece)
                done += len(piece)

    def put(self, here: Path, path: str) -> None:
        """Send a file piece by piece."""
        done = 0
        with here.open("rb") as file:
            while (piece := file.read(SENT_AT_ONCE)) or not done:
                self._call("add_piece", path, done, piece)
                done += len(piece)
                if not piece:
                    break

    def move(self, path: str, target: str) -> None:
        """Give a file another name."""
        self._call("move", path, target)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._call("remove", path)


def run_on_node(errand: Errand, ask: Ask, is_over: Callable[[], bool]) -> BatchRow:
    """Run a task here, until `is_over` says that nobody wants it any more.

    Raises MachineError when this node has other versions than the batch, StoppedError when it ends.
    """
    _check(errand.versions)

    def place(text: str) -> Place:
        return RemotePlace(text) if is_url(text) else FarDisks(ask)

    with scratch_folder() as scratch, own_processor() as cores:
        worker = Worker(errand.bounds, errand.runtime, Carrier(place, errand.token, scratch))
        with _stopped_with(worker, is_over):
            return worker.run(errand.task, cores, errand.replaces)


@contextlib.contextmanager
def _stopped_with(worker: Worker, is_over: Callable[[], bool]) -> Generator[None]:
    """Ask now and then whether the batch is over, and stop the worker then."""
    if is_over():
        worker.stop()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(ASKED_EVERY):
            if is_over():
                worker.stop()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(ASKED_EVERY)


def _check(wanted: Mapping[str, str]) -> None:
    here = versions()
    other = {name: version for name, version in wanted.items() if here[name] != version}
    if other:
        name, version = next(iter(other.items()))
        raise MachineError(
            f"the node {platform.node()} has {name} {here[name]}, the batch {version}",
            "install the same there, or pass --ray-install",
        )


@contextlib.contextmanager
def own_processor() -> Generator[Sequence[int]]:
    """A processor of this machine that no other task has; none where there are more tasks.

    Ray counts processors and gives none out: each task would start a thread for all of them.
    """
    folder = Path(tempfile.gettempdir()) / f"graphfuse-processors-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in processors():
            descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if lock(descriptor):
                    yield (number,)
                    return
            finally:
                os.close(descriptor)
    yield ()
