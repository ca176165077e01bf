"""onnxruntime's profiler: the time of each node, and the execution provider that ran it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfuse import foreign
from graphfuse.errors import ProviderError
from graphfuse.ops import CONTRIB_OPERATOR, OPERATORS
from graphfuse.runtime import run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FUSED = frozenset((*OPERATORS, *CONTRIB_OPERATOR.values()))
SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that the profiler saw: its name, operator and execution provider."""

    name: str
    op_type: str
    provider: str


def profile(
    make: Callable[[foreign.SessionOptions], foreign.Session],
    options: foreign.SessionOptions,
    feeds: Mapping[str, Array],
    runs: int,
) -> dict[Node, float]:
    """Microseconds of each node over `runs` runs, after one that is not counted.

    `make` gives a session with the options.
    """
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        made = make(options)
        for _ in range(runs + 1):
            run(made, feeds)
        events = json.loads(Path(made.end_profiling()).read_text())
    seen: defaultdict[Node, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            told = event["args"]
            name = event["name"].removesuffix(SUFFIX)
            seen[Node(name, told["op_name"], told.get("provider", ""))].append(event["dur"])
    return {node: sum(times[1:] if len(times) > runs else times) for node, times in seen.items()}


def fused_providers(spent: Mapping[Node, float]) -> dict[str, str]:
    """The execution provider that ran each fused node, by name."""
    return {node.name: node.provider for node in spent if node.op_type in FUSED}


def require_fused_on(spent: Mapping[Node, float], provider: str) -> None:
    """Raise ProviderError naming fused nodes that fell back: onnxruntime does so silently."""
    strays = {name: at for name, at in fused_providers(spent).items() if at != provider}
    if strays:
        name, at = min(strays.items())
        raise ProviderError(
            f"{len(strays)} fused nodes, such as {name!r}, ran on {at} in place of {provider}",
            "fuse for the provider that will run the model (--ep)",
        )
