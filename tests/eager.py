"""Counting Add->norm sites in eager PyTorch: an oracle that knows nothing of ONNX."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class _Sums(TorchDispatchMode):
    """Remembers the result of every floating-point sum of two activations.

    A parameter counts as one when it is a table (of positions), not when it is a vector (a bias).
    """

    def __init__(self, vectors: set[int]) -> None:
        super().__init__()
        self.vectors = vectors
        self.results: list[Tensor] = []
        self.pointers: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor):
            operands = args[:2]
            activations = [
                value
                for value in operands
                if isinstance(value, Tensor)
                and value.is_floating_point()
                and value.data_ptr() not in self.vectors
            ]
            if len(activations) == 2:
                # Kept alive, so that no later tensor gets the same address.
                self.results.append(result)
                self.pointers.add(result.data_ptr())
        return result


def count_sites(module: nn.Module, inputs: dict[str, Tensor]) -> int:
    """How many different sums of two activations a norm module of `module` reads.

    A sum that two norms read counts once: one Add can fuse once.
    """
    read: set[int] = set()
    sums = _Sums({p.data_ptr() for p in module.parameters() if p.numel() == p.shape[-1]})

    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].data_ptr() in sums.pointers:
            read.add(args[0].data_ptr())

    hooks = [
        part.register_forward_pre_hook(look)
        for part in module.modules()
        if "norm" in type(part).__name__.lower() and not list(part.children())
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
    return len(read)
