"""Runs in forked children, each with one fault: this process has imported everything once."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import graphfuse
from graphfuse.errors import GraphfuseError
from tests.campaigns.faults.scenarios import (
    SCENARIOS,
    Files,
    Scenario,
    files_of,
    problem,
    small_limits,
)
from tests.support.graphs import residual

KILL_BEFORE, KILL_AFTER, SHORT_WRITE = -1, -2, -3
FAULTS = {"ENOSPC": 28, "EIO": 5, "EACCES": 13, "short write": SHORT_WRITE}
FAULTS |= {"kill before": KILL_BEFORE, "kill after": KILL_AFTER}

DONE, REFUSED, CRASHED = 0, 7, 9


class Harness:
    """One scenario, tried again and again in fresh copies of its folder."""

    def __init__(self, name: str, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.name, self.root = name, root
        self.scenario: Scenario = SCENARIOS[name]
        self.shim = ctypes.CDLL(None)
        self.folder = root / "run"
        template = root / "template"
        if template.exists():
            shutil.rmtree(template)
        self.scenario.make(template)
        self.template = template
        self.before: Files = files_of(template)
        self.renew()
        # What is imported late is imported now: a fault in an import is none of ours.
        graphfuse.fuse(residual("y = LayerNormalization(x, scale, bias)"))
        code, said = self.run()
        if code != DONE:
            raise SystemExit(f"{name} fails undisturbed: {said}")
        self.after: Files = files_of(self.folder)
        start = time.perf_counter()
        self.renew()
        self.run()
        self.usual = time.perf_counter() - start
        self.calls = self._count() if hasattr(self.shim, "shim_arm") else 0

    def renew(self) -> None:
        """The folder as before the run."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder)

    def _count(self) -> int:
        """How many calls a whole run makes: a fault beyond them is none."""
        self.renew()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            if "split" in self.name:
                small_limits()
            self.shim.shim_arm(0, 0)
            self.scenario.run(self.folder)
            os.write(writing, str(self.shim.shim_count()).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            return int(pipe.read())

    def run(self, prepare: Callable[[], object] = lambda: None) -> tuple[int, str]:
        """The scenario in a child; its exit code (minus a signal), and what it said."""
        reading, writing = os.pipe()
        child = self.fork(writing, prepare)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading, errors="replace") as pipe:
            said = pipe.read()
        return os.waitstatus_to_exitcode(status), said

    def fork(self, writing: int, prepare: Callable[[], object]) -> int:
        child = os.fork()
        if child:
            return child
        code, said = CRASHED, ""
        try:
            if "split" in self.name:
                small_limits()
            prepare()
            self.scenario.run(self.folder)
            code = DONE
        except GraphfuseError as error:
            code, said = REFUSED, f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            self.shim.shim_arm(0, 0) if hasattr(self.shim, "shim_arm") else None
            os.write(writing, said.encode()[:4000])
            os._exit(code)

    def check(self, label: str, code: int, said: str) -> Iterator[str]:
        """What is wrong after a run with a fault, and after the run that follows it."""
        killed = code < 0
        now = files_of(self.folder)
        wrong = problem(self.scenario, now, self.before, self.after, killed)
        if wrong:
            yield f"{self.name}, {label}: {wrong} ({said})"
        if code == CRASHED or (killed and code != -signal.SIGKILL):
            yield f"{self.name}, {label}: crashed: {said} {code}"
        # A temporary name that cannot be removed goes with the next run.
        visible = {path: data for path, data in now.items() if ".graphfuse-" not in path}
        if code == DONE and visible != self.after:
            yield f"{self.name}, {label}: says it is done, and is not"
        again, more = self.next_run(now)
        if again:
            yield f"{self.name}, {label}: the next run fails: {more}"
        elif files_of(self.folder) != self.after:
            left = sorted(files_of(self.folder).keys() ^ self.after.keys())
            yield f"{self.name}, {label}: after the next run, these differ: {left}"

    def next_run(self, now: Files) -> tuple[int, str]:
        """The same run again, as a user would start it."""
        made = self.scenario.output in now and self.scenario.output not in self.before
        if self.scenario.output == self.scenario.model or not made:
            return self.run()
        # It was all done before the kill: a run that may replace it cleans up.
        kept, self.scenario = self.scenario, _forced(self.scenario)
        result = self.run()
        self.scenario = kept
        return result


def _forced(scenario: Scenario) -> Scenario:
    return Scenario(scenario.prepare, scenario.model, scenario.output, scenario.options, old=True)


def every_call(name: str, faults: list[str], root: Path) -> tuple[int, list[str]]:
    """Let each call of a run fail in each way; gives how many runs there were, and what failed."""
    harness = Harness(name, root)
    runs, wrong = 0, list[str]()
    for fault in faults:
        nth = 1
        while True:
            harness.renew()
            code, said = harness.run(lambda n=nth, f=fault: harness.shim.shim_arm(n, FAULTS[f]))
            wrong += harness.check(f"{fault} at call {nth}", code, said)
            runs += 1
            if code == DONE and nth > harness.calls:
                break
            nth += 1
    return runs, wrong


def kills(count: int, seed: int, root: Path) -> tuple[int, list[str]]:
    """Kill runs at random moments until `count` were hit before their end.

    Gives how many runs that took, and what failed.
    """
    draw = random.Random(seed)
    root.mkdir(exist_ok=True)
    harnesses = [Harness(name, root / str(i)) for i, name in enumerate(SCENARIOS)]
    runs, hit, wrong = 0, 0, list[str]()
    while hit < count:
        harness = harnesses[runs % len(harnesses)]
        harness.renew()
        reading, writing = os.pipe()
        child = harness.fork(writing, lambda: None)
        os.close(writing)
        time.sleep(draw.uniform(0, harness.usual))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        code = os.waitstatus_to_exitcode(status)
        # The machine may be busier than when the run was timed, or less.
        harness.usual *= 1.02 if code < 0 else 0.9
        runs, hit = runs + 1, hit + (code < 0)
        wrong += harness.check(f"kill {runs}", code, "")
    return runs, wrong
