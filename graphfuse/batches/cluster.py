"""Who runs next on a cluster of Ray: a task for each model, with a processor and memory.

What fails there is of two kinds. A model that cannot be fused is a row, and is not tried again. A
node that is lost says nothing of any model: Ray runs its tasks elsewhere.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphfuse
from graphfuse.batches.cluster_nodes import ASKED_EVERY, Disks, Errand, pins, run_on_node, versions
from graphfuse.batches.places import is_url
from graphfuse.batches.scheduling import Begin, OnTick, needs
from graphfuse.batches.stamps import key_of
from graphfuse.batches.working import ChildBounds
from graphfuse.errors import MachineError, UsageError
from graphfuse.records.batch_rows import BatchOutcome, BatchRow, Task
from graphfuse.system import libraries

RETRIES = 5
"""How often a task is tried again whose node was lost."""

QUEUED = 1000
"""Tasks that Ray is told of at a time: enough for a cluster that grows with what waits."""

TOGETHER = 32
"""Tasks that are begun at once: each asks a storage whether its output is there, and waits."""

ANSWERS_WITHIN = 10.0
"""Seconds in which a cluster has to answer."""

CLIENT = "ray://"
LEFT_OUT = ("__pycache__", "CMake*", "cmake_install.cmake", "build.ninja", ".*", "README.md", "src")
"""What of the package's folder does not travel."""


@dataclass
class OnRay:
    """Runs tasks on the cluster at `address`; `installs` lets its nodes install our versions."""

    address: str
    bounds: ChildBounds
    runtime: str
    token: str
    workers: int | None = None
    installs: bool = False
    _waiting: dict[Any, Task] = field(default_factory=dict[Any, Task])
    _disks: Any = None

    def now(self) -> Mapping[str, str]:
        """The sources that are worked on, and the node that each is on."""
        ray = libraries.ray()
        begun: Mapping[str, str] = ray.get(self._disks.running.remote()) if self._disks else {}
        waiting = {task.source for task in self._waiting.values()}
        return {source: node for source, node in begun.items() if source in waiting}

    def run(self, tasks: Sequence[Task], begin: Begin, tick: OnTick) -> Generator[BatchRow]:
        """The rows as they come. Closing the generator ends what runs.

        Raises UsageError when there is no cluster, MachineError when a node has other versions.
        """
        if not tasks:
            return
        known = versions()

        def prepared(task: Task) -> Errand:
            # Who is tried again may find what it wrote before its node was lost.
            replaces = begin(task).now
            return Errand(task, replaces, self.bounds, self.runtime, self.token, known)

        with self._connected(tasks) as ray, ThreadPoolExecutor(TOGETHER) as pool:
            most = max((node["Resources"].get("memory", 0) for node in _alive(ray)), default=0)
            on_node = ray.remote(
                num_cpus=1, max_retries=RETRIES, retry_exceptions=False
            )(_on_node)  # fmt: skip
            # The largest first: none of them is left over for the end.
            queue = sorted(tasks, key=lambda task: -task.size)
            limit = self.workers or QUEUED
            try:
                while queue or self._waiting:
                    while some := queue[: min(TOGETHER, limit - len(self._waiting))]:
                        del queue[: len(some)]
                        for task, errand in zip(some, pool.map(prepared, some), strict=True):
                            memory = min(needs(task), int(most))
                            sent = on_node.options(memory=memory).remote(errand, self._disks)
                            self._waiting[sent] = task
                    done, _ = ray.wait(list(self._waiting), timeout=1.0)
                    for each in done:
                        task = self._waiting.pop(each)
                        yield self._row(ray, each, task)
                    tick()
            finally:
                self._stop(ray)

    def _stop(self, ray: Any) -> None:
        """Let what runs end, and what waits not begin. Cancelling makes Ray 2.60 crash at times."""
        left = list(self._waiting)
        self._waiting.clear()
        if left:
            with contextlib.suppress(Exception):
                ray.get(self._disks.stop.remote())
                ray.wait(left, num_returns=len(left), timeout=2 * ASKED_EVERY)

    def _row(self, ray: Any, done: Any, task: Task) -> BatchRow:
        try:
            return ray.get(done)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MachineError):
                raise MachineError(cause.message, cause.remedy) from None
            why = f"{type(cause).__name__}: {cause}"
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[0]
        return BatchRow(
            source=task.source,
            output=task.output,
            outcome=BatchOutcome.FAILED,
            exit_code=1,
            key=key_of(task.words, self.runtime),
            message=f"the cluster could not run it, tried {RETRIES + 1} times ({why})",
            remedy="run the same again; with more memory for a node if that gave out",
            options=task.words,
            graphfuse=graphfuse.__version__,
            runtime=self.runtime,
        )

    @contextlib.contextmanager
    def _connected(self, tasks: Sequence[Task]) -> Generator[Any]:
        ray = libraries.ray()
        local = next((t for t in tasks if not (is_url(t.source) and is_url(t.output))), None)
        if local is not None and self.address.startswith(CLIENT):
            raise UsageError(
                f"{local.source} or its output is on the disks of this machine, which is no node",
                f"give URLs, or start the batch on a node of the cluster, without {CLIENT}",
            )
        with tempfile.TemporaryDirectory() as folder:
            ours = not ray.is_initialized()
            if ours:
                self._begin(ray, Path(folder))
            try:
                here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    ray.get_runtime_context().get_node_id(), soft=False
                )
                made = ray.remote(num_cpus=0, max_concurrency=8)(Disks)
                self._disks = made.options(scheduling_strategy=here).remote(str(Path.cwd()))
                yield ray
            finally:
                self._disks = None
                if ours:
                    ray.shutdown()

    def _begin(self, ray: Any, folder: Path) -> None:
        """Connect. The package travels as it is here; what it needs is named by its versions."""
        package = folder / "graphfuse"
        shutil.copytree(
            Path(graphfuse.__file__).parent, package, ignore=shutil.ignore_patterns(*LEFT_OUT)
        )
        self._check_there()
        environment: dict[str, Any] = {"py_modules": [str(package)]}
        if self.installs:
            environment["pip"] = {"packages": pins(), "pip_check": False}
        try:
            with own_signals():
                ray.init(
                    address=self.address,
                    runtime_env=environment,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
            raise self._nobody(error) from error

    def _check_there(self) -> None:
        """Raise UsageError when nobody answers: Ray itself asks for many minutes."""
        host, _, port = self.address.removeprefix(CLIENT).rpartition(":")
        if not (host and port.isdecimal()):
            return
        try:
            socket.create_connection((host, int(port)), ANSWERS_WITHIN).close()
        except (OSError, OverflowError) as error:
            raise self._nobody(error) from error

    def _nobody(self, error: Exception) -> UsageError:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UsageError(
            f"no cluster of Ray answers at {self.address} ({said})",
            "start one with `ray start`, or say `auto` on one of its nodes; where it asks for a "
            "token, set RAY_AUTH_MODE=token",
        )


@contextlib.contextmanager
def own_signals() -> Generator[None]:
    """Leave to this process what stops it: Ray's own way prints a stack, and leaves files."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is a handler that Python knows nothing of.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _alive(ray: Any) -> Sequence[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _on_node(errand: Errand, disks: Any) -> BatchRow:
    """A task of Ray."""
    import platform

    ray = libraries.ray()
    node = platform.node()

    def is_over() -> bool:
        return ray.get(disks.is_over.remote(errand.task.source, node))

    return run_on_node(errand, lambda *given: ray.get(disks.call.remote(*given)), is_over)
