"""What each execution provider takes: one row of data per provider and operator.

`cpu` and `portable` take graphfuse's own operators, which every model carries as functions; so does
every provider of which no source shows that it runs onnxruntime's contrib operators. Each row names
its source: a file of microsoft/onnxruntime unless it says otherwise. Facts about the contrib
operators on the CPU were measured on onnxruntime 1.31.1 (README.md of this room, decisions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from graphfuse import ops
from graphfuse.errors import UsageError
from graphfuse.planning import faults
from graphfuse.records import NormKind, Site, arguments
from graphfuse.records.element_types import FLOAT_TYPES, HALF_TYPES, ElementType
from graphfuse.records.reasons import Reason, Refusal
from graphfuse.system import libraries
from graphfuse.types.shapes import same

AUTO = "auto"


class Broadcast(StrEnum):
    """How B may broadcast to A."""

    ANY = "any"
    """By ONNX's rules, both ways."""
    TRAILING = "trailing"
    """B has A's shape, or that without its leading axis or with 1 there, and this is proven."""
    EQUAL = "equal"
    """B has A's shape, and this is proven."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one provider takes of one operator.

    `ranks` is None when any rank will do. `mixed` says that scale and bias may be float32 beside a
    narrower sum, `axes` that more than the last axis may be normalised, `bias` that the operator
    adds a bias vector before the norm as it should. `sum_output` is the index of the sum among the
    outputs; those between are not asked for. `since` is the first onnxruntime that it is right in,
    but for what `faults` says of the kernels of `provider`; graphfuse's own operators have none.
    """

    operator: str
    elem_types: frozenset[int]
    ranks: frozenset[int] | None
    broadcast: Broadcast
    mixed: bool
    axes: bool
    bias: bool
    sum_output: int
    since: tuple[int, int]
    source: str
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, or several: the domain of the operators that it wants, and what they accept.

    `provider` is onnxruntime's execution provider that runs and validates the result. `inside` is
    the domain of the operators in the functions' bodies: onnxruntime's own for a file that is to be
    fast on a GPU as well. `all_of` are the rows that must all take a site, by target and norm,
    `members` the targets that several are.
    """

    name: str
    provider: str
    domain: str
    rows: Mapping[str, Row]
    inside: str = ""
    all_of: tuple[Mapping[str, Row], ...] = ()
    members: tuple[Target, ...] = ()

    @property
    def singles(self) -> tuple[Target, ...]:
        """The targets that it is made of, each of one provider."""
        return self.members or (self,)

    @property
    def providers(self) -> dict[str, str]:
        """The execution provider of each of them, by its name."""
        return {single.name: single.provider for single in self.singles}


def _own(source: str) -> Mapping[str, Row]:
    return {
        kind: Row(operator, FLOAT_TYPES, None, Broadcast.ANY, True, True, True, 1, (1, 17), source)
        for kind, operator in ops.OPERATOR.items()
    }


def _contrib(
    provider: str, types: Iterable[int], broadcast: Broadcast, biases: Sequence[str], source: str
) -> Mapping[str, Row]:
    """Rows of the contrib operators: rank 2 or 3, the last axis, scale and bias of shape (H)."""
    ranks = frozenset((2, 3))
    return {
        kind: Row(
            operator,
            frozenset(types),
            ranks,
            broadcast,
            False,
            False,
            kind in biases,
            3,
            (1, 20),
            source,
            provider,
        )
        for kind, operator in ops.CONTRIB_OPERATOR.items()
    }


_HALF = (ElementType.FLOAT, ElementType.FLOAT16)
_NO_SOURCE = "no source shows that it runs the contrib operators; functions are inlined"

# `portable` stays the last row: `auto` and a provider's name take the first row of a provider.
_TABLE: tuple[tuple[str, str, str, Mapping[str, Row]], ...] = (
    (
        "cpu",
        "CPUExecutionProvider",
        ops.DOMAIN,
        _own("graphfuse/kernels"),
    ),
    (
        "cuda",
        "CUDAExecutionProvider",
        ops.CONTRIB_DOMAIN,
        _contrib(
            "CUDAExecutionProvider",
            (*_HALF, ElementType.BFLOAT16),
            Broadcast.TRAILING,
            (NormKind.LAYER_NORM, NormKind.RMS_NORM),
            "onnxruntime/contrib_ops/cuda/bert/skip_layer_norm.cc (an RMSNorm's bias is input 3), "
            "contrib_ops/cpu/skip_layer_norm_helper.h (CheckInputs: ranks, broadcasts, scale)",
        ),
    ),
    (
        "webgpu",
        "WebGpuExecutionProvider",
        ops.CONTRIB_DOMAIN,
        # It reads input 3 as LayerNorm's bias for both operators, and that is where
        # SkipSimplifiedLayerNormalization has the bias that comes before the norm.
        _contrib(
            "WebGpuExecutionProvider",
            _HALF,
            Broadcast.TRAILING,
            (NormKind.LAYER_NORM,),
            "onnxruntime/contrib_ops/webgpu/bert/skip_layer_norm.cc at commit 007a78e",
        ),
    ),
    (
        "directml",
        "DmlExecutionProvider",
        ops.CONTRIB_DOMAIN,
        # Nothing says how it broadcasts, or adds a bias: neither is asked of it.
        _contrib(
            "DmlExecutionProvider",
            _HALF,
            Broadcast.EQUAL,
            (),
            "onnxruntime/core/providers/dml/DmlExecutionProvider/src/Operators/"
            "OperatorRegistration.cpp and DmlOperatorSkipLayerNormalization.cpp "
            "(QuerySkipLayerNormalization: outputs 1 and 2 must be absent)",
        ),
    ),
    (
        "tensorrt",
        "TensorrtExecutionProvider",
        ops.DOMAIN,
        _own("microsoft/onnxruntime-genai pull 1453: TensorRT takes no Skip operators"),
    ),
    (
        "migraphx",
        "MIGraphXExecutionProvider",
        ops.DOMAIN,
        _own(
            "onnxruntime/core/providers/migraphx/migraphx_execution_provider.cc, mgx_supported_ops "
            "names none; ROCm/onnxruntime pull 123 added SkipLayerNormalization to a fork"
        ),
    ),
    ("rocm", "ROCMExecutionProvider", ops.DOMAIN, _own(_NO_SOURCE)),
    (
        "openvino",
        "OpenVINOExecutionProvider",
        ops.DOMAIN,
        _own(
            "onnxruntime/core/providers/openvino/ov_versions/data_ops.cc lists both operators, but "
            "nothing shows that OpenVINO's translation yields the sum"
        ),
    ),
    ("coreml", "CoreMLExecutionProvider", ops.DOMAIN, _own(_NO_SOURCE)),
    ("qnn", "QNNExecutionProvider", ops.DOMAIN, _own(_NO_SOURCE)),
    ("portable", "CPUExecutionProvider", ops.DOMAIN, _own("ONNX's own operators, in a function")),
)

TARGETS: Mapping[str, Target] = {row[0]: Target(*row) for row in _TABLE}


def target(ep: str | Sequence[str]) -> Target:
    """The target that names stand for; of several (`cpu,cuda`) one file has to serve all.

    Such a file has graphfuse's operators, for its kernels on the CPU, and where one of the others
    wants onnxruntime's fused operator, the functions have that inside, and only what it takes is
    fused. A name is a target's, its execution provider's, or `auto`, the best one that this machine
    has. Raises UsageError for others, and ProviderError when `auto` needs onnxruntime.
    """
    given = ep.split(",") if isinstance(ep, str) else arguments.names("ep", ep)
    if not given:
        raise UsageError(f"{ep!r} names no execution provider", f"choose one of {_choices()}")
    return _combined(tuple(dict.fromkeys(map(_named, given))))


def of_provider(provider: str) -> Target:
    """The target of a provider; for one that there is none for, functions that run anywhere.

    A name that onnxruntime does not know either is an error of its own.
    """
    try:
        return target(provider)
    except UsageError:
        return target("portable")


def _named(name: str) -> str:
    if name == AUTO:
        return best_here()
    found = next((row.name for row in TARGETS.values() if name in (row.name, row.provider)), None)
    if found is None:
        raise UsageError(f"unknown execution provider {name!r}", f"choose one of {_choices()}")
    return found


def _choices() -> str:
    return f"{', '.join(TARGETS)} or {AUTO}"


@cache
def _combined(names: tuple[str, ...]) -> Target:
    members = tuple(TARGETS[name] for name in names)
    if len(members) == 1:
        return members[0]
    name, provider = ",".join(names), members[0].provider
    if len({member.domain for member in members}) == 1:
        rows = tuple(member.rows for member in members)
        return Target(name, provider, members[0].domain, rows[0], "", rows, members)
    contrib = [member.rows for member in members if member.domain == ops.CONTRIB_DOMAIN]
    own, inside = TARGETS["portable"].rows, ops.CONTRIB_DOMAIN
    return Target(name, provider, ops.DOMAIN, own, inside, (own, *contrib), members)


def best_here() -> str:
    """The target of the first execution provider that onnxruntime has here and graphfuse knows."""
    known = {row.provider: row.name for row in reversed(list(TARGETS.values()))}
    there = libraries.available_providers()
    return next((known[name] for name in there if name in known), "portable")


def since(target: Target) -> tuple[int, int]:
    """The first version of onnxruntime in which every operator of a target is right."""
    return max(row.since for rows in (target.rows, *target.all_of) for row in rows.values())


def refusal(
    target: Target,
    site: Site,
    opset: int,
    runtime: faults.AnyVersion | None = None,
    strict_mode: bool = False,
) -> Refusal | None:
    """Why a target cannot take a site; None when it can.

    `runtime` is the version of onnxruntime that will run the file, None for the newest;
    `strict_mode` says that its sessions have the options of `runtime.provider_options`.
    """
    for rows in target.all_of or (target.rows,):
        row = rows[site.kind]
        found = _row_refusal(row, site) or _runtime_refusal(row, site, runtime, strict_mode)
        if found is not None:
            return found
    if target.domain == ops.DOMAIN and opset < ops.MINIMUM_OPSET:
        return Refusal(Reason.OPSET, f"opset {opset}")
    return None


def _row_refusal(row: Row, site: Site) -> Refusal | None:
    if site.elem_type not in row.elem_types:
        return Refusal(Reason.ELEMENT_TYPE, site.elem_type.text)
    if row.ranks is not None and len(site.shape) not in row.ranks:
        return Refusal(Reason.TARGET_RANK, f"rank {len(site.shape)}")
    if row.broadcast != Broadcast.ANY and not _broadcasts(site, row.broadcast):
        return Refusal(Reason.TARGET_BROADCAST, f"{list(site.b_shape or ())} to {list(site.shape)}")
    if not row.axes and site.axis != -1:
        return Refusal(Reason.OTHER_AXES, f"{-site.axis} axes")
    if not row.mixed and site.parameter_type != site.elem_type:
        return Refusal(Reason.PARAMETER_TYPE, site.parameter_type.text)
    return None


def _runtime_refusal(
    row: Row, site: Site, runtime: faults.AnyVersion | None, strict_mode: bool
) -> Refusal | None:
    """What is wrong with a provider's kernel in a version, for a site that the row takes."""
    kernel = (row.provider, row.operator, site.elem_type, runtime)
    for fault in faults.known(*kernel):
        avoided = fault.effect == faults.Effect.NOTE or (
            fault.effect == faults.Effect.STRICT and strict_mode
        )
        if avoided or (fault.when == faults.BROADCAST and _is_whole(site)):
            continue
        return Refusal(Reason.RUNTIME_FAULT, f"{row.provider}: {fault}")
    if not row.provider or site.elem_type not in HALF_TYPES:
        return None
    wanted = site.computed_in or ElementType.FLOAT
    shown = faults.accumulates(*kernel, strict_mode)
    if wanted == site.elem_type or (shown and wanted.widens(shown)):
        return None
    return Refusal(Reason.RUNTIME_PRECISION, f"{wanted.text}, {site.elem_type.text}")


def right_since(target: Target, sites: Iterable[Site]) -> tuple[int, int] | None:
    """The first version from which on the kernels of a target are right for sites that it took.

    None when nothing is known against them in any version, or something in the newest. Strict mode
    is not counted on.
    """
    kernels = [
        (rows[site.kind], site) for site in sites for rows in target.all_of or (target.rows,)
    ]
    first: tuple[int, int] | None = None
    for version in reversed(faults.turns()):
        if any(_runtime_refusal(*kernel, version, False) for kernel in kernels):
            return first
        first = version
    return None


def _is_whole(site: Site) -> bool:
    """Whether B has the shape of the sum, as far as is known."""
    shape = site.b_shape or ()
    return len(shape) == len(site.shape) and all(map(same, shape, site.shape))


def operator(target: Target, kind: NormKind, biased: bool) -> str:
    """The operator that a target wants; onnxruntime's takes a bias as one more input."""
    if target.domain == ops.CONTRIB_DOMAIN:
        return target.rows[kind].operator
    return (ops.BIAS_OPERATOR if biased else ops.OPERATOR)[kind]


def takes_bias(target: Target, kind: NormKind) -> bool:
    """Whether a bias vector before the norm may be left to the operator."""
    return all(rows[kind].bias for rows in target.all_of or (target.rows,))


def _broadcasts(site: Site, how: Broadcast) -> bool:
    """Skip of the same shape, (1, S, H) or (S, H): what the contrib kernels index rightly."""
    if not site.order_proven or site.b_shape is None:
        return False
    missing = len(site.shape) - len(site.b_shape)
    if missing > 1 or (missing == 1 and len(site.shape) != 3):
        return False
    if how == Broadcast.EQUAL and missing:
        return False
    tail = zip(site.b_shape[::-1], site.shape[::-1], strict=False)
    pairs = list(tail)[::-1]
    leading_one = len(site.shape) == 3 and missing == 0 and site.b_shape[0] == 1
    skipped = leading_one and how == Broadcast.TRAILING
    return all(same(*pair) for pair in (pairs[1:] if skipped else pairs))
