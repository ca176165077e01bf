"""A scan leaves the garbage collector as its caller has it, also while several run at once."""

from __future__ import annotations

import ast
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

import graphfuse
from tests.campaigns.benchmarks.growing import decoder

THREADS = 4
ROUNDS = 60


class Knot:
    """What only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def knot() -> weakref.ref[Knot]:
    return weakref.ref(Knot())


@contextmanager
def scanning(model: onnx.ModelProto) -> Iterator[None]:
    """Threads that scan again and again, so that some scan is always on its way."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def scans() -> None:
        try:
            while not stop.is_set():
                graphfuse.scan(model)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=scans) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed


def freed(garbage: weakref.ref[Knot], within: float = 60) -> bool:
    end = time.monotonic() + within
    while garbage() is not None and time.monotonic() < end:
        time.sleep(0.002)
    return garbage() is None


def test_overlapping_scans_leave_the_collector_on() -> None:
    before = (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())
    assert before[0]
    with scanning(decoder(20)):
        for _ in range(ROUNDS):
            assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == before
            time.sleep(0.005)
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == before


def test_garbage_that_is_made_during_scans_is_collected_during_scans() -> None:
    with scanning(decoder(20)):
        for _ in range(ROUNDS // 6):
            assert freed(knot()), "a cycle is left although scans make the collector run"


def test_a_caller_who_turned_the_collector_off_keeps_it_off() -> None:
    gc.disable()
    try:
        graphfuse.scan(decoder(2))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_no_module_of_the_package_reaches_for_it() -> None:
    for path in Path(graphfuse.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "gc" not in names, path
