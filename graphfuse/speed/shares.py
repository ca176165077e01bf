"""How much of a model its sums and norms are, and what else its time goes to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from graphfuse.files.model_file import Model
from graphfuse.graph.operators import Trait, having
from graphfuse.ops import OPERATORS
from graphfuse.recognition.scan import scan
from graphfuse.records import MAIN
from graphfuse.running.profiler import FUSED_OPERATORS, ProfiledNode, fused_providers
from graphfuse.speed.measurements import Profile

NORMS = FUSED_OPERATORS | having(Trait.NORMALIZES_ROWS)


def site_nodes(model: Model) -> frozenset[str]:
    """The names of the nodes of a model's sites: sums, and norms however they are written."""
    return frozenset(
        name
        for site in scan(model).sites
        if site.scope == MAIN
        for index in (site.add.index, *site.interior)
        if (name := model.proto.graph.node[index].name)
    )


def shares(spent: Mapping[ProfiledNode, float], names: frozenset[str]) -> Profile:
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
