"""Which extents of an exported model are symbols: said by name, or as many as PyTorch allows."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from graphfuse.errors import UsageError

AUTO = "auto"
NONE = "none"

FIXED = ("", "_", "-")
"""How an axis is written that stays a number."""

HINT = "write it as input_ids=batch,sequence, or auto"


def parse_dynamic(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`NAME=AXIS,AXIS`: a symbol for each leading axis of an input; `_` for one that stays."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, sign, axes = (part.strip() for part in text.partition("="))
        symbols = tuple(axis.strip() for axis in axes.split(","))
        right = all(axis in FIXED or axis.isidentifier() for axis in symbols)
        if not name or not sign or not right or not any(s not in FIXED for s in symbols):
            raise UsageError(f"cannot read the dynamic axes {text[:80]!r}", HINT)
        if name in found:
            raise UsageError(f"the dynamic axes of {name!r} are given twice", HINT)
        found[name] = symbols
    return found


def named_arguments(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the module's forward, in order.

    Raises UsageError for those that it does not take.
    """
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the module does not take these arguments ({error})", "call it in PyTorch first"
        ) from error
    return dict(bound.arguments)


def chosen_symbols(
    torch: Any, arguments: Mapping[str, Any], asked: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Dynamic shapes for torch.export, of each argument by name, as they were asked for.

    Raises UsageError for an input that there is not, or that has fewer axes.
    """
    unknown = next((name for name in asked if name not in arguments), None)
    if unknown is not None:
        names = ", ".join(arguments)
        raise UsageError(f"--dynamic names {unknown!r}, and the inputs are {names}", HINT)
    shapes: dict[str, Any] = {}
    for name, value in arguments.items():
        shapes[name] = _none(torch, value)
        if name not in asked:
            continue
        axes = asked[name]
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"--dynamic names {name!r}, which is no tensor", HINT)
        if len(axes) > value.dim():
            raise UsageError(
                f"--dynamic gives {name!r} {len(axes)} axes, and it has {value.dim()}", HINT
            )
        for axis, symbol in enumerate(axes):
            if symbol not in FIXED and value.shape[axis] < 2:
                raise UsageError(
                    f"axis {axis} of {name!r} is {value.shape[axis]} in the example: PyTorch takes "
                    "0 and 1 for numbers that stay",
                    "let the example have 2 or more there",
                )
        shapes[name] = {axis: s for axis, s in enumerate(axes) if s not in FIXED}
    return shapes


def likely_symbols(torch: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The axes that are a batch or a sequence, by their places, types and names.

    The first axis of every tensor with two or more is a batch; the second is a sequence of ids and
    masks, and of (batch, sequence, hidden). Images and spectra have fixed extents. A sequence of
    another length than the first input's has a symbol of its own.
    """
    shapes: dict[str, Any] = {}
    lengths: dict[int, str] = {}
    for name, value in arguments.items():
        shapes[name] = _none(torch, value)
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[0] < 2:
            continue
        shapes[name] = {0: "batch"}
        is_sequence = value.dim() == 2 and not value.is_floating_point()
        is_sequence |= value.dim() == 3 and value.is_floating_point() and name != "input_features"
        if is_sequence and value.shape[1] > 1:
            prefix = f"{name.partition('_')[0]}_" if name.startswith("decoder_") else ""
            own = f"{prefix}sequence" if not lengths or prefix else f"{name}_sequence"
            shapes[name][1] = lengths.setdefault(value.shape[1], own)
    return shapes


def as_allowed(torch: Any, shapes: Any) -> Any:
    """The same axes, of which PyTorch keeps those as numbers that have to be."""
    if isinstance(shapes, str):
        return torch.export.Dim.AUTO
    if isinstance(shapes, dict):
        return {key: as_allowed(torch, value) for key, value in shapes.items()}
    if isinstance(shapes, list | tuple):
        return type(shapes)(as_allowed(torch, value) for value in shapes)
    return shapes


def _none(torch: Any, value: Any) -> Any:
    """No symbols, in the structure that the argument has."""
    return torch.utils._pytree.tree_map(_fixed, value)


def _fixed(value: object) -> None:
    """No axis of it is a symbol."""
