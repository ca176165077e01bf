"""The whole model against its original: meaning (G0) and accuracy end to end (G2 to G4).

One session is open at a time. The original runs first, with optimizations off and on: which feeds
it takes is known then. The float64 twins give the reference, and each way of running the fused
model is judged as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx

from graphfuse.errors import OriginalModelError, UsageError, in_one_line
from graphfuse.graph.scopes import function_key
from graphfuse.records import Check, NotShown
from graphfuse.records.progress import tell_part
from graphfuse.records.requests import Level
from graphfuse.running.feeding import Feed
from graphfuse.running.profiler import profile, require_fused_on
from graphfuse.running.sessions import (
    CPU,
    OPTIMIZATION_LEVELS,
    plain_options,
    run,
    runs_kernels,
    session,
)
from graphfuse.system import machine
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.lifting import added_to
from graphfuse.validation.lockstep import Lockstep
from graphfuse.validation.originals import Originals
from graphfuse.validation.outputs import OutputJudge
from graphfuse.validation.ran import Ran, Way, elem_type_of, is_numeric, type_of_array
from graphfuse.validation.reference import MAIN_PATH, Twin
from graphfuse.validation.rounding import RoundedSamples, draws
from graphfuse.views.keys import ScopeKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Outputs = Mapping[str, Array]

BRANCHES = ("then_branch", "else_branch")


@dataclass
class WholeModel(Originals):
    """Two models on one provider; `run` gives the checks, and what it found on the way."""

    wrong: list[str] = field(default_factory=list[str])
    strays: dict[str, NotShown] = field(default_factory=dict[str, NotShown])
    """Outputs of which runs show nothing, as the original is not what its twin is."""

    @cached_property
    def twins(self) -> Lockstep:
        """The float64 twins of both models."""
        limit = self.feeding.run_limit
        one, other = self.original, self.fused
        return Lockstep(
            Twin(one, limit, added_to(one, other)), Twin(other, limit, added_to(other, one))
        )

    def run(self) -> list[Check]:
        """Run everything. Raises OriginalModelError when the original runs on no feed.

        Raises TooLargeError when it would not fit into memory on any.
        """
        self.progress.stage(f"running the original on {self.provider}")
        self.run_originals_somehow()
        checks: list[Check] = []
        for done, ran in enumerate(self.ran):
            self.progress.stage(f"evaluating in float64 ({ran.feed.label})")
            tell_part(self.progress, done, len(self.ran))
            try:
                checks += self._meaning(ran)
            except UnsupportedModelError:
                failure = self._fails_to_run(ran)
                if failure is None:
                    raise
                return [*checks, failure]
        taken = self.twins.original.taken.items()
        half = [path for path, bodies in taken if len(bodies) == 1 and bodies < set(BRANCHES)]
        if half:
            first = cast("tuple[str, ...]", half[0][-1])[0]
            self.notes.append(
                f"of {len(half)} If nodes, such as that of {first!r}, one branch was taken "
                "on all feeds: the other was not run"
            )
        self.progress.stage(f"comparing the original with float64, on {self.provider}")
        self._look_for_strays()
        self.progress.stage(f"running the fused model on {self.provider}")
        ways = self.ways()
        for done, way in enumerate(ways):
            checks += self._end_to_end(*way, told=(done, len(ways)))
        if self.provider != CPU and all(check.passed for check in checks):
            self.progress.stage(f"looking where the fused nodes ran, on {self.provider}")
            self._require_placement()
        return checks

    def _look_for_strays(self) -> None:
        """Find outputs in which the original's runs are not what it means, and why.

        Where only onnxruntime's optimiser makes them so, it is judged at the levels that do not:
        the model is not at fault.
        """
        if draws(self.twins.original.proto.graph):
            # Numbers drawn at random differ from those that float64 draws, as from run to run.
            return
        self.strays = self._strays()
        if not self.strays:
            return
        asked, kept = self.optimized, [dict(ran.before) for ran in self.ran]
        strays, levels = self.strays, OPTIMIZATION_LEVELS[: OPTIMIZATION_LEVELS.index(asked)]
        for level in reversed(levels):
            try:
                self.run_optimized_at(level)
            except OriginalModelError:
                break
            self.strays = self._strays()
            if not self.strays:
                right = OPTIMIZATION_LEVELS.index(level) + 1
                first = next(iter(strays.values()))
                self._note_levels(
                    OPTIMIZATION_LEVELS[right : OPTIMIZATION_LEVELS.index(asked) + 1],
                    "makes another model of",
                    OPTIMIZATION_LEVELS[:right],
                    "what it says",
                    f"{first.subject}: {first.why}",
                )
                return
        self.optimized, self.strays = asked, strays
        for ran, before in zip(self.ran, kept, strict=True):
            ran.before = before

    def _strays(self) -> dict[str, NotShown]:
        found: dict[str, NotShown] = {}
        for ran in self.ran:
            for name in dict.fromkeys(self.twins.original.outputs):
                kernels = next(flag for _, flag in ran.before)
                why = self._judge(ran, name, kernels).strays
                if why:
                    subject = f"output {name!r}"
                    found[subject] = NotShown(subject, f"{why} ({ran.feed.label})")
        return found

    def _require_placement(self) -> None:
        """Raise ProviderError when fused nodes ran elsewhere: onnxruntime falls back silently."""
        make = partial(session, self.fused.proto, self.fused.folder, self.provider, True, None)
        spent = profile(make, plain_options(), self.ran[0].feed.values, 1)
        require_fused_on(spent, self.provider)

    def reached(self, scope: ScopeKey) -> bool:
        """Whether the walk of the twins has evaluated a graph of the fused model.

        A body inside a function is taken for one that it has not.
        """
        if scope[0] == "function":
            return len(scope) == 4 and scope[1:] in self._called
        taken = self.twins.fused.taken
        return all(
            attribute in taken.get(scope[: 3 * step + 2], ())
            for step, attribute in enumerate(scope[2::3])
        )

    @cached_property
    def _called(self) -> set[ScopeKey]:
        """The functions that were called, at the end of all runs: in graphs that were evaluated."""
        proto = self.fused.proto
        functions = {function_key(function): function for function in proto.functions}
        found: set[ScopeKey] = set()
        pending: list[tuple[ScopeKey, Iterable[onnx.NodeProto]]] = [(MAIN_PATH, proto.graph.node)]
        while pending:
            scope, nodes = pending.pop()
            for node in nodes:
                key = function_key(node)
                if key in functions and key not in found:
                    found.add(key)
                    pending.append((("function", *key), functions[key].node))
                for attribute in node.attribute:
                    body = (*scope, tuple(node.output), attribute.name, 0)
                    if attribute.HasField("g") and self.reached(body):
                        pending.append((body, attribute.g.node))
        return found

    def ways(self) -> list[Way]:
        """How the fused model is run.

        Whoever has no kernels runs the functions' bodies, so those are run as well.
        """
        kernels = runs_kernels(self.fused.proto, self.provider)
        if self.level == Level.FAST:
            return [(True, kernels)]
        if kernels:
            return [(False, True), (True, True), (True, False)]
        return [(False, False), (True, False)]

    def _meaning(self, ran: Ran) -> list[Check]:
        ran.meaning = self.twins.run(ran.feed.values)
        outputs = (ran.meaning.values[name] for name in self.twins.original.outputs)
        arrays = [array for array in outputs if is_numeric(array)]
        if arrays and not any(np.isfinite(array).any() for array in arrays):
            what = "finite" if any(array.size for array in arrays) else "other than empty"
            raise UsageError(
                f"no output of the original is {what} ({ran.feed.label}): nothing can be compared",
                "give other feeds with --load-inputs or --input-shapes",
            )
        self.wrong += ran.meaning.wrong
        held = self.twins.original.weights
        changed = sorted(name for name in self.twins.changed if name in held)
        if changed and ran is self.ran[0]:
            self.notes.append(
                f"{len(changed)} weights differ between the models, such as {changed[0]!r}: "
                "what the feeds read of them is compared"
            )
        stray = dict.fromkeys((*self.twins.original.ignored, *self.twins.fused.ignored))
        if stray and ran is self.ran[0]:
            self.notes.append(
                f"{len(stray)} attribute{'s' if len(stray) > 1 else ''} that no operator has, such "
                f"as {next(iter(stray))}, count for nothing here, as in onnxruntime"
            )
        if ran.meaning.unjudged and ran is self.ran[0]:
            self.notes.append(
                f"{len(ran.meaning.unjudged)} tensors, such as {ran.meaning.unjudged[0]!r}, are "
                "computed by operators without a float64 meaning: G0 leaves them to G2"
            )
        checks = ran.meaning.checks(self.twins.original.outputs, f"float64, {ran.feed.label}")
        return [replace(check, repeat=self._repeat(ran.feed)) for check in checks]

    def _fails_to_run(self, ran: Ran) -> Check | None:
        """The failed check where the fused model does not run on what the original ran on.

        The twin of such a model does not run either, and not for want of a meaning in float64.
        """
        optimize, kernels = self.ways()[0]
        proto, folder = self.fused.proto, self.fused.folder
        try:
            run(session(proto, folder, self.provider, optimize, kernels), ran.feed.values)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            machine.check(error, f"running the fused model on {self.provider}")
            return self._does_not_run_fused(ran, f"{self.provider}: {in_one_line(error)}")
        return None

    def _does_not_run_fused(self, ran: Ran, where: str) -> Check:
        subject = f"the fused model does not run on {ran.feed.label}, the original does"
        return Check("G2", subject, float("inf"), 0.0, where, False, self._repeat(ran.feed))

    def _end_to_end(self, optimize: bool, kernels: bool, told: tuple[int, int]) -> list[Check]:
        """Checks of every output; `told` are the ways that are done, and all of them."""
        checks: list[Check] = []
        made = None
        level: bool | str = optimize
        if optimize and self._is_broken_too(kernels):
            level = self.optimized
        runs = len(self.ran)
        for number, ran in enumerate(self.ran):
            tell_part(self.progress, told[0] * runs + number, told[1] * runs)
            where = f"{self.provider}, {ran.feed.label}, "
            where += f"optimizations {'on' if optimize else 'off'}"
            where += ", graphfuse kernels" if kernels else ""
            try:
                if made is None:
                    proto, folder = self.fused.proto, self.fused.folder
                    made = session(proto, folder, self.provider, level, kernels)
                results = run(made, ran.feed.values)
            except Exception as error:
                # onnxruntime raises its own classes, one per failure code.
                machine.check(error, f"running the fused model on {self.provider}")
                text = f"{where}: {in_one_line(error)}"
                return [*checks, self._does_not_run_fused(ran, text)]
            for name in dict.fromkeys(self.twins.original.outputs):
                alike = ran.like(kernels)
                judge, base = self._judge(ran, name, kernels), alike[optimize][name]
                found = judge.checks(results[name], base, where)
                checks += [replace(check, repeat=self._repeat(ran.feed)) for check in found]
        return checks

    def _is_broken_too(self, kernels: bool) -> bool:
        """Whether onnxruntime's optimiser breaks the fused model as the original, fully optimized.

        It does where the fused nodes are run by their functions, or what it breaks is elsewhere.
        """
        if self.optimized == OPTIMIZATION_LEVELS[-1]:
            return False
        proto, folder = self.fused.proto, self.fused.folder
        try:
            made = session(proto, folder, self.provider, True, kernels)
            broken = any(self._stray(ran, run(made, ran.feed.values)) for ran in self.ran)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            machine.check(error, f"running the fused model on {self.provider}")
            broken = True
        if broken:
            how = "" if kernels else " where graphfuse's kernels are not registered"
            self.notes.append(
                f"so it does to the fused model{how}, which is judged at {self.optimized} as well"
            )
        return broken

    def _stray(self, ran: Ran, results: Outputs) -> bool:
        """Whether outputs of the fused model are far from what the original means."""
        kernels = next(flag for _, flag in ran.before)
        judges = {name: self._judge(ran, name, kernels) for name in self.twins.original.outputs}
        return any(
            replace(judge, originals=[results[name]]).strays for name, judge in judges.items()
        )

    def _judge(self, ran: Ran, name: str, kernels: bool) -> OutputJudge:
        value = next(value for value in self.original.proto.graph.output if value.name == name)
        alike = ran.like(kernels)
        ran.samples = samples = ran.samples or RoundedSamples(self.twins.original, ran.feed.values)
        return OutputJudge(
            name,
            elem_type_of(value.type) or type_of_array(next(iter(alike.values()))[name]),
            ran.meaning.values[name],
            [outputs[name] for outputs in alike.values()],
            lambda: (outputs[name] for outputs in samples),
            samples.decides,
            peers=lambda: (self._judge(each, name, kernels) for each in self.ran),
        )

    def _repeat(self, feed: Feed) -> str:
        return f"--validate {self.level} {feed.repeat}".strip()
