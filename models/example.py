"""What is exported: a module with the inputs that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Axes = dict[int, str]


@dataclass
class Example:
    """A module in eval mode, its example inputs by name, and which of their axes are dynamic."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    axes: dict[str, Axes] = field(default_factory=dict)


class Flat(nn.Module):
    """Wraps a model that returns a record such that positional tensors go in and tensors out."""

    def __init__(self, model: nn.Module, names: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.outputs = outputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        result = self.model(**dict(zip(self.names, values, strict=True)), return_dict=True)
        return tuple(result[name] for name in self.outputs)


def randomize_norms(module: nn.Module, seed: int) -> None:
    """Draw scale and bias of every norm: fresh ones are 1 and 0, which would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if "norm" in type(part).__name__.lower():
            for parameter in part.parameters(recurse=False):
                noise = 0.2 * torch.randn(parameter.shape, generator=generator)
                parameter.data.add_(noise.to(parameter.dtype))
