"""Rule G1 with K = 1: every element of the kernels' results within its rounding bound.

    python -m tests.campaigns.kernels.accuracy --elements 1e8

Every instruction set of this machine, type, operator, hidden size and distribution. The reference
is numpy in extended precision (80 bits on x86), of what the operands are once rounded to their type.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.validation.tolerance import FLOAT, least_factor, reference_rows
from tests.campaigns.kernels.node import OPERATORS, Arrays, Node, instruction_sets, isa

HIDDEN = (1, 2, 7, 8, 24, 48, 63, 64, 96, 768, 4096, 16384)
MIXED = (("float16", "float32"), ("bfloat16", "float32"))
EPSILON = float(np.float32(1e-5))
SIGMAS = (0.0, np.sqrt(EPSILON) / 10, np.sqrt(EPSILON), 10 * np.sqrt(EPSILON), 1.0, 1e3)
RATIOS = (0.0, 1.0, 1e2, 1e3, 1e4)


@dataclass
class Worst:
    """The least K that passes for Y and for Sum, and the case that Y needs it for."""

    output: float = 0.0
    total: float = 0.0
    case: str = ""
    elements: int = 0

    def add(self, output: float, total: float, case: str, elements: int) -> None:
        self.elements += elements
        self.total = max(self.total, total)
        if output > self.output:
            self.output, self.case = output, case


@dataclass
class Totals:
    by_type: dict[str, Worst] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        return max(max(worst.output, worst.total) for worst in self.by_type.values())

    @property
    def elements(self) -> int:
        return sum(worst.elements for worst in self.by_type.values())


def distributions(hidden: int, largest: float, least: float, rng: np.random.Generator) -> Arrays:
    """Sums, one row each, by name: reliability.md's list."""
    rows: Arrays = {}
    for sigma in SIGMAS:
        for ratio in RATIOS:
            middle = ratio * (sigma or 1.0)
            rows[f"sigma {sigma:.3g}, mean {middle:.3g}"] = (
                rng.standard_normal(hidden) * sigma + middle
            )
    outlier = rng.standard_normal(hidden)
    outlier[int(rng.integers(hidden))] *= 3000
    rows["a 3000x outlier"] = outlier
    rows["a constant row"] = np.full(hidden, rng.standard_normal() * 100)
    rows["a zero row"] = np.zeros(hidden)
    rows["near the largest"] = (
        rng.choice((-0.9, 0.9), hidden) * largest * rng.uniform(0.5, 1, hidden)
    )
    rows["all near the largest"] = largest * rng.uniform(0.8, 0.9, hidden)
    rows["subnormals"] = rng.standard_normal(hidden) * least * 64
    for name, value in (("a NaN", np.nan), ("an infinity", np.inf)):
        rows[name] = rng.standard_normal(hidden)
        rows[name][int(rng.integers(hidden))] = value
    return rows


def cases(types: tuple[str, ...] = tuple(FLOATS_BY_NAME)) -> Iterator[Node]:
    """A node for each operator and pair of types."""
    for operator in OPERATORS:
        yield from (Node(operator, name) for name in types)
        yield from (Node(operator, name, wider) for name, wider in MIXED if name in types)


def measure(node: Node, hidden: int, repeats: int, rng: np.random.Generator) -> Iterator[tuple]:
    """(least K of Y, of Sum, case, elements) of each distribution, as the environment says."""
    number = FLOAT[FLOATS_BY_NAME[node.type]]
    made = node.session()
    with np.errstate(all="ignore"):
        for _ in range(repeats):
            rows = distributions(hidden, number.largest, number.eta or 2.0**-1075, rng)
            total = np.stack(list(rows.values()))
            part = rng.uniform(-1, 1, total.shape)
            feeds = node.feeds(rng, total.shape)
            feeds["A"] = (total * part).astype(node.dtype())
            feeds["B"] = (total - feeds["A"].astype(np.float64)).astype(node.dtype())
            exact = {name: array.astype(np.longdouble) for name, array in feeds.items()}
            vectors = {name: array for name, array in exact.items() if name not in ("A", "B")}
            reference = reference_rows(
                exact["A"],
                exact["B"],
                vectors,
                EPSILON,
                "Layer" in node.operator,
                FLOATS_BY_NAME[node.type],
            )
            results = node.run(feeds, session=made)
            for index, name in enumerate(rows):
                output = least_factor(
                    results["Y"][index],
                    _class(reference.output[index], number.largest),
                    reference.bound[index],
                )
                kept = least_factor(
                    results["Sum"][index],
                    _class(reference.total[index], number.largest),
                    reference.total_bound[index],
                )
                yield output, kept, f"{node.operator}, hidden {hidden}, {name}", hidden


def _class(reference: np.ndarray, largest: float) -> np.ndarray:
    """What rounds to an infinity of the type is one."""
    return np.where(np.abs(reference) > largest, np.copysign(np.inf, reference), reference)


def campaign(elements: float, seed: int, hidden: tuple[int, ...] = HIDDEN) -> dict[str, Totals]:
    """Totals by instruction set, over about so many elements in all."""
    rng = np.random.default_rng(seed)
    sets = instruction_sets()
    nodes = list(cases())
    share = elements / len(sets) / len(nodes) / len(hidden)
    totals: dict[str, Totals] = {}
    for name in sets:
        totals[name] = Totals()
        with isa(name):
            for node in nodes:
                kind = node.type + (f", {node.parameters} parameters" if node.parameters else "")
                worst = totals[name].by_type.setdefault(kind, Worst())
                for size in hidden:
                    repeats = max(1, min(200, round(share / size / 38)))
                    for result in measure(node, size, repeats, rng):
                        worst.add(*result)
    return totals


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kernels.accuracy", description=__doc__
    )
    parser.add_argument("--elements", type=float, default=1e8)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    totals = campaign(given.elements, given.seed)
    for name, total in totals.items():
        for kind, worst in total.by_type.items():
            figures = f"Y {worst.output:.4f}  Sum {worst.total:.4f}"
            print(f"{name:9} {kind:30} {figures}  {worst.case}")
    print(f"{sum(total.elements for total in totals.values()):,} elements")
    return 0 if all(total.worst <= 1 for total in totals.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
