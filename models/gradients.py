"""Why sums and norms stand in every Transformer, measured: python -m models.gradients.

    python -m models.gradients
    python -m models.gradients --layers 12,48,96 --html gradients.html
    python -m models.gradients --vector 2,4,4,10 --scale 1.5 --bias 0.5 --epsilon 1e-5

First the gradient that reaches each layer of a deep stack, for four ways to join the layers: a
chain y = F(x), residual connections y = x + F(x), pre-norm y = x + F(LayerNorm(x)), and post-norm
y = LayerNorm(x + F(x)). Then LayerNorm on one vector, a step at a time, with RMSNorm beside it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.blocks import FeedForward, LayerNorm, Plain, Post, Pre, Step
from models.gradients_page import page
from models.stacks import ResidualStack, Shape

ROWS, SEQUENCE = 4, 16
"""How many vectors of how many sequences the gradients are measured on."""

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where in a stack the table looks, as a share of its depth."""


class Alone(nn.Module):
    """No residual connection: y = F(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.inner(x, step)


WAYS: dict[str, tuple[str, Callable[[nn.Module, int], nn.Module], bool]] = {
    "chain": ("y = F(x)", lambda inner, _: Alone(inner), False),
    "residual": ("y = x + F(x)", lambda inner, _: Plain(inner), False),
    "pre-norm": (
        "y = x + F(LayerNorm(x))", lambda inner, hidden: Pre(inner, LayerNorm(hidden)), True,
    ),
    "post-norm": (
        "y = LayerNorm(x + F(x))", lambda inner, hidden: Post(inner, LayerNorm(hidden)), False,
    ),
}  # fmt: skip
"""How layers are joined: the formula, the block, and whether a norm ends the stack."""


def stack(way: str, layers: int, hidden: int, seed: int = 0) -> ResidualStack:
    """A stack of feed-forwards that are joined in one way, with the same weights in each."""
    _, block, ends = WAYS[way]
    torch.manual_seed(seed)
    return ResidualStack(
        Shape(layers, hidden, 1, 4 * hidden, 0, 0),
        lambda _: [block(FeedForward(hidden, 4 * hidden, functional.gelu), hidden)],
        LayerNorm(hidden) if ends else None,
    )


def gradients(way: str, layers: int, hidden: int, seed: int = 0) -> list[float]:
    """The size of the gradient that reaches the input of each layer, and the last one's output.

    It is the root of the mean square, divided by that at the output, where a random direction comes
    in. Computed in float64, so that what is tiny is not lost.
    """
    made = stack(way, layers, hidden, seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(ROWS, SEQUENCE, hidden, generator=generator, dtype=torch.float64)
    x.requires_grad_(True)
    streams, step = [x], Step()
    for layer in made.layers:
        for block in layer.children():
            streams.append(block(streams[-1], step))
    for each in streams[1:]:
        each.retain_grad()
    end = streams[-1] if made.norm is None else made.norm(streams[-1])
    direction = torch.randn(end.shape, generator=generator, dtype=torch.float64)
    (end * direction).sum().backward()
    sizes = [_rms(each.grad) for each in streams if each.grad is not None]
    return [size / sizes[-1] for size in sizes]


def _rms(x: Tensor) -> float:
    return math.sqrt(float(x.pow(2).mean()))


@dataclass(frozen=True)
class NormSteps:
    """A norm on one vector, a step at a time; RMSNorm has no mean, deviation or bias."""

    mean: Tensor
    deviation: Tensor
    variance: Tensor
    normalised: Tensor
    result: Tensor
    mean_square: Tensor
    rms_normalised: Tensor
    rms_result: Tensor


def norm_steps(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> NormSteps:
    """LayerNorm and RMSNorm of the last axis of x, with everything that is computed on the way."""
    mean = x.mean(-1, keepdim=True)
    deviation = x - mean
    variance = deviation.pow(2).mean(-1, keepdim=True)
    normalised = deviation / torch.sqrt(variance + epsilon)
    square = x.pow(2).mean(-1, keepdim=True)
    plain = x / torch.sqrt(square + epsilon)
    result = scale * normalised + bias
    return NormSteps(mean, deviation, variance, normalised, result, square, plain, scale * plain)


def measured(depths: Sequence[int], hidden: int, seed: int) -> dict[int, dict[str, list[float]]]:
    """The gradients of every way at every depth."""
    return {n: {way: gradients(way, n, hidden, seed) for way in WAYS} for n in depths}


def gradient_lines(found: dict[int, dict[str, list[float]]]) -> list[str]:
    """A table for each depth: a row for each way, a column for each place in the stack."""
    lines: list[str] = []
    for depth, ways in found.items():
        places = [round(share * depth) for share in PLACES]
        titles = [f"layer {place + 1}" if place < depth else "output" for place in places]
        lines.append(f"{depth} layers: the gradient that reaches the input of")
        lines.append(f"{'':<10}{'':<26}" + "".join(f"{title:>10}" for title in titles))
        for way, sizes in ways.items():
            figures = "".join(f"{sizes[place]:>10.2g}" for place in places)
            lines.append(f"{way:<10}{WAYS[way][0]:<26}{figures}")
        lines.append("")
    return lines


def step_rows(x: Tensor, found: NormSteps) -> list[tuple[str, str, Tensor]]:
    """What each step is called, its formula, and its numbers."""
    return [
        ("x", "", x),
        ("mean", "mean(x)", found.mean),
        ("deviation", "x - mean", found.deviation),
        ("variance", "mean(deviation^2)", found.variance),
        ("normalised", "deviation / sqrt(variance + epsilon)", found.normalised),
        ("LayerNorm", "scale * normalised + bias", found.result),
        ("mean square", "mean(x^2)", found.mean_square),
        ("normalised", "x / sqrt(mean square + epsilon)", found.rms_normalised),
        ("RMSNorm", "scale * normalised", found.rms_result),
    ]


def _lines_of(rows: list[tuple[str, str, Tensor]]) -> list[str]:
    return [
        f"{name:<12}{formula:<38}" + "".join(f"{float(value):>9.4g}" for value in values)
        for name, formula, values in rows
    ]


def _numbers(text: str) -> list[float]:
    found = [float(part) for part in text.split(",")]
    if not found or not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError("give numbers, such as 1,2,4")
    return found


def _depths(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")]
    if not found or not all(0 < depth <= 1000 for depth in found):
        raise argparse.ArgumentTypeError("give numbers of layers from 1 to 1000, such as 12,48")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the page where one is asked for."""
    parser = argparse.ArgumentParser("python -m models.gradients", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--layers", type=_depths, default=[12, 48, 96], help="depths [12,48,96]")
    parser.add_argument("--hidden", type=int, default=64, help="width of the stacks [64]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vector", type=_numbers, default=[1.0, 2.0, 4.0, 9.0], help="1,2,4,9")
    parser.add_argument("--scale", type=_numbers, default=[1.0], help="one number, or as many")
    parser.add_argument("--bias", type=_numbers, default=[0.0], help="one number, or as many")
    parser.add_argument("--epsilon", type=float, default=1e-6)
    parser.add_argument("--html", metavar="FILE", help="write the same as a page with pictures")
    given = parser.parse_args(arguments)
    for name in ("scale", "bias"):
        if len(getattr(given, name)) not in (1, len(given.vector)):
            parser.error(f"--{name} has another length than --vector")
    if given.hidden < 1 or given.epsilon < 0:
        parser.error("--hidden is 1 or more, --epsilon is not negative")
    if given.html and Path(given.html).suffix.lower() not in (".html", ".htm"):
        parser.error(f"--html names {given.html}, which does not end in .html")
    if given.html and not Path(given.html).absolute().parent.is_dir():
        parser.error(f"--html names {given.html}, and there is no such folder")
    found = measured(given.layers, given.hidden, given.seed)
    x, scale, bias = (torch.tensor(v).double() for v in (given.vector, given.scale, given.bias))
    rows = step_rows(x, norm_steps(x, scale, bias, given.epsilon))
    print("\n".join((*gradient_lines(found), *_lines_of(rows))))
    if given.html:
        formulas = {way: formula for way, (formula, _, _) in WAYS.items()}
        numbers = [(name, formula, values.tolist()) for name, formula, values in rows]
        Path(given.html).write_text(page(found, formulas, numbers, given.epsilon), encoding="utf-8")
        print(f"\nwrote {given.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
