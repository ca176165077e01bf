"""Looking inside a run, at tensors of the main graph that are exposed as outputs.

Two questions need it: what the operands of each site are in the original's own run, and at which
fused node a run first leaves its bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from graphfuse.files.model_file import Model
from graphfuse.records.residual_stream import Reading
from graphfuse.running.feeding import Feed
from graphfuse.running.sessions import run, runs_kernels, session
from graphfuse.system import machine
from graphfuse.validation.ran import Ran
from graphfuse.validation.tolerance import FLOAT, distance, end_to_end
from graphfuse.validation.whole_model import WholeModel
from graphfuse.views.exposing import chunks, exposed
from graphfuse.views.fused_nodes import FusedNode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def captured(
    original: Model, sites: Sequence[FusedNode], provider: str, feed: Feed
) -> Iterator[tuple[FusedNode, Array, Array]]:
    """The operands of each site of the main graph, from the original's own run.

    A site that the original has no operands of is left out; so are all of a chunk that onnxruntime
    does not run with its tensors exposed.
    """
    computed = {name for node in original.proto.graph.node for name in node.output}
    computed.update(value.name for value in original.proto.graph.input)
    known = computed | {tensor.name for tensor in original.proto.graph.initializer}
    mine = [
        site
        for site in sites
        if site.scope == ("main",)
        and {site.roles["A"], site.roles["B"]} <= known
        and not {site.roles["A"], site.roles["B"]}.isdisjoint(computed)
    ]
    for chunk in chunks(mine):
        names = {site.roles[role] for site in chunk for role in ("A", "B")}
        wider = exposed(original, sorted(names & computed))
        try:
            made = session(wider.proto, wider.folder, provider, False)
            values = {**feed.values, **run(made, feed.values)}
        except Exception as error:
            # Whatever else onnxruntime raises: real activations are a bonus, hard rows are not.
            machine.check(error, f"looking at activations on {provider}")
            continue
        for site in chunk:
            operands = [_operand(original, values, site.roles[role]) for role in ("A", "B")]
            if all(operand is not None for operand in operands):
                yield site, operands[0], operands[1]


def _operand(model: Model, values: Mapping[str, Array], name: str) -> Any:
    if name in values:
        return values[name]
    tensor = next((t for t in model.proto.graph.initializer if t.name == name), None)
    return None if tensor is None else model.read(tensor)


def activation(site: FusedNode, a: Array, b: Array) -> Reading | None:
    """The statistics of a site's sum; None when it has no finite element, or is none."""
    try:
        with np.errstate(all="ignore"):
            total = a.astype(np.float64) + b.astype(np.float64) + site.vectors.get("AddBias", 0.0)
    except ValueError:
        # Operands that do not broadcast: the node itself fails its checks.
        return None
    total = total[np.isfinite(total)]
    if not total.size:
        return None
    largest = float(np.abs(total).max())
    return Reading(
        "", site.output, "", None, False, float(total.mean()), float(total.std()), largest
    )


def first_beyond(whole: WholeModel, outputs: Sequence[str]) -> str:
    """The first fused node whose output leaves the bound of G2 in a run; '' when none does.

    `outputs` are those of the fused nodes, in order; both models must compute them.
    """
    optimize, kernels = whole.ways()[0]
    ran = whole.ran[-1]
    for chunk in chunks(outputs):
        name = _first_of(whole, ran, chunk, optimize, kernels)
        if name:
            return name
    return ""


def _first_of(
    whole: WholeModel, ran: Ran, names: Sequence[str], optimize: bool, kernels: bool
) -> str:
    before, after = exposed(whole.original, names), exposed(whole.fused, names)
    feeds = ran.feed.values
    own = kernels and runs_kernels(before.proto, whole.provider)
    level = whole.optimized if optimize else False
    plain = session(before.proto, before.folder, whole.provider, level, own)
    base = run(plain, feeds)
    del plain
    fused = session(after.proto, after.folder, whole.provider, optimize, kernels)
    result = run(fused, feeds)
    del fused
    twin = whole.twins.original
    exact, rounded = twin.values(feeds, names), twin.values(feeds, names, twin.types)
    for name in names:
        number = FLOAT.get(helper.np_dtype_to_tensor_dtype(result[name].dtype))
        if number is None:
            continue
        allowed = max(distance(base[name], exact[name]), distance(rounded[name], exact[name]))
        bound = end_to_end(result[name].size) * allowed + number.roundoff
        if not distance(result[name], exact[name]) <= bound:
            return name
    return ""
