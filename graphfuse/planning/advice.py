"""What a version of onnxruntime makes of a model, in sentences: where speed lies that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx

from graphfuse import ops
from graphfuse.graph.bodies import KINDS, form_of
from graphfuse.graph.tensors import default_opset
from graphfuse.planning import runtimes
from graphfuse.planning.runtimes import Choice, Runtime
from graphfuse.records import NearMiss, NormKind, Scan, Site
from graphfuse.records.element_types import ElementType


def of_runtime(runtime: Runtime) -> list[str]:
    """What is to be said of a version, whatever the model."""
    if runtime.version != runtimes.parse_version(runtime.measured):
        said = f"onnxruntime {runtime.name} was not measured: that of {runtime.measured} is taken"
        return [said, *_slow(runtime)]
    return _slow(runtime)


def _slow(runtime: Runtime) -> list[str]:
    return [
        f"onnxruntime {runtime.name} makes a slower node on the CPU with its {name} "
        f"({_times(runtime, name):.1f} times): sessions that graphfuse.session_options() did not "
        "make are better off with "
        f"InferenceSession(..., disabled_optimizers=[{name!r}])"
        for name in runtime.slow_fusions
    ]


def of_sites(sites: Iterable[Site], runtime: Runtime) -> list[str]:
    """What a session option alone would bring to a model that is not fused."""
    taken = [site.id for site in sites if is_taken(site)]
    if not taken:
        return []
    return [
        f"onnxruntime {runtime.name} turns {len(taken)} of these sums and norms into a node of its "
        f"own that is {_times(runtime, name):.1f} times slower on the CPU; without fusing, "
        f"InferenceSession(..., disabled_optimizers=[{name!r}]) avoids that"
        for name in runtime.slow_fusions
    ]


def is_taken(site: Site) -> bool:
    """Whether onnxruntime's SkipLayerNormFusion takes a site of a model that is not fused.

    Source: onnxruntime/core/optimizer/skip_layer_norm_fusion.cc, CheckFirstAdd.
    """
    alone = site.kind == NormKind.LAYER_NORM and not site.sum_is_read and not site.path
    known = site.b_shape == site.shape and None not in site.shape and len(site.shape) == 3
    return (
        alone
        and known
        and not site.fused_by
        and site.axis == -1
        and site.elem_type == ElementType.FLOAT
    )


def _times(runtime: Runtime, fusion: str) -> float:
    times = runtime.fusions[fusion]
    return times["on"] / times["off"]


def of_bodies(model: onnx.ModelProto, runtime: Runtime) -> list[str]:
    """What functions that were made for another version cost where there are no kernels."""
    opset = default_opset(model)
    narrow = _narrow_calls(model)
    slow: dict[str, float] = {}
    for function in model.functions:
        form = form_of(function)
        if form is None or function.name in narrow:
            # In other types than float32 all forms have cost the same in every version.
            continue
        kind, _ = KINDS[function.name]
        times = runtime.body(kind, ElementType.FLOAT, opset)
        right = {
            runtime.form(Choice(kind, ElementType.FLOAT, opset, written_out))
            for written_out in (False, True)
        }
        best = min((times[one] for one in right if one in times), default=0.0)
        if form not in right and times.get(form, 0.0) > runtimes.CLEARLY_FASTER * best:
            slow[function.name] = times[form] / best
    if not slow:
        return []
    return [
        f"the function of {' and of '.join(slow)} is made for another onnxruntime: in a session of "
        f"{runtime.name} without graphfuse's kernels such a node costs {max(slow.values()):.1f} "
        f"times what it could; fuse the original again with --runtime {_minor(runtime)}"
    ]


def _narrow_calls(model: onnx.ModelProto) -> set[str]:
    """The functions whose calls are known to have other types than float32, all of them."""
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    called: dict[str, set[int]] = {}
    for node in graph.node:
        if node.domain == ops.DOMAIN:
            called.setdefault(node.op_type, set()).add(types.get(node.output[0], ElementType.FLOAT))
    return {name for name, found in called.items() if ElementType.FLOAT not in found}


def of_left(left: Iterable[NearMiss], model: str) -> str:
    """Why sites were left: a scan tells what no target takes, and knows nothing of a plan."""
    found = list(left)
    planned = Counter(miss.reason for miss in found if miss.site)
    said = [
        f"{count} x {reason.sentence} ({reason.value}; would help: {reason.remedy})"
        for reason, count in planned.items()
    ]
    if len(found) > planned.total():
        said.append(f"`graphfuse scan {model}` says why others were left")
    return ", ".join(said) or "the model has no other sites"


def of_scan(found: Scan) -> list[str]:
    """What is to be said of a model beside its sites."""
    return [*of_strange(found.strange), *of_imports(found.unimported)]


def of_strange(names: Iterable[str]) -> list[str]:
    """What is to be said of a model with functions of its own under our operators' names."""
    found = list(names)
    if not found:
        return []
    shown = " and ".join(found)
    return [
        f"{shown} of this model is not what graphfuse writes under that name, and counts as any "
        "other function; graphfuse's kernels would run in its place, so do not register them for "
        "this model (`graphfuse.session_options(kernels=False)`), or rename the function"
    ]


def of_imports(domains: Iterable[str]) -> list[str]:
    """What is to be said of nodes whose domain their graph does not import."""
    found = list(domains)
    if not found:
        return []
    return [
        f"the model holds nodes of {' and of '.join(found)} and imports no opset of that: "
        "onnx.checker refuses that, onnxruntime runs what it knows; the types of other nodes are "
        "inferred as ever"
    ]


def _minor(runtime: Runtime) -> str:
    return ".".join(map(str, runtime.version))
