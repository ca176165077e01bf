"""From a PyTorch module to a fused file that is validated against the module itself.

torch.onnx.export writes the model, `optimize` fuses and validates it against what was exported, and
the fused model is then judged against eager PyTorch: its distance to a float64 twin of the module
may be no larger than 1.25 times the module's own, or than rounding each edge of the graph gives.
The twin is a copy of the module in float64 in which casts to narrower floats are lifted.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import (
    GraphfuseError,
    OriginalModelError,
    UsageError,
    ValidationError,
    in_one_line,
)
from graphfuse.files import leftovers
from graphfuse.files.model_file import Model, load, unchanged
from graphfuse.files.weights import check_output
from graphfuse.integrations.module import ModuleCall, called
from graphfuse.planning import runtimes, targets
from graphfuse.records import Check, FuseResult, ValidationReport
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import (
    EVERY_SITE,
    AnyOutput,
    Feeds,
    Level,
    Output,
    Selection,
    chosen,
    output_of,
)
from graphfuse.running.sessions import require_provider, run, session
from graphfuse.steps.fusing import Fusing
from graphfuse.steps.judging import Asked
from graphfuse.steps.opening import write
from graphfuse.system import machine
from graphfuse.types.shapes import type_of
from graphfuse.validation.outputs import OutputJudge
from graphfuse.validation.reference import Twin
from graphfuse.validation.rounding import RoundedSamples
from graphfuse.validation.tolerance import MEANING_BOUND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def export(
    module: Any,
    args: Sequence[Any] | None,
    output: AnyOutput | None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    ep: str | Sequence[str] = "cpu",
    runtime: str | None = None,
    strict_mode: bool = False,
    selection: Selection = EVERY_SITE,
    level: Level | str = Level.FAST,
    strict: bool = False,
    min_fused: int = 0,
    progress: Progress = SILENT,
) -> FuseResult:
    """Export a module in eval mode, or a program, fuse it, validate it, and write it atomically.

    The fused model is validated against what PyTorch exported, and against eager PyTorch: its
    distance to a float64 twin of the module may be no larger than 1.25 times the module's own, or
    than rounding each edge of the graph gives.

    Args:
        module: The torch.nn.Module, or a torch.export.ExportedProgram.
        args: What it is called with, as for torch.onnx.export: the feeds of every comparison. None
            for those that a program was exported with.
        output: The file to write, or an `Output`; None for a run that writes none. Weights beyond
            1 GiB go to a file beside it.
        kwargs: As for torch.onnx.export, like the four that follow.
        dynamic_shapes: Which extents are symbols; a program has its own.
        input_names: Names of the model's inputs.
        output_names: Names of its outputs.
        opset: The version of ONNX's operators.
        ep: As for `fuse`.
        runtime: As for `fuse`.
        strict_mode: As for `fuse`.
        selection: As for `fuse`.
        level: As for `optimize`; the comparison with eager PyTorch is always made.
        strict: As for `optimize`.
        min_fused: As for `optimize`.
        progress: Is told of each stage.

    Returns:
        The result of `optimize`; its report has the checks against PyTorch as well, and in its
        notes what they refer to.

    Raises:
        ProviderError: When torch, onnxscript or the provider is missing.
        OriginalModelError: When PyTorch cannot export the module, as `opset` where that is said,
            or the module gives other numbers in each call.
        UsageError: For a module in training mode, or an output that exists without `force`.
        ValidationError: When the fused model fails; nothing is written.
        WriteError: When the output cannot be written.

    Example:
        >>> import torch
        >>> block = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
        >>> graphfuse.export(block, (torch.ones(1, 5, 16),), "block.onnx").validation.passed
        True
    """
    call = called(module, args, {} if kwargs is None else kwargs)
    level = chosen(Level, level, "level")
    if call.program is not None and dynamic_shapes is not None:
        raise UsageError(
            "a program of torch.export has its own dynamic shapes",
            "say them to torch.export.export, or give the module",
        )
    file, target = None if output is None else output_of(output), targets.target(ep)
    known = runtimes.runtime(runtime)
    # Now, not after minutes of exporting: the comparison with PyTorch runs on it.
    require_provider(target.provider, targets.since(target))
    with _workplace(file) as folder:
        exported = folder / ("model.onnx" if file is None else file.path.name)
        progress.stage("exporting")
        names = {"input_names": input_names, "output_names": output_names}
        call.export(exported, dynamic_shapes=dynamic_shapes, opset_version=opset, **names)
        source = load(exported)
        _require_opset(source.proto, opset)
        arrays = call.feeds(source.proto)
        eager = call.steady()
        feeds = Feeds(inputs=arrays)
        fusing = Fusing(source, target, selection, known, strict_mode, feeds, progress)
        with unchanged(source):
            result = fusing.accepted(Asked(level), strict, min_fused)
        progress.stage("comparing with eager PyTorch")
        report = _with_eager(call, eager, source, result, arrays, target.provider)
        _require(report)
        # What was read is PyTorch's own file, which goes with this folder.
        result = replace(result, validation=report, read=())
        return result if file is None else write(result, source, file, progress)


@contextlib.contextmanager
def _workplace(file: Output | None) -> Generator[Path]:
    """A folder for what PyTorch writes: beside the output, so that it has room for two."""
    if file is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    check_output(file, Model(onnx.ModelProto(), None, file.path.parent))
    leftovers.remove(file.path.parent)
    with leftovers.scratch(file.path) as folder:
        yield folder


def _require(report: ValidationReport) -> None:
    """Raise ValidationError when a check failed."""
    if not report.passed:
        worst = report.failures[0]
        raise ValidationError(
            f"the fused model is not what the module computes: {worst.gate} of {worst.subject} "
            f"is {worst.value:.3g}, bound {worst.bound:.3g} ({worst.where})",
            "nothing was written; compare torch.onnx.export's own file with the module",
        )


def _require_opset(model: onnx.ModelProto, wanted: int | None) -> None:
    """Raise OriginalModelError for another opset than was asked for: PyTorch only logs that."""
    written = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if wanted is not None and written != wanted:
        raise OriginalModelError(
            f"PyTorch cannot export the module as opset {wanted}: it wrote opset {written}",
            f"leave `opset` out, or ask for {written}",
        )


def _with_eager(
    call: ModuleCall,
    eager: Sequence[Array],
    source: Model,
    result: FuseResult,
    feeds: Mapping[str, Array],
    provider: str,
) -> ValidationReport:
    """The report of a result, with checks of each output against the module itself."""
    report = result.validation or ValidationReport((), (provider,), 0, Level.NONE)
    names = [value.name for value in source.proto.graph.output]
    exact = call.exact()
    if len(eager) != len(names):
        raise UsageError(
            f"the exported model gives {len(names)} outputs, the module {len(eager)} tensors",
            "let the module return tensors, or tuples of them",
        )
    where = f"{provider}, against eager PyTorch"
    if isinstance(exact, str):
        note = f"PyTorch's own results are the reference: the module has no float64 twin ({exact})"
        exact = eager
    else:
        note = "the fused model was compared with the module's float64 twin in PyTorch"
    results = _results(source, result, feeds, provider)
    rounded = _Rounded(source, feeds)
    checks: list[Check] = []
    for value, base, reference in zip(source.proto.graph.output, eager, exact, strict=True):
        elem_type = type_of(value.type).elem_type
        judge = OutputJudge(
            value.name,
            elem_type,
            reference,
            [base],
            lambda name=value.name, exact=reference: rounded.values(name, exact),
            rounded.decides,
            # A module in float64 is its own twin: as for two twins, the question is the meaning.
            MEANING_BOUND if elem_type == onnx.TensorProto.DOUBLE else 0.0,
        )
        checks += judge.checks(results[value.name], base, where)
    return replace(report, checks=(*report.checks, *checks), notes=(*report.notes, note))


def _results(
    source: Model, result: FuseResult, feeds: Mapping[str, Array], provider: str
) -> dict[str, Array]:
    """What the fused model gives; an error that says which model it is when it does not run."""
    try:
        return run(session(result.proto, source.folder, provider), feeds)
    except GraphfuseError:
        raise
    except Exception as error:
        # onnxruntime raises its own classes.
        machine.check(error, f"running the fused model on {provider}")
        text = f"does not run on {provider}: {in_one_line(error)}"
        if result.changed:
            raise ValidationError(f"the fused model {text}", "nothing was written") from error
        raise OriginalModelError(
            f"the exported model {text}", "run torch.onnx.export's own file in onnxruntime first"
        ) from error


class _Rounded:
    """What rounding each edge of the exported graph to its type does to its outputs.

    It is measured from the graph's own float64 twin, not from the module's: a graph that computes
    something else must not widen its own bound.
    """

    def __init__(self, model: Model, feeds: Mapping[str, Array]) -> None:
        self._model, self._feeds = model, feeds

    @cached_property
    def _twin(self) -> Twin:
        return Twin(self._model)

    @cached_property
    def _samples(self) -> RoundedSamples:
        return RoundedSamples(self._twin, self._feeds)

    @property
    def decides(self) -> bool:
        """Whether one sample can be any distance from another."""
        return self._samples.decides

    @cached_property
    def _plain(self) -> Mapping[str, Array]:
        return self._twin.run(self._feeds)

    def values(self, name: str, exact: Array) -> Iterator[Array]:
        """The module's own float64 output as that rounding would have it: samples."""
        for sample in self._samples:
            yield exact.astype(np.float64) + (sample[name] - self._plain[name])
