"""Counting Add->norm sites in eager PyTorch: an oracle that knows nothing of ONNX."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

SUMS = (aten.add.Tensor, aten.add_.Tensor)

OTHER_NORMS = ("batchnorm", "groupnorm", "instancenorm", "nonorm")
"""Classes that are no norm over the last axis; MobileBERT's NoNorm is a scale and a bias."""

QUANTIZED = ("intlayernorm",)
"""Norms that have children: I-BERT's has one that quantizes, in eval mode an identity."""


class _Sums(TorchDispatchMode):
    """Remembers every floating-point sum of two activations, and those that a norm reads.

    A parameter counts as one when it is a table (of positions), not when it is a vector (a bias).
    A sum is known by where its elements lie, so a view of it, a dropout in eval mode and a cast to
    its own type are still the sum. A slice of it is not, though the first one starts where it does.
    """

    def __init__(self, vectors: set[int]) -> None:
        super().__init__()
        self.vectors = vectors
        self.kept: list[Tensor] = []
        self.sums: dict[tuple[int, int], int] = {}
        self.read: set[int] = set()

    def look(self, value: Any) -> None:
        """Note that a norm reads `value`."""
        if isinstance(value, Tensor):
            number = self.sums.get(_place(value))
            if number is not None:
                self.read.add(number)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is aten.native_layer_norm.default:
            # A norm that is a call of torch.nn.functional has no module to hook.
            self.look(args[0])
        result = function(*args, **(kwargs or {}))
        if function._schema.is_mutable and args and isinstance(args[0], Tensor):
            # What was there is overwritten; `x += y` makes another sum at the same place.
            self.sums.pop(_place(args[0]), None)
        if function in SUMS and all(self._is_activation(value) for value in args[:2]):
            # Kept alive, so that no later tensor gets the same address.
            self.kept.append(result)
            self.sums[_place(result)] = len(self.kept)
        return result

    def _is_activation(self, value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.data_ptr() not in self.vectors
        )


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
    """How many different sums of two activations a norm of `module` reads.

    A sum that two norms read counts once: one Add can fuse once.
    """
    vectors = {p.data_ptr() for p in module.parameters() if p.dim() and p.numel() == p.shape[-1]}
    sums = _Sums(vectors)

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sums.look(next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None))

    hooks = [
        part.register_forward_pre_hook(look, with_kwargs=True)
        for part in module.modules()
        if is_norm(part)
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sums:
            module(*inputs.values())
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return len(sums.read)
