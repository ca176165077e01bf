"""From a PyTorch module to a fused file that is validated against the module itself.

torch.onnx.export writes the model, `optimize` fuses and validates it against what was exported, and
the fused model is then judged against eager PyTorch: its distance to a float64 twin of the module
may be no larger than 1.25 times the module's own, or than rounding each edge of the graph gives.
The twin is a copy of the module in float64 in which casts to narrower floats are lifted.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
import importlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse import targets
from graphfuse.errors import (
    OriginalModelError,
    ProviderError,
    UsageError,
    ValidationError,
    in_one_line,
)
from graphfuse.fusing import LEVELS, Stage, silent
from graphfuse.graph.model_file import Model, load
from graphfuse.graph.shapes import type_of
from graphfuse.graph.weights import Target, check_output
from graphfuse.pipeline import optimize, write
from graphfuse.records import Check, FuseResult, ValidationReport
from graphfuse.runtime import run, session
from graphfuse.validation.outputs import OutputJudge
from graphfuse.validation.reference import RoundedSamples, Twin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LARGE = 2**30
"""Bytes of weights beyond which they are written beside the model, not into it."""


def export(
    module: Any,
    args: Sequence[Any],
    path: str | Path,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    ep: str = "cpu",
    fold_bias: bool = False,
    validation: str = "fast",
    strict: bool = False,
    min_fused: int = 0,
    force: bool = False,
    stage: Stage = silent,
) -> FuseResult:
    """Export a torch.nn.Module in eval mode, fuse it, validate it, and write `path` atomically.

    `args` and `kwargs` are what the module is called with, as for torch.onnx.export, which also
    takes `dynamic_shapes`, `input_names`, `output_names` and `opset`. They are the feeds of the
    validation, at a level of `validate` or none, and of the comparison with eager PyTorch, which is
    made always. Weights beyond 1 GiB go to `path`.data. Returns the result of `optimize`; its
    report has the checks against PyTorch as well, and in its notes what they refer to.

    Raises ProviderError when torch or onnxscript is missing, OriginalModelError when PyTorch cannot
    export the module, UsageError for a module in training mode or an output that exists without
    `force`, and ValidationError (nothing is written) when the fused model fails.
    """
    torch = _torch()
    if getattr(module, "training", True):
        raise UsageError("the module is in training mode", "call `module.eval()` first")
    if validation not in LEVELS:
        raise UsageError(f"unknown level {validation!r}", f"choose one of {', '.join(LEVELS)}")
    target = Target(Path(path), force=force)
    call = _Call(torch, module, tuple(args), dict(kwargs or {}))
    targets.target(ep)
    where = target.path
    check_output(target, Model(onnx.ModelProto(), None, where.parent))
    with tempfile.TemporaryDirectory(
        dir=where.parent, prefix=f".{where.name}.", suffix=".graphfuse-tmp"
    ) as folder:
        exported = Path(folder, where.name)
        stage("exporting")
        names = {"input_names": input_names, "output_names": output_names}
        call.export(exported, dynamic_shapes=dynamic_shapes, opset_version=opset, **names)
        source = load(exported)
        feeds = call.feeds(source.proto)
        result = optimize(
            exported,
            where,
            ep,
            fold_bias=fold_bias,
            validation=validation,
            strict=strict,
            inputs=feeds,
            min_fused=min_fused,
            dry_run=True,
            stage=stage,
        )
        stage("comparing with eager PyTorch")
        report = _with_eager(call, source, result, feeds, ep)
        _require(report)
        result = replace(result, validation=report)
        return write(result, source, target, stage)


def _require(report: ValidationReport) -> None:
    """Raise ValidationError when a check failed."""
    if not report.passed:
        worst = report.failures[0]
        raise ValidationError(
            f"the fused model is not what the module computes: {worst.gate} of {worst.subject} "
            f"is {worst.value:.3g}, bound {worst.bound:.3g} ({worst.where})",
            "nothing was written; compare torch.onnx.export's own file with the module",
        )


def _torch() -> Any:
    """The module torch; ProviderError naming the extra when it, or onnxscript, is missing."""
    for name in ("onnxscript", "torch"):
        try:
            found = importlib.import_module(name)
        except ImportError as error:
            raise ProviderError(
                f"{name} cannot be imported ({error})",
                "install it with `pip install 'graphfuse[torch]'`",
            ) from error
    return found


@dataclass(frozen=True)
class _Call:
    """A module and what it is called with."""

    torch: Any
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def export(self, path: Path, **options: Any) -> None:
        """torch.onnx.export; OriginalModelError with its innermost cause when it fails."""
        weights = [*self.module.parameters(), *self.module.buffers()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
        try:
            with warnings.catch_warnings(), self.torch.no_grad():
                # The exporter warns about its own internals; what it wrote is checked.
                warnings.simplefilter("ignore")
                self.torch.onnx.export(
                    self.module,
                    self.args,
                    str(path),
                    kwargs=self.kwargs or None,
                    dynamo=True,
                    verbose=False,
                    external_data=size > LARGE,
                    **options,
                )
        except Exception as error:
            # The exporter raises anything, wrapped in advice.
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            text = " ".join(str(cause).split())[:300]
            raise OriginalModelError(
                f"PyTorch cannot export the module ({type(cause).__name__}: {text})",
                "make `torch.onnx.export(..., dynamo=True)` work on it first",
            ) from error

    def tensors(self, value: Any) -> list[Any]:
        """The tensors in nested arguments or results, in order."""
        leaves = self.torch.utils._pytree.tree_leaves(value)
        return [leaf for leaf in leaves if isinstance(leaf, self.torch.Tensor)]

    def feeds(self, model: onnx.ModelProto) -> dict[str, Array]:
        """The arguments by the names of the model's inputs."""
        names = [value.name for value in model.graph.input]
        given = self.tensors((self.args, self.kwargs))
        if len(names) != len(given):
            raise UsageError(
                f"the exported model takes {len(names)} inputs ({', '.join(names)}), the module "
                f"was given {len(given)} tensors",
                "give the module the tensors that it reads, and nothing else",
            )
        return {name: _array(tensor) for name, tensor in zip(names, given, strict=True)}

    def eager(self) -> list[Array]:
        """What the module gives."""
        with self.torch.no_grad():
            return [_array(each) for each in self.tensors(self.module(*self.args, **self.kwargs))]

    def exact(self) -> list[Array] | str:
        """What its float64 twin gives, or why there is none."""
        torch = self.torch
        try:
            twin = copy.deepcopy(self.module).to(torch.float64)
            args, kwargs = torch.utils._pytree.tree_map(self._double, (self.args, self.kwargs))
            with torch.no_grad(), _lifting(torch):
                results = self.tensors(twin(*args, **kwargs))
        except Exception as error:
            # A module may do anything that is not possible in another type.
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        narrow = [r for r in results if r.is_floating_point() and r.dtype != torch.float64]
        return f"an output stays {narrow[0].dtype}" if narrow else [_array(r) for r in results]

    def _double(self, value: Any) -> Any:
        floats = isinstance(value, self.torch.Tensor) and value.is_floating_point()
        return value.double() if floats else value


def _lifting(torch: Any) -> Any:
    """A context in which whatever is made or cast as a narrower float becomes float64."""
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    base: Any = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode

    class Lifting(base):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            if kwargs.get("dtype") in narrow:
                kwargs["dtype"] = torch.float64
            return function(*args, **kwargs)

    return Lifting()


def _array(tensor: Any) -> Array:
    """A tensor as numpy has it; bfloat16 as ml_dtypes has it, as onnx does."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        number = onnx.TensorProto.BFLOAT16
        return tensor.float().numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(number))
    return np.asarray(tensor.numpy())


def _with_eager(
    call: _Call, source: Model, result: FuseResult, feeds: Mapping[str, Array], ep: str
) -> ValidationReport:
    """The report of a result, with checks of each output against the module itself."""
    provider = targets.target(ep).provider
    report = result.validation or ValidationReport((), (provider,), 0, "none")
    names = [value.name for value in source.proto.graph.output]
    eager, exact = call.eager(), call.exact()
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
    try:
        made = session(result.proto, source.folder, provider)
        results = run(made, feeds)
    except Exception as error:
        # onnxruntime raises its own classes.
        text = in_one_line(error)
        failed = Check("G2", "the fused model does not run", float("inf"), 0.0, text, False)
        return replace(report, checks=(*report.checks, failed))
    rounded = _Rounded(source, feeds)
    checks: list[Check] = []
    for value, base, reference in zip(source.proto.graph.output, eager, exact, strict=True):
        judge = OutputJudge(
            value.name,
            type_of(value.type).elem_type,
            reference,
            [base],
            lambda name=value.name, exact=reference: rounded.values(name, exact),
            rounded.decides,
        )
        checks += judge.checks(results[value.name], base, where)
    return replace(report, checks=(*report.checks, *checks), notes=(*report.notes, note))


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
