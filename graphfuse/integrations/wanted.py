"""How a model is fused that a program of others holds: what `optimize` takes, but for the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphfuse.files.limits import Limits
from graphfuse.files.model_file import Model, unchanged
from graphfuse.planning import runtimes, targets
from graphfuse.records import FuseResult, arguments
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import (
    DRAWN,
    EVERY_SITE,
    AnyFeeds,
    Costs,
    Level,
    Selection,
    feeds_of,
)
from graphfuse.steps.fusing import Fusing
from graphfuse.steps.judging import Asked


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The arguments of `optimize`, as they are given; `asked` is what is validated.

    Raises UsageError for those that cannot be meant.
    """

    ep: str | Sequence[str] = "cpu"
    runtime: str | None = None
    strict_mode: bool = False
    selection: Selection = EVERY_SITE
    asked: Asked = Asked(Level.NONE)  # noqa: RUF009 - it is frozen
    feeds: AnyFeeds = DRAWN
    strict: bool = False
    min_fused: int = 0
    limits: Limits | None = None
    progress: Progress = SILENT

    def __post_init__(self) -> None:
        """What is not looked at here, Fusing looks at, before it changes anything."""
        arguments.expect("selection", self.selection, Selection, "give a graphfuse.Selection")
        arguments.flag("strict", self.strict)
        arguments.count("min_fused", self.min_fused)
        if self.limits is not None:
            arguments.expect("limits", self.limits, Limits, "give a graphfuse.Limits")

    @property
    def runs(self) -> bool:
        """Whether anything of the model is run."""
        measures = self.selection.costs == Costs.AUTOTUNE
        return self.asked.level != Level.NONE or self.asked.certify or measures

    def fused(self, source: Model) -> FuseResult:
        """A model, rewritten and judged as wanted; raises what `optimize` does."""
        target, known = targets.target(self.ep), runtimes.runtime(self.runtime)
        feeds = feeds_of(self.feeds)
        selection, strict_mode = self.selection, self.strict_mode
        fusing = Fusing(source, target, selection, known, strict_mode, feeds, self.progress)
        with unchanged(source):
            return fusing.accepted(self.asked, self.strict, self.min_fused)
