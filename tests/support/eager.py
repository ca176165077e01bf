"""Counting Add->norm sites in eager PyTorch: an oracle that knows nothing of ONNX."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

SUMS = (aten.add.Tensor, aten.add_.Tensor)

OTHER_NORMS = ("batchnorm", "groupnorm", "instancenorm", "nonorm")
"""Classes that are no norm over the last axis; MobileBERT's NoNorm is a scale and a bias."""

QUANTIZED = ("intlayernorm",)
"""Norms that have children: I-BERT's has one that quantizes, in eval mode an identity."""


class _Sums(TorchDispatchMode):
    """Remembers every floating-point sum of two activations, and what comes of those a norm reads.

    A parameter counts as one when it is a table (of positions), not when it is a vector (a bias).
    A sum is known by where its elements lie, so a view of it, a dropout in eval mode and a cast to
    its own type are still the sum. A slice of it is not, though the first one starts where it does.
    """

    def __init__(self, vectors: set[int]) -> None:
        super().__init__()
        self.vectors = vectors
        self.kept: list[Tensor] = []
        self.sums: dict[tuple[int, int], int] = {}
        # For each storage: the sums that reached it through a norm.
        self.reached: dict[int, set[int]] = {}

    def norm(self, value: Any, result: Any) -> None:
        """Note that a norm made `result` of `value`."""
        number = self.sums.get(_place(value)) if isinstance(value, Tensor) else None
        if number is not None:
            self._reach(result, {number})

    def reaching(self, values: Any) -> set[int]:
        """The sums that reach one of `values` through a norm that reads them."""
        return set().union(*(self.reached.get(_storage(v), ()) for v in _tensors(values)))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        # All results are kept alive, so that no later tensor gets the same address.
        self.kept += _tensors(result)
        self._reach(result, self.reaching((args, kwargs)))
        if function is aten.native_layer_norm.default:
            # A norm that is a call of torch.nn.functional has no module to hook.
            self.norm(args[0], result[0])
        if function._schema.is_mutable and _tensors(args):
            # What was there is overwritten; `x += y` makes another sum at the same place.
            written = _tensors(args)[0]
            self.sums.pop(_place(written), None)
            self._reach(written, self.reaching((args, kwargs)))
        if function in SUMS:
            self._sum(args[0], args[1], result)
        return result

    def _sum(self, left: Any, right: Any, result: Tensor) -> None:
        if self._is_activation(left) and self._is_activation(right):
            self.sums[_place(result)] = len(self.kept)
        elif not isinstance(right, Tensor) and right == 0 and _place(left) in self.sums:
            # CTRL adds the number 0 for token types that are not given: no other sum.
            self.sums[_place(result)] = self.sums[_place(left)]

    def _reach(self, values: Any, numbers: set[int]) -> None:
        for value in _tensors(values) if numbers else ():
            self.reached.setdefault(_storage(value), set()).update(numbers)

    def _is_activation(self, value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.data_ptr() not in self.vectors
        )


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _place(value: Tensor) -> tuple[int, int]:
    return value.data_ptr(), value.numel()


def is_norm(part: nn.Module) -> bool:
    """Whether a module is a LayerNorm or an RMSNorm, by the name of its class."""
    name = type(part).__name__.lower()
    return (
        "norm" in name
        and not any(other in name for other in OTHER_NORMS)
        and (name in QUANTIZED or not list(part.children()))
    )


def count_sites(module: nn.Module, inputs: dict[str, Tensor]) -> int:
    """How many different sums of two activations a norm reads whose result `module` uses.

    A sum that two norms read counts once: one Add can fuse once. A norm that no output depends on
    counts for nothing: exporters drop it (DPT's last norm, a branch of LiLT's last layer).
    """
    vectors = {p.data_ptr() for p in module.parameters() if p.dim() and p.numel() == p.shape[-1]}
    sums = _Sums(vectors)

    def note(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        # Its first tensor is what a norm normalises, and what it yields.
        sums.norm(*(next(iter(_tensors(values)), None) for values in ((args, kwargs), result)))

    hooks = [
        part.register_forward_hook(note, with_kwargs=True)
        for part in module.modules()
        if is_norm(part)
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sums:
            results = module(*inputs.values())
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return len(sums.reaching(results))


@cache
def sites_of(name: str) -> int:
    """The sites of an architecture of models/."""
    from models.export import build

    example = build(name)
    return count_sites(example.module, example.inputs)
