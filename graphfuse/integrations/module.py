"""A PyTorch module and what it is called with: exported, run as it is, and run in float64."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import OriginalModelError, ProviderError, UsageError, in_one_line
from graphfuse.system import machine
from graphfuse.validation.tolerance import FLOAT, distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LARGE = 2**30
"""Bytes of weights beyond which they are written beside the model, not into it."""

STEADY = 16
"""Unit roundoffs that two calls of a module may be apart: a GPU adds in any order."""


class NotExportedError(OriginalModelError):
    """PyTorch's exporter does not take the module; `cause` is what it said."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(
            f"PyTorch cannot export the module ({cause})",
            "make `torch.onnx.export(..., dynamo=True)` work on it first",
        )


def called(module: Any, args: Any, kwargs: Any) -> ModuleCall:
    """A module, or a program of torch.export, and its arguments.

    Raises UsageError for what is none, or is a module in training mode.
    """
    torch, program = torch_module(), None
    if isinstance(module, torch.export.ExportedProgram):
        # Its graph is what was traced: it has no other mode.
        program, module = module, module.module()
        args, kwargs = _example(program, args, kwargs)
    elif not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"export was given a {type(module).__name__}, not a torch.nn.Module",
            "call it from the forward of one",
        )
    else:
        trained = next((name for name, part in module.named_modules() if part.training), None)
        if trained is not None:
            what = f"the module's part {trained!r}" if trained else "the module"
            raise UsageError(f"{what} is in training mode", "call `module.eval()` first")
    # A tensor is a sequence as well: of its rows.
    if not isinstance(args, list | tuple):
        raise UsageError(
            f"args has type {type(args).__name__}, not tuple", "pass `(x,)` for one argument"
        )
    if not isinstance(kwargs, Mapping):
        raise UsageError(
            f"kwargs has type {type(kwargs).__name__}, not dict", "pass arguments by their names"
        )
    return ModuleCall(torch, module, tuple(args), dict(kwargs), program)


def _example(program: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a program: those that it was exported with, where none are given."""
    if args is not None:
        return args, kwargs
    if program.example_inputs is None:
        raise UsageError(
            "the program holds no example inputs", "pass the arguments that it is to be run with"
        )
    return program.example_inputs


def torch_module() -> Any:
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
class ModuleCall:
    """A module and what it is called with."""

    torch: Any
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    program: Any = None
    """The torch.export.ExportedProgram that `module` is of, if it is of one."""

    def export(self, path: Path, **options: Any) -> None:
        """torch.onnx.export; OriginalModelError with its innermost cause when it fails."""
        weights = [*self.module.parameters(), *self.module.buffers()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
        try:
            with warnings.catch_warnings(), self.torch.no_grad():
                # The exporter warns about its own internals; what it wrote is checked.
                warnings.simplefilter("ignore")
                self.torch.onnx.export(
                    self.module if self.program is None else self.program,
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
            machine.check(error, "exporting the module")
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            text = " ".join(str(cause).split())[:300]
            raise NotExportedError(f"{type(cause).__name__}: {text}") from error
        _number_axes(path)

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
        """What the module gives; it may change its buffers and arguments, and gets copies."""
        torch = self.torch
        buffers = {name: each.clone() for name, each in self.module.named_buffers()}
        args, kwargs = torch.utils._pytree.tree_map(self._copied, (self.args, self.kwargs))
        try:
            with torch.no_grad():
                given = torch.func.functional_call(self.module, buffers, args, kwargs)
        except Exception as error:
            # A module may raise anything, such as for an index that only real numbers show.
            usual = "call it with the same arguments in PyTorch first"
            raise OriginalModelError(
                f"the module does not run ({type(error).__name__}: {in_one_line(error)})",
                machine.remedy(error, "running the module", usual),
            ) from error
        return [_array(each) for each in self.tensors(given)]

    def steady(self) -> list[Array]:
        """The same, of a module that gives it twice: what is random has any distance to float64."""
        once, again = self.eager(), self.eager()
        if not once:
            raise UsageError("the module gives no tensors", "let it return those it computes")
        for one, other in zip(once, again, strict=True):
            number = FLOAT.get(onnx.helper.np_dtype_to_tensor_dtype(one.dtype))
            if number is None:
                continue  # Integers are judged as such.
            apart = distance(other.astype(np.float64), one.astype(np.float64))
            if apart > STEADY * number.roundoff:
                raise OriginalModelError(
                    f"the module gives other numbers in each call ({apart:.2g} apart): a fused "
                    "model cannot be compared with it",
                    "turn off its dropout or sampling, or give it random numbers and state as "
                    "arguments",
                )
        return once

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
            machine.check(error, "running the module in float64")
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        narrow = [r for r in results if r.is_floating_point() and r.dtype != torch.float64]
        return f"an output stays {narrow[0].dtype}" if narrow else [_array(r) for r in results]

    def _double(self, value: Any) -> Any:
        value = self._copied(value)
        floats = isinstance(value, self.torch.Tensor) and value.is_floating_point()
        return value.double() if floats else value

    def _copied(self, value: Any) -> Any:
        return value.detach().clone() if isinstance(value, self.torch.Tensor) else value


def _number_axes(path: Path) -> None:
    """Write axes that PyTorch found to be numbers as such: it makes symbols called `7` of them."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    found = [
        dim
        for value in (*graph.input, *graph.output, *graph.value_info)
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param.isdecimal()
    ]
    for dim in found:
        dim.dim_value = int(dim.dim_param)
    if found:
        path.write_bytes(model.SerializeToString())


def _lifting(torch: Any) -> Any:
    """A context in which whatever is made or cast as a narrower float becomes float64."""
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    base: Any = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode

    class Lifting(base):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if "_assert_tensor_metadata" in str(function):
                # A program says of what type its tensors were when it was traced.
                return None
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
