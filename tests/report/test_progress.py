"""How far a run is, and how long it will still take, by a clock that the tests turn."""

from __future__ import annotations

import io
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

import graphfuse
from graphfuse.records.progress import Silent, counted, tell_part
from graphfuse.report.progress_bar import Pace, StageProgress, in_words
from tests.conftest import MODELS


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_steady_pieces(clock: Clock) -> None:
    pace = Pace(clock)
    pace.part(0, 192)
    assert pace.left() is None
    for done in range(1, 43):
        clock.now += 0.25
        pace.part(done, 192)
    # 150 pieces of a quarter of a second.
    assert pace.left() == pytest.approx(37.5)
    clock.now += 0.2
    assert pace.left() == pytest.approx(37.3)


def test_no_estimate_without_ground(clock: Clock) -> None:
    pace = Pace(clock)
    assert pace.left() is None
    pace.part(0, 1000)
    clock.now += 60
    # Nothing is done yet, however long it takes.
    assert pace.left() is None
    pace.part(1, 1000)
    # One of a thousand is no ground.
    assert pace.left() is None
    clock.now += 1
    pace.part(2, 1000)
    assert pace.left() is None
    pace.part(3, 1000)
    assert pace.left() == pytest.approx(61 / 3 * 997)
    # So is what took no time.
    fresh = Pace(clock)
    for done in range(5):
        clock.now += 0.1
        fresh.part(done, 10)
    assert fresh.left() is None


def test_an_estimate_is_never_negative_or_nothing(clock: Clock) -> None:
    pace = Pace(clock)
    for done in range(10):
        pace.part(done, 10)
        clock.now += 1
    # The last piece takes far longer than those before.
    seen = []
    for _ in range(100):
        clock.now += 0.5
        seen.append(pace.left())
    assert all(left is None or left > 0 for left in seen)
    # They are no measure of it any more: what there is grows with it, and does not stand at 1 s.
    assert seen[-1] == pytest.approx((9 + 51) / 9)


def test_a_stage_that_says_nothing_has_no_estimate(clock: Clock) -> None:
    pace = Pace(clock)
    for done in range(5):
        pace.part(done, 8)
        clock.now += 1
    assert pace.left() is not None
    pace.stage()
    assert pace.left() is None
    # Pieces go on across stages with names of their own, as when each site has one.
    pace.part(5, 8)
    assert pace.left() == pytest.approx(3)
    # And begin anew with the next count.
    pace.part(0, 8)
    assert pace.left() is None


def test_pieces_that_were_done_before_are_no_ground(clock: Clock) -> None:
    pace = Pace(clock)
    pace.part(50, 100)
    clock.now += 10
    pace.part(60, 100)
    assert pace.left() == pytest.approx(40)


def test_seconds_that_were_asked_for(clock: Clock) -> None:
    """What `bench` does: shares of its turns, four of 2.5 seconds."""
    pace = Pace(clock)
    for turn in range(4):
        pace.part(float(turn), 4)
        for quarter in range(1, 5):
            clock.now += 0.625
            pace.part(turn + quarter / 4, 4)
            left = pace.left()
            if clock.now >= 102:
                assert left == pytest.approx(110 - clock.now) or clock.now == 110


def test_words() -> None:
    said = [in_words(s) for s in (None, 0.2, 8.4, 59.4, 61, 3500, 7300)]
    assert said == [
        "", "about 1 s left", "about 8 s left", "about 59 s left", "about 1 min left",
        "about 58 min left", "about 2 h left",
    ]  # fmt: skip


def test_days_are_a_guess(clock: Clock) -> None:
    pace = Pace(clock)
    pace.part(0, 10**9)
    for done in range(1, 9):
        clock.now += 100
        pace.part(done, 10**9)
    assert pace.left() is None


def shown(progress: StageProgress, console: Console) -> str:
    """What the bar's line says now."""
    with console.capture() as found:
        console.print(progress._progress.get_renderable())
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.get()).split())


def test_the_line_on_a_terminal(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = StageProgress(console, now=clock)
    progress.stage("validating each site on CPUExecutionProvider")
    for done in range(42 + 1):
        progress.part(done, 192)
        clock.now += 0.0533
    line = shown(progress, console)
    assert "42 of 192, about 8 s left" in line
    assert "validating each" in line
    progress.stage("x" * 300)
    line = shown(progress, console)
    assert "left" not in line
    assert " of " not in line
    # Longer than a terminal is wide: cut there, for nobody has to copy it.
    assert len(line) <= 80
    for done in range(0, 2 * 10**9 + 1, 10**8):
        progress.portion("model.onnx", done, 4 * 10**9)
        clock.now += 0.5
    line = shown(progress, console)
    assert "2.0 of 4.0 GB, about 10 s left" in line
    assert "writing model.onnx" in line


def test_names_of_stages_are_not_obeyed(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = StageProgress(console, now=clock)
    progress.stage("certifying \x1b[31m[bold]x")
    assert r"\x1b[31m[bold]x" in shown(progress, console)


def test_stages_of_an_isolated_run_are_lines(clock: Clock) -> None:
    reading, writing = os.pipe()
    progress = StageProgress(Console(file=io.StringIO()), writing, clock)
    progress.stage("scanning")
    progress.part(1, 3)
    progress.stage("writing")
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert lines.read() == "scanning\nwriting\n"


class Counts(Silent):
    """Keeps what is told of pieces, by stage."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[float, float]]] = {}
        self._now = ""

    def stage(self, name: str) -> None:
        self._now = name

    def part(self, done: float, total: float) -> None:
        self.told.setdefault(self._now, []).append((done, total))


def test_what_a_validation_tells(tmp_path: Path) -> None:
    counts = Counts()
    graphfuse.optimize(
        MODELS / "bert.onnx", tmp_path / "f.onnx", level="full", certify=True, progress=counts
    )
    cpu = "CPUExecutionProvider"
    assert counts.told[f"validating each site on {cpu}"] == [(n, 5) for n in range(5)]
    assert counts.told[f"running each site on its activations, on {cpu}"] == [
        (n, 5) for n in range(5)
    ]
    # Three feeds, with and without optimizations.
    assert counts.told[f"running the original on {cpu}"] == [(n, 6) for n in range(6)]
    ways = counts.told[f"running the fused model on {cpu}"]
    assert ways == [(n, len(ways)) for n in range(len(ways))]
    assert len(ways) % 3 == 0
    assert any(name.startswith("certifying ") for name in counts.told)


def test_what_measuring_tells(tmp_path: Path) -> None:
    counts, gpt2 = Counts(), MODELS / "gpt2.onnx"
    quick = graphfuse.BenchOptions(seconds=0.05, look_inside=False, memory=False)
    graphfuse.bench(gpt2, gpt2, options=quick, progress=counts)
    timed = next(told for name, told in counts.told.items() if name.startswith("timing on"))
    assert timed[0][0] == 0
    assert timed[-1][0] == timed[-1][1]
    assert all(one[0] <= other[0] for one, other in pairwise(timed))
    selection = graphfuse.Selection(costs="autotune")
    graphfuse.fuse(gpt2, selection=selection, progress=counts)
    tuned = next(told for name, told in counts.told.items() if name.startswith("timing each"))
    assert tuned == [(n, len(tuned)) for n in range(len(tuned))]


def test_who_has_two_methods_is_told_as_before() -> None:
    class Plain:
        def __init__(self) -> None:
            self.names: list[str] = []

        def stage(self, name: str) -> None:
            self.names.append(name)

        def portion(self, what: str, done: int, total: int) -> None:
            pass

    plain = Plain()
    tell_part(plain, 1, 2)
    assert list(counted(plain, [1, 2])) == [1, 2]
    graphfuse.validate(MODELS / "bert.onnx", MODELS / "bert.onnx", level="fast", progress=plain)
    assert "running the original on CPUExecutionProvider" in plain.names
