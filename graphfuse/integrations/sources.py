"""What `graphfuse export` takes: a program, a folder of Hugging Face, or a function.

A program saved by torch.export.save is read by torch.export.load, which unpickles: it can run any
code, as a function can. A folder is data: its weights are safetensors, its classes those of the
installed transformers.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from graphfuse.errors import ModelError, OriginalModelError, UsageError, in_one_line
from graphfuse.integrations.module import torch_module
from graphfuse.system import machine

NAMEABLE = (
    "name a program saved by torch.export.save (.pt2), a folder with config.json and safetensors, "
    "or package.module:function"
)

FUNCTION_NAME = re.compile(r"(?P<home>[^:]+):(?P<name>[A-Za-z_]\w*)")

RETURNS = (
    "let it return a module in eval mode and a tuple of its arguments, or "
    "`module, (arguments, keywords)`"
)

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Exportable:
    """What is to be exported, what it is called with, and what its outputs are called if known.

    `program` says that it is one of torch.export, whose shapes and types are fixed.
    """

    module: Any
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any]
    program: bool = False
    is_folder: bool = False
    outputs: tuple[str, ...] | None = None


def opened_source(text: str, dtype: str | None, seed: int) -> Exportable:
    """A module and its arguments from the text that names them.

    `dtype` is the type of its weights and of what it is given, None for its own; `seed` that of the
    inputs that are drawn. Raises ProviderError where torch or transformers is missing, UsageError
    for what names nothing, ModelError for what cannot be read, and OriginalModelError for a
    function that fails.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"unknown type {dtype!r}", f"choose one of {', '.join(DTYPES)}")
    path = Path(text)
    if text and path.is_dir():
        from graphfuse.integrations.checkpoints import from_folder

        module, kwargs, outputs = from_folder(path, dtype or "float32", seed)
        return Exportable(module, (), kwargs, is_folder=True, outputs=outputs)
    if path.suffix == ".pt2" or (text and path.is_file() and path.suffix != ".py"):
        if dtype is not None:
            raise UsageError(
                "a program of torch.export has the types that it was traced with",
                "leave --dtype out, or export the module in that type",
            )
        return Exportable(_program(path), None, {}, program=True)
    match = FUNCTION_NAME.fullmatch(text)
    if match is None:
        what = "there is no such file or folder" if text else "the path is empty"
        raise UsageError(f"{text!r} cannot be exported: {what}", NAMEABLE)
    found = _called(match["home"], match["name"])
    return found if dtype is None else _in_type(found, dtype)


def _program(path: Path) -> Any:
    # Before PyTorch, which takes seconds to load, or is not there.
    if not path.is_file():
        raise ModelError(f"{path} does not exist", NAMEABLE)
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} is no program of torch.export: it is no archive", f"{NAMEABLE}; {_of(path)}"
        )
    torch = torch_module()
    try:
        return torch.export.load(str(path))
    except Exception as error:
        # An archive of anything else, or of another PyTorch.
        machine.check(error, f"loading {path}")
        raise ModelError(
            f"torch.export.load cannot read {path} ({type(error).__name__}: "
            f"{in_one_line(error, 160)})",
            "save it with torch.export.save of this version of PyTorch",
        ) from error


def _of(path: Path) -> str:
    if path.suffix == ".onnx":
        return f"an ONNX file is fused by `graphfuse fuse {path}`"
    return "a file of torch.save holds weights alone: write a function that loads them"


def _called(home: str, name: str) -> Exportable:
    """What a function gives."""
    torch = torch_module()
    text = f"{home}:{name}"
    function = _function(home, name)
    try:
        given = function()
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        # It is the user's code: whatever it raises, SystemExit too, is about that code.
        raise OriginalModelError(
            f"{text} failed ({type(error).__name__}: {in_one_line(error, 200)})",
            "call it in Python first",
        ) from error
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 3):
        raise UsageError(f"{text} returned a {type(given).__name__}", RETURNS)
    module, args, kwargs = _unpacked(cast("Sequence[Any]", given))
    program = isinstance(module, torch.export.ExportedProgram)
    if not program and not isinstance(module, torch.nn.Module):
        raise UsageError(f"{text} returned a {type(module).__name__}, no torch.nn.Module", RETURNS)
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        wrong = kwargs if isinstance(args, list | tuple) else args
        raise UsageError(f"{text} returned arguments of type {type(wrong).__name__}", RETURNS)
    keywords = {str(key): value for key, value in cast("Mapping[Any, Any]", kwargs).items()}
    return Exportable(module, tuple(cast("Sequence[Any]", args)), keywords, program=program)


def _unpacked(given: Sequence[Any]) -> tuple[Any, Any, Any]:
    """A module, arguments and keywords, of the ways to return them."""
    if len(given) == 3:
        return given[0], given[1], given[2]
    module, args = given
    if isinstance(args, Mapping):
        return module, (), args
    if isinstance(args, tuple | list) and len(args) == 2:
        first, second = args
        if isinstance(first, tuple | list) and isinstance(second, Mapping):
            return module, first, second
    return module, args, {}


def _function(home: str, name: str) -> Callable[[], Any]:
    """The function of a module by its name, or of a Python file by its path."""
    module = _module(home)
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, vars(module), 1)
        meant = f"did you mean {near[0]}?" if near else RETURNS
        raise UsageError(f"{home} has no {name!r}", meant)
    if not callable(found):
        raise UsageError(f"{home}:{name} is a {type(found).__name__}, no function", RETURNS)
    return found


def _module(home: str) -> Any:
    try:
        if home.endswith(".py"):
            spec = importlib.util.spec_from_file_location("graphfuse_source", home)
            if spec is None or spec.loader is None or not Path(home).is_file():
                raise UsageError(f"{home} is no Python file", NAMEABLE)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module
        here = str(Path.cwd())
        if here not in sys.path:
            # As `python -m` has it.
            sys.path.insert(0, here)
        return importlib.import_module(home)
    except (UsageError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise UsageError(
            f"{home} cannot be imported ({type(error).__name__}: {in_one_line(error, 200)})",
            "name a module as in `import`, found from the working folder, or a .py file",
        ) from error


def _in_type(source: Exportable, dtype: str) -> Exportable:
    """The same with the weights, and the floating-point arguments, in another type."""
    torch = torch_module()
    if source.program:
        raise UsageError(
            "a program of torch.export has the types that it was traced with",
            "leave --dtype out, or let the function return the module",
        )
    kind = getattr(torch, dtype)

    def cast_to(value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(kind) if floats else value

    args, kwargs = torch.utils._pytree.tree_map(cast_to, (source.args, source.kwargs))
    return Exportable(source.module.to(kind), args, kwargs)
