"""What each target takes: one row of data per target, and the check of a site against a row.

Facts about the contrib operators were measured on onnxruntime 1.31.1 (CONTRIBUTING.md, decisions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import TensorProto

from graphfuse import ops
from graphfuse.errors import UsageError
from graphfuse.graph.shapes import same
from graphfuse.graph.tensors import FLOAT_TYPES, type_name
from graphfuse.patterns.algebra import Refusal
from graphfuse.reasons import Reason
from graphfuse.records import Site


@dataclass(frozen=True, slots=True)
class Target:
    """A row: the domain of the operators that a target wants, and what they accept.

    `provider` is onnxruntime's execution provider that runs and validates the result. `ranks` is
    None when any rank will do; `skip_from_right` asks that B has A's shape, or lacks or has 1 for
    its leading axis only, and that this is proven.
    """

    name: str
    provider: str
    domain: str
    elem_types: frozenset[int]
    ranks: frozenset[int] | None
    skip_from_right: bool


_OWN = FLOAT_TYPES
_CONTRIB = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16))

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("cpu", "CPUExecutionProvider", ops.DOMAIN, _OWN, None, False),
        Target(
            "cuda",
            "CUDAExecutionProvider",
            ops.CONTRIB_DOMAIN,
            _CONTRIB,
            frozenset((2, 3)),
            True,
        ),
        Target("portable", "CPUExecutionProvider", ops.DOMAIN, _OWN, None, False),
    )
}


def target(name: str) -> Target:
    """The row of a target; UsageError naming those there are."""
    if name not in TARGETS:
        raise UsageError(
            f"unknown execution provider {name!r}", f"choose one of {', '.join(TARGETS)}"
        )
    return TARGETS[name]


def refusal(target: Target, site: Site, opset: int) -> Refusal | None:
    """Why a target cannot take a site; None when it can."""
    if site.elem_type not in target.elem_types:
        return Refusal(Reason.ELEMENT_TYPE, type_name(site.elem_type))
    if target.ranks is not None and len(site.shape) not in target.ranks:
        return Refusal(Reason.TARGET_RANK, f"rank {len(site.shape)}")
    if target.skip_from_right and not _is_skip(site):
        return Refusal(Reason.TARGET_BROADCAST, f"{list(site.b_shape or ())} to {list(site.shape)}")
    if target.domain == ops.DOMAIN and opset < ops.MINIMUM_OPSET:
        return Refusal(Reason.OPSET, f"opset {opset}")
    if target.domain == ops.CONTRIB_DOMAIN:
        if site.axis != -1:
            return Refusal(Reason.OTHER_AXES, f"{-site.axis} axes")
        if site.parameter_type != site.elem_type:
            return Refusal(Reason.PARAMETER_TYPE, type_name(site.parameter_type))
    return None


def operator(target: Target, kind: str, biased: bool) -> str:
    """The operator that a target wants; onnxruntime's takes a bias as one more input."""
    if target.domain == ops.CONTRIB_DOMAIN:
        return ops.CONTRIB_OPERATOR[kind]
    return (ops.BIAS_OPERATOR if biased else ops.OPERATOR)[kind]


def _is_skip(site: Site) -> bool:
    """Skip of the same shape, (1, S, H) or (S, H): what the contrib kernels index rightly."""
    if not site.order_proven or site.b_shape is None:
        return False
    missing = len(site.shape) - len(site.b_shape)
    if missing > 1 or (missing == 1 and len(site.shape) != 3):
        return False
    tail = zip(site.b_shape[::-1], site.shape[::-1], strict=False)
    pairs = list(tail)[::-1]
    leading_one = len(site.shape) == 3 and missing == 0 and site.b_shape[0] == 1
    return all(same(*pair) for pair in (pairs[1:] if leading_one else pairs))
