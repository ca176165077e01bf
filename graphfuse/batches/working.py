"""One task in a process of its own: the command `fuse`, and the row that comes of it.

Nothing here knows who schedules: a thread of this machine or a task of Ray runs the same function.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from graphfuse import __version__
from graphfuse.batches.moving import FORCE, Carrier, Load
from graphfuse.batches.stamps import key_of
from graphfuse.errors import GraphfuseError, UsageError
from graphfuse.records.batch_rows import BatchOutcome, BatchRow, Task
from graphfuse.system.children import Child, died, stopped_by

FuseDocument = Mapping[str, Any]
"""A JSON document of the command `fuse`."""

NO_MODEL = "graphfuse-no-such-model.onnx"
LOOKED_AT = 8
"""Sets of options that are looked at before the first model."""

TELLING = 4000
"""Characters of what a child that printed no document said last."""


@dataclass(frozen=True)
class ChildBounds:
    """What one model may take: bytes of address space (0: the machine's memory), and seconds."""

    memory: int = 0
    seconds: float = 600.0


class StoppedError(Exception):
    """The run ends: a child was killed, and says nothing of its model."""


class Worker:
    """Runs tasks; `stop` ends those that run, from any thread."""

    def __init__(self, bounds: ChildBounds, runtime: str, carrier: Carrier) -> None:
        self._bounds, self._runtime, self._carrier = bounds, runtime, carrier
        self._running: dict[Task, Child] = {}
        self._guard = threading.Lock()
        self._stopping = False

    def now(self) -> Mapping[str, str]:
        """The sources that are worked on, and the stage that each is at."""
        with self._guard:
            return {task.source: child.stages.now for task, child in self._running.items()}

    def stop(self) -> None:
        """End all children; whoever waits for one gets StoppedError."""
        with self._guard:
            self._stopping = True
            children = list(self._running.values())
        for child in children:
            child.kill()

    def run(self, task: Task, cores: Sequence[int] = (), replace: bool = False) -> BatchRow:
        """Run a task to its end; `replace` says that an output that exists is this batch's own.

        Raises StoppedError when `stop` was called.
        """
        start = time.monotonic()
        load = Load(task.source, task.output, "")
        try:
            with self._carrier.carried(task, replace) as load:
                found = self._fuse(task, load, cores, replace)
                self._carrier.send(task, load, written_by(found))
                found = load.told(found)
        except GraphfuseError as error:
            found = load.told(_ended(error))
        return self._row(task, load, found, time.monotonic() - start)

    def _fuse(self, task: Task, load: Load, cores: Sequence[int], replace: bool) -> FuseDocument:
        words = ["fuse", load.source, "-o", load.output, "--json", *task.words]
        words += [FORCE] if replace and FORCE not in words else []
        with self._guard:
            if self._stopping:
                raise StoppedError
            bounds = self._bounds
            child = Child(words, bounds.memory, bounds.seconds, subprocess.PIPE, load.folder)
            self._running[task] = child
        _pin(child.process.pid, cores)
        try:
            found = _document(child, self._bounds.seconds)
        finally:
            child.kill()
            with self._guard:
                del self._running[task]
        if self._stopping:
            raise StoppedError
        return found

    def _row(self, task: Task, load: Load, found: FuseDocument, seconds: float) -> BatchRow:
        models: Sequence[FuseDocument] = found.get("models", [found])
        error: FuseDocument = found["error"] or {}
        place = self._carrier.place(task.source)
        read = [file["path"] for each in models for file in each.get("read", ())]
        there = load.input or tuple(map(place.stamp, dict.fromkeys(read or [task.source])))
        fused = [len(each.get("fused", ())) + each.get("kept", 0) for each in models]
        left = [sum(bool(m["site"]) for m in each.get("left", ())) for each in models]
        target = self._carrier.place(task.output)
        return BatchRow(
            source=task.source,
            output=task.output,
            outcome=_outcome(found, models),
            exit_code=found["exit_code"],
            key=key_of(task.words, self._runtime),
            message=error.get("message", ""),
            remedy=error.get("remedy", ""),
            sites=sum(fused) + sum(left),
            fused=sum(fused),
            figures=_figures(models),
            seconds=round(seconds, 3),
            options=task.words,
            graphfuse=__version__,
            runtime=self._runtime,
            input=tuple(stamp for stamp in there if stamp.size >= 0),
            written=load.written or tuple(map(target.stamp, written_by(found))),
        )


def written_by(found: FuseDocument) -> Sequence[str]:
    """The paths that a command wrote."""
    models: Sequence[FuseDocument] = found.get("models", [found])
    wrote = [file["path"] for each in models for file in each.get("written", ())]
    copied = [file["path"] for file in found.get("copied", ())]
    return list(dict.fromkeys((*wrote, *copied)))


def _pin(process: int, cores: Sequence[int]) -> None:
    """Let a process have its own processors: two that take all are in each other's way."""
    if cores and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(process, cores)
        except OSError:
            # It has ended already, or may not be told.
            return


def _document(child: Child, seconds: float) -> FuseDocument:
    """The document that a child printed; of one that did not, a document of its end."""
    try:
        out, said = child.process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.process.communicate()
        return _ended(died(f"took more than {seconds:g} s", child.stages.last()))
    code = child.process.returncode
    if code < 0:
        return _ended(stopped_by(-code, child.stages.last()))
    try:
        return json.loads(out)
    except ValueError:
        last = said.decode(errors="replace").strip()[-TELLING:]
        text = last.splitlines()[-1] if last else "it ended without a word"
        error = GraphfuseError(text.removeprefix("graphfuse: error: "))
        return {**_ended(error), "exit_code": code or 1}


def check_words(several: Iterable[Sequence[str]]) -> None:
    """Raise UsageError for options that hold of no model, before any is touched.

    A model that is not there shows what is wrong with the options alone: they are looked at first.
    Of a manifest with options for each line a few are looked at; the others are rows.
    """
    for words in islice(several, LOOKED_AT):
        child = Child(["fuse", NO_MODEL, "--dry-run", "--json", *words], 0, 60, subprocess.PIPE)
        try:
            found = _document(child, 60)
        finally:
            child.kill()
        if found["exit_code"] == UsageError.exit_code:
            raise UsageError(found["error"]["message"], found["error"]["remedy"])


def _ended(error: GraphfuseError) -> dict[str, Any]:
    return {
        "exit_code": error.exit_code,
        "error": {
            "type": type(error).__name__,
            "message": error.message,
            "remedy": error.remedy,
        },
    }


def _outcome(found: FuseDocument, models: Sequence[FuseDocument]) -> BatchOutcome:
    if found["exit_code"] == 6 and any(each.get("written") for each in models):
        return BatchOutcome.PUT_BACK
    if found["exit_code"] != 0:
        return BatchOutcome.FAILED
    changed = any(each.get("changed") for each in models)
    return BatchOutcome.FUSED if changed else BatchOutcome.UNCHANGED


def _figures(models: Sequence[FuseDocument]) -> dict[str, float]:
    """The worst figure of each gate, as a share of its bound; infinity is left out."""
    worst: dict[str, float] = {}
    for model in models:
        measured: FuseDocument = model.get("validation") or {}
        for check in measured.get("checks", ()):
            if check["value"] is not None and check["bound"] > 0:
                share = check["value"] / check["bound"]
                worst[check["gate"]] = max(share, worst.get(check["gate"], 0.0))
    return {gate: round(share, 6) for gate, share in sorted(worst.items())}
