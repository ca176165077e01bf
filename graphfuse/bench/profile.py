"""onnxruntime's profiler: the time of each node, and the execution provider that ran it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfuse.bench.records import Profile
from graphfuse.bench.sessions import Contender
from graphfuse.bench.timing import Threads
from graphfuse.errors import ProviderError
from graphfuse.graph.model_file import Model
from graphfuse.ops import CONTRIB_OPERATOR, OPERATORS
from graphfuse.patterns.scan import scan
from graphfuse.records import MAIN
from graphfuse.runtime import run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

RUNS = 10
FUSED = frozenset((*OPERATORS, *CONTRIB_OPERATOR.values()))
NORMS = FUSED | {"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"}
SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that the profiler saw: its name, operator and execution provider."""

    name: str
    op_type: str
    provider: str


def profile(
    contender: Contender, provider: str, threads: Threads, feeds: Mapping[str, Array]
) -> dict[Node, float]:
    """Microseconds of each node over a few runs, the first of which is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        made = contender.session(provider, threads, Path(folder) / "profile")
        for _ in range(RUNS + 1):
            run(made, feeds)
        events = json.loads(Path(made.end_profiling()).read_text())
    seen: defaultdict[Node, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            told = event["args"]
            name = event["name"].removesuffix(SUFFIX)
            seen[Node(name, told["op_name"], told.get("provider", ""))].append(event["dur"])
    return {node: sum(times[1:] if len(times) > RUNS else times) for node, times in seen.items()}


def site_nodes(model: Model) -> frozenset[str]:
    """The names of the nodes of a model's sites: sums, and norms however they are written."""
    return frozenset(
        name
        for site in scan(model).sites
        if site.scope == MAIN
        for index in (site.add.index, *site.interior)
        if (name := model.proto.graph.node[index].name)
    )


def shares(spent: Mapping[Node, float], names: frozenset[str]) -> Profile:
    """Where the time goes; `names` are the original's nodes that are sums and norms.

    What onnxruntime made of a function is named after it.
    """
    total = sum(spent.values()) or 1.0
    by_operator: defaultdict[str, float] = defaultdict(float)
    for node, time in spent.items():
        by_operator[node.op_type] += time / total
    norms = sum(
        time
        for node, time in spent.items()
        if node.op_type in NORMS
        or node.name in names
        or any(operator in node.name for operator in OPERATORS)
    )
    ordered = sorted(by_operator.items(), key=lambda item: -item[1])
    return Profile(dict(ordered), norms / total, fused_providers(spent))


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
