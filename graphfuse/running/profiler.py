"""onnxruntime's profiler: the time of each node, and the execution provider that ran it."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfuse.errors import ProviderError
from graphfuse.ops import CONTRIB_OPERATOR, OPERATORS
from graphfuse.running.sessions import run
from graphfuse.system import libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FUSED_OPERATORS = frozenset((*OPERATORS, *CONTRIB_OPERATOR.values()))
SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class ProfiledNode:
    """A node that the profiler saw: its name, operator and execution provider."""

    name: str
    op_type: str
    provider: str


def profile(
    make: Callable[[libraries.SessionOptions], libraries.Session],
    options: libraries.SessionOptions,
    feeds: Mapping[str, Array],
    runs: int,
) -> dict[ProfiledNode, float]:
    """Microseconds of each node over `runs` runs, by the median, after one that is not counted.

    `make` gives a session with the options. The time of what a node runs inside (the body of a
    Loop) is that of the inner nodes only.
    """
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        made = make(options)
        for _ in range(runs + 1):
            run(made, feeds)
        events = json.loads(Path(made.end_profiling()).read_text(encoding="utf-8"))
    return spent(events, runs)


def spent(events: Iterable[Mapping[str, Any]], runs: int) -> dict[ProfiledNode, float]:
    """`profile`, of the profiler's events: a node in a loop has several of each run."""
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(SUFFIX)]
    kernels.sort(key=lambda event: (event["ts"], -event["dur"]))
    seen: defaultdict[ProfiledNode, list[float]] = defaultdict(list)
    # The events that the current one may lie in, each with its place in `seen`.
    around: list[tuple[Mapping[str, Any], list[float], int]] = []
    for event in kernels:
        while around and _end(around[-1][0]) <= event["ts"]:
            around.pop()
        if around:
            _, times, place = around[-1]
            times[place] = max(0.0, times[place] - event["dur"])
        told, name = event["args"], event["name"].removesuffix(SUFFIX)
        times = seen[ProfiledNode(name, told["op_name"], told.get("provider", ""))]
        times.append(event["dur"])
        around.append((event, times, len(times) - 1))
    return {node: _typical(times, runs) for node, times in seen.items()}


def _typical(times: Sequence[float], runs: int) -> float:
    """The time of so many runs; of the median where all have the same events.

    One run that the system interrupts in a small node would make it the largest of all.
    """
    count, rest = divmod(len(times), runs + 1)
    if rest:
        return sum(times[count:])
    each = [sum(times[start : start + count]) for start in range(count, len(times), count)]
    return statistics.median(each) * runs


def _end(event: Mapping[str, Any]) -> float:
    return event["ts"] + event["dur"]


def fused_providers(spent: Mapping[ProfiledNode, float]) -> dict[str, str]:
    """The execution provider that ran each fused node, by name."""
    return {node.name: node.provider for node in spent if node.op_type in FUSED_OPERATORS}


def require_fused_on(spent: Mapping[ProfiledNode, float], provider: str) -> None:
    """Raise ProviderError naming fused nodes that fell back: onnxruntime does so silently."""
    strays = {name: at for name, at in fused_providers(spent).items() if at != provider}
    if strays:
        name, at = min(strays.items())
        raise ProviderError(
            f"{len(strays)} fused nodes, such as {name!r}, ran on {at} in place of {provider}",
            "fuse for the provider that will run the model (--ep)",
        )
