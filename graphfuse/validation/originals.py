"""Running the original: on which feeds, in which ways, and at which level of optimization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.errors import OriginalModelError, in_one_line
from graphfuse.files.model_file import Model
from graphfuse.records.progress import Progress, tell_part
from graphfuse.records.requests import Level
from graphfuse.running.feeding import Feed, Feeding
from graphfuse.running.fitting import Fitting
from graphfuse.running.sessions import OPTIMIZATION_LEVELS, run, runs_kernels, session
from graphfuse.system import libraries, machine
from graphfuse.validation.ran import Ran, Way

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Outputs = Mapping[str, Array]

FEEDS = {"fast": 1, "full": 3}
"""How many feeds are drawn at each level, unless the user says."""


MOST_SHOWN = 4
"""Feeds that an error shows."""

DOES_NOT_RUN = (
    "run it in onnxruntime alone first; feeds can be given with --load-inputs, "
    "--input-shapes or --val-range, and `--validate sites` checks the fused nodes alone"
)


@dataclass
class Originals:
    """An original on one provider: what it gives on feeds that it runs on, run in every way."""

    original: Model
    fused: Model
    provider: str
    feeding: Feeding
    level: Level
    progress: Progress
    notes: list[str] = field(default_factory=list[str])
    ran: list[Ran] = field(default_factory=list[Ran])
    optimized: str = OPTIMIZATION_LEVELS[-1]
    """The level at which the original runs optimized: the highest that leaves it whole."""
    captured: Sequence[str] = ()
    """Tensors of the original that are kept from a run once this is done."""

    @cached_property
    def fitting(self) -> Fitting:
        """What fits into memory."""
        return Fitting(self.original, self.captured, self.notes, self.feeding.needs)

    def run_originals_somehow(self) -> None:
        """Run the original, where onnxruntime's optimiser breaks it at the levels that it leaves.

        A valid model that runs unoptimized is not at fault, but onnxruntime: it can be judged.
        """
        try:
            self._run_originals()
            return
        except OriginalModelError as error:
            broken = error
        runs: list[str] = []
        for level in OPTIMIZATION_LEVELS:
            self.optimized, self.ran = level, []
            try:
                self._run_originals(level)
            except OriginalModelError:
                if not runs:
                    raise self._unoptimized(broken) from None
                break
            runs.append(level)
        if len(runs) == len(OPTIMIZATION_LEVELS):
            return
        self.optimized, self.ran = runs[-1], []
        self._run_originals()
        self._note_levels(OPTIMIZATION_LEVELS[len(runs) :], "breaks", runs, "it", broken.message)

    def _note_levels(
        self, wrong: Sequence[str], does: str, right: Sequence[str], what: str, why: str
    ) -> None:
        """Note at which levels onnxruntime's optimiser goes wrong, and at which all is judged."""
        self.notes.append(
            f"onnxruntime {libraries.onnxruntime().__version__} {does} the original at "
            f"{' and '.join(wrong)} by its own optimiser, and runs {what} at "
            f"{' and '.join(right)}, so it is judged there: the model is not at fault ({why})"
        )

    def run_optimized_at(self, level: str) -> None:
        """Run the original's optimized ways again, on the same feeds, at another level."""
        self.optimized = level
        for optimize, kernels in [way for way in self.ran[0].before if way[0]]:
            made = self._original_session(optimize, kernels)
            for ran in self.ran:
                ran.before[optimize, kernels] = self._run_original(made, ran.feed)

    def _unoptimized(self, broken: OriginalModelError) -> OriginalModelError:
        """The error of an original that does not run unoptimized: it may run as users run it.

        PyTorch up to 1.12 declares the mean of a LayerNorm as large as x. onnxruntime takes memory
        for what is declared, unless its optimiser has put one node in the place of those.
        """
        if self.level == Level.FAST:
            return broken
        self.optimized, self.ran = OPTIMIZATION_LEVELS[-1], []
        try:
            self._run_originals(OPTIMIZATION_LEVELS[-1])
        except OriginalModelError:
            return broken
        return OriginalModelError(
            f"with optimizations off {broken.message}",
            "onnxruntime runs it with optimizations on, and `--validate fast` judges it there; "
            "what is wrong with the file onnx.checker's full check may say",
        )

    def _run_originals(self, level: str = "") -> None:
        choices = self.feeding.feeds(self.original.proto, FEEDS[self.level])
        choices = self.fitting.choose(choices, self.feeding)
        first, *more = self._original_ways()
        if level:
            # One feed tells whether it runs at a level.
            choices, first, more = choices[:1], (True, first[1]), []
        made = self._original_session(*first)
        runs = len(choices) * (1 + len(more))
        for number, alternatives in enumerate(choices):
            tell_part(self.progress, number, runs)
            # What the user gives must run; sizes that are made up need not, but for the first.
            required = number == 0 or self.feeding.inputs is not None
            found = self._first_that_runs(made, alternatives, required)
            if found is not None:
                self.fitting.keep(found[0])
                self.ran.append(Ran(found[0], {first: found[1]}))
        for done, way in enumerate(more, 1):
            del made
            made = self._original_session(*way)
            try:
                for number, ran in enumerate(self.ran):
                    tell_part(self.progress, done * len(choices) + number, runs)
                    ran.before[way] = self._run_original(made, ran.feed)
            except OriginalModelError as error:
                if first[1] == way[1]:
                    raise
                self.notes.append(f"without graphfuse's kernels {error.message}")
                return

    def _original_ways(self) -> list[Way]:
        """An original with fused nodes of ours is run with our kernels and without them."""
        levels = (True,) if self.level == Level.FAST else (False, True)
        own = runs_kernels(self.original.proto, self.provider)
        return [(level, flag) for flag in ((True, False) if own else (False,)) for level in levels]

    def _first_that_runs(
        self, made: Any, alternatives: Sequence[Feed], required: bool
    ) -> tuple[Feed, Outputs] | None:
        failures: list[OriginalModelError] = []
        for feed in filter(self.fitting.fits, alternatives):
            try:
                outputs = self._run_original(made, feed)
            except OriginalModelError as error:
                failures.append(error)
                continue
            given = self.feeding.inputs is not None or self.feeding.shapes
            if given or any(np.size(array) for array in outputs.values()):
                return feed, outputs
            failures.append(
                OriginalModelError(
                    f"every output of the original is empty ({feed.label})",
                    "give larger feeds with --input-shapes or --load-inputs",
                )
            )
        if required and failures:
            raise self._with_feeds(failures[0], alternatives)
        if failures:
            self.notes.append(f"the original does not run on other sizes ({alternatives[0].label})")
        else:
            self.fitting.leave_out(alternatives)
        return None

    def _with_feeds(self, error: OriginalModelError, tried: Sequence[Feed]) -> OriginalModelError:
        """The first failure, and all feeds that were tried in vain; memory has its own remedy."""
        shown = "; ".join(feed.shapes for feed in tried[:MOST_SHOWN])
        more = f"; and {len(tried) - MOST_SHOWN} more" if len(tried) > MOST_SHOWN else ""
        text = f"{error.message} (feeds tried: {shown}{more})"
        own = self.feeding.inputs is None and error.remedy == DOES_NOT_RUN
        path = self.original.path
        remedy = self.feeding.next_to_try(self.original.proto, path) if own else error.remedy
        return OriginalModelError(text, remedy)

    def _original_session(self, optimize: bool, kernels: bool) -> Any:
        try:
            proto, folder = self.original.proto, self.original.folder
            level = self.optimized if optimize else False
            return session(proto, folder, self.provider, level, kernels)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            raise self._does_not_run(error) from error

    def _run_original(self, made: Any, feed: Feed) -> Outputs:
        values = feed.values
        try:
            return run(made, values, self.feeding.run_limit)
        except TimeoutError as error:
            raise OriginalModelError(
                f"the original model does not run on {self.provider}: {in_one_line(error)}",
                "give smaller feeds with --input-shapes, or more time with --run-limit",
            ) from error
        except Exception as error:
            raise self._does_not_run(error) from error

    def _does_not_run(self, error: Exception) -> OriginalModelError:
        doing = f"running the original on {self.provider}"
        remedy = machine.remedy(error, doing, DOES_NOT_RUN)
        return OriginalModelError(
            f"the original model does not run on {self.provider}: {in_one_line(error, 600)}", remedy
        )
