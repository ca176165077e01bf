"""The page of `python -m models.gradients --html`: one file, pictures in SVG, no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 300
DASHES = ("none", "9 4", "2 3", "12 3 2 3")
"""Lines are told apart without their colours too."""
LEFT, RIGHT, TOP, BOTTOM = 64, 110, 16, 40

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #ffffff; --line: #c9ced8;
  --chain: #b3261e; --residual: #1565c0; --pre-norm: #2e7d32; --post-norm: #8e5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --paper: #14171d; --line: #434a57;
  --chain: #ff8a80; --residual: #82b1ff; --pre-norm: #7bd88f; --post-norm: #ffca6b; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
polyline, line { fill: none; stroke-width: 2.5; }
.grid { stroke: var(--line); stroke-width: 1; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-x: auto; }
td, th { padding: .15rem .7rem .15rem 0; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, td:nth-child(2), th { text-align: left; } .wide { overflow-x: auto; }
"""

LESSON = """
<p>Training moves a layer by the gradient that reaches it. In a chain, y = F(x), the gradient is
multiplied by each F on the way down: a factor below 1, ninety-six times, leaves nothing. A residual
connection, y = x + F(x), adds 1 to that factor, so every layer is reached; but each sum adds the
variance of F(x) to the stream, and with it the gradient grows with depth. A norm takes the size out
again. In front of F (pre-norm) it leaves the path of the sums untouched, and the stream grows by
as much at each layer as at the first; behind the sum (post-norm) it keeps the stream itself at one
size. With either, the first of ninety-six layers is reached as well as the last.</p>
<p>So each block is a sum and a norm, and these are what graphfuse makes one node of. What a fusion
must not disturb: the sum itself where the next block reads it (it is the path that the gradient
went, and the stream that inference goes), the mean and the variance of the whole row, the epsilon
under the root, and where scale and bias are applied.</p>
"""


def page(
    found: Mapping[int, Mapping[str, Sequence[float]]],
    formulas: Mapping[str, str],
    steps: Sequence[tuple[str, str, Sequence[float]]],
    epsilon: float,
) -> str:
    """The whole page, of gradients by depth and way, and the steps of a norm on a vector."""
    pictures = "".join(
        f"<h2>{depth} layers</h2>\n{picture(ways)}\n{_table(ways, formulas)}"
        for depth, ways in found.items()
    )
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(formula)}</td>"
        + "".join(f"<td>{value:.4g}</td>" for value in values)
        + "</tr>\n"
        for name, formula, values in steps
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Sums and norms: the gradient that reaches each layer</title>\n"
        f"<style>{STYLE}</style></head>\n<body><main>\n"
        "<h1>The gradient that reaches each layer</h1>\n"
        f"{LESSON}{pictures}<h2>LayerNorm, a step at a time (epsilon {epsilon:g})</h2>\n"
        f"{_wide('Steps')}<table>\n{rows}</table></div>\n</main></body></html>\n"
    )


def _table(ways: Mapping[str, Sequence[float]], formulas: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(way)}</td><td>{escape(formulas[way])}</td><td>{sizes[0]:.2g}</td>"
        f"<td>{sizes[len(sizes) // 2]:.2g}</td></tr>\n"
        for way, sizes in ways.items()
    )
    head = "<tr><th>way</th><th>formula</th><th>first layer</th><th>middle</th></tr>\n"
    label = f"Gradients in {len(next(iter(ways.values()))) - 1} layers"
    return f"{_wide(label)}<table>\n{head}{rows}</table></div>\n"


def _wide(label: str) -> str:
    """What is wider than a window is moved by the keyboard as well."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{label}">'


def picture(ways: Mapping[str, Sequence[float]]) -> str:
    """A line for each way: layers from the first to the output, sizes on a logarithmic axis."""
    logs = {way: [_log(size) for size in sizes] for way, sizes in ways.items()}
    low = math.floor(min(0.0, *(value for line in logs.values() for value in line)))
    high = math.ceil(max(1.0, *(value for line in logs.values() for value in line)))
    depth = max(len(line) for line in logs.values()) - 1

    def at(layer: float, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * layer / max(depth, 1)
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts: list[str] = []
    every = max(1, (high - low) // 6)
    for power in range(low, high + 1, every):
        _, down = at(0, power)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">1e{power}</text>'
        )
    for layer in sorted({0, depth // 2, depth}):
        across, down = at(layer, low)
        title = "output" if layer == depth else f"layer {layer + 1}"
        parts.append(
            f'<text x="{across:.1f}" y="{down + 20:.1f}" text-anchor="middle">{title}</text>'
        )
    for number, (way, line) in enumerate(logs.items()):
        points = " ".join("{:.1f},{:.1f}".format(*at(n, value)) for n, value in enumerate(line))
        colour = f"var(--{escape(way)})"
        style = f"stroke:{colour};stroke-dasharray:{DASHES[number % len(DASHES)]}"
        parts.append(f'<polyline points="{points}" style="{style}"/>')
        down = TOP + 16 + 20 * number
        start = WIDTH - RIGHT + 14
        across, level = f'x1="{start}" x2="{start + 22}"', f'y1="{down - 4}" y2="{down - 4}"'
        parts.append(f'<line {across} {level} style="{style}"/>')
        parts.append(
            f'<text x="{start + 28}" y="{down}" style="fill:{colour}">{escape(way)}</text>'
        )
    label = "Size of the gradient by layer, relative to that at the output"
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return f"<svg {frame}>{''.join(parts)}</svg>"


def _log(size: float) -> float:
    return math.log10(size) if size > 0 else -308.0
