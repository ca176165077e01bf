"""A pass for pipelines of onnx_ir and onnxscript: onnx_ir.passes.Sequential, PassManager."""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.files.limits import Limits
from graphfuse.integrations.ir_export import ir
from graphfuse.integrations.ir_models import fuse_model
from graphfuse.integrations.wanted import Wanted
from graphfuse.records import FuseResult
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import DRAWN, EVERY_SITE, AnyFeeds, Level, Selection, chosen
from graphfuse.steps.judging import Asked


class FuseResidualNorms(ir.passes.InPlacePass):
    """Fuses residual Adds with the norms that read them, in an onnx_ir.Model in place.

    What the rewrite keeps stays the same objects: nodes, values, initializers, functions, bodies.
    Run it last: passes that inline functions take graphfuse's out of their nodes.

    Args:
        ep: As for `graphfuse.fuse`.
        runtime: As for `graphfuse.fuse`.
        strict_mode: As for `graphfuse.fuse`.
        selection: Which sites, and in which form.
        level: How much is validated: none, fast, full or sites. With none, weights are not read;
            with another one the model is written to a temporary folder, and run.
        feeds: What a validation runs the models on.
        strict: Whether a site that fails is an error, instead of being put back.
        certify: Whether each fused node needs a certificate as well.
        min_fused: How many sites have to be fused, those that were before included.
        limits: The budgets of what is admitted; None for those of `graphfuse.Limits()`.
        progress: Is told of each stage.

    Raises:
        UsageError: For arguments that cannot be meant. Calling the pass raises what
            `graphfuse.optimize` does, and leaves the model as it was; a Sequential makes a
            PassError of that, whose cause it is.
    """

    def __init__(
        self,
        ep: str | Sequence[str] = "cpu",
        *,
        runtime: str | None = None,
        strict_mode: bool = False,
        selection: Selection = EVERY_SITE,
        level: Level | str = Level.NONE,
        feeds: AnyFeeds = DRAWN,
        strict: bool = False,
        certify: bool = False,
        min_fused: int = 0,
        limits: Limits | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._wanted = Wanted(
            ep=ep,
            runtime=runtime,
            strict_mode=strict_mode,
            selection=selection,
            asked=Asked(chosen(Level, level, "level"), certify=certify),
            feeds=feeds,
            strict=strict,
            min_fused=min_fused,
            limits=limits,
            progress=progress,
        )
        self._result: FuseResult | None = None

    @property
    def result(self) -> FuseResult | None:
        """What came of the last model, as of `graphfuse.optimize`; None before the first."""
        return self._result

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse a model; `modified` says whether anything was."""
        self._result = None
        self._result = fuse_model(model, self._wanted)
        return ir.passes.PassResult(model, self._result.changed)
