"""What a scan finds: scopes, nodes, types, sites, near misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from graphfuse.records.drawings import Picture
from graphfuse.records.element_types import ElementType
from graphfuse.records.provenance import HashedFile
from graphfuse.records.reasons import Reason

Dim = int | str | None
"""An extent: a number, a symbol, or unknown."""


def shape_text(dims: Sequence[Dim]) -> str:
    """`[2, S, 64]`; what inference named itself is as good as unknown."""
    known = ("?" if str(dim).startswith(("unk__", "None")) else str(dim) for dim in dims)
    return f"[{', '.join(known)}]"


class NormKind(StrEnum):
    """The norms that are fused."""

    LAYER_NORM = "LayerNorm"
    RMS_NORM = "RMSNorm"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type (onnx.TensorProto numbers, 0 when unknown) and shape (None when unknown)."""

    elem_type: ElementType
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class ScopeRef:
    """A graph of the model, by where it is: the main graph, a function, or a body in one of these.

    `function` is an index into the model's functions, None for the main graph; each step is a
    node's index, the attribute that holds a graph, and which of its graphs. `text` is for people,
    empty for the main graph.
    """

    function: int | None = None
    steps: tuple[tuple[int, str, int], ...] = ()
    text: str = field(default="", compare=False)


MAIN = ScopeRef()


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node of the model: its index in its graph, operator and name (which may be empty).

    Of a node in a function that is seen through, index and name are those of the call, and `call`
    is the call's operator; it is empty for others.
    """

    index: int
    op_type: str
    name: str
    scope: ScopeRef = MAIN
    call: str = field(default="", compare=False)

    def __str__(self) -> str:
        operator = f"{self.op_type} in {self.call}" if self.call else self.op_type
        node = f"{operator} {self.name!r}" if self.name else f"{operator} #{self.index}"
        return f"{node} in {self.scope.text}" if self.scope.text else node


@dataclass(frozen=True, slots=True)
class Factor:
    """A weight in an expression: its exponent, and its extents along the normalised axes."""

    tensor: str
    exponent: float = 1.0
    extents: tuple[int, ...] = (-1,)
    """What to reshape it to: its other axes have extent 1."""
    elem_type: ElementType = field(default=ElementType.UNDEFINED, compare=False)
    """Its type; 0 when it is not known."""
    is_whole: bool = field(default=False, compare=False)
    """Whether it has every extent of the normalised axes, so that nothing need expand it."""
    is_flat: bool = field(default=False, compare=False)
    """Whether it has no other axes, so that nothing need reshape it."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A scale or bias that no tensor of the model holds: a sum of products of weights.

    Each term is a number and the weights that it multiplies. An expression of one term, the number
    1 and one weight is that weight in another shape.
    """

    terms: tuple[tuple[float, tuple[Factor, ...]], ...]


Parameter = str | Expression | None
"""A scale or bias: a tensor of shape (hidden), an expression, or absent."""


@dataclass(frozen=True, slots=True)
class BiasAdd:
    """A bias vector that an Add gives an operand of the residual: `result` = `operand` + `vector`.

    Nothing but the residual Add reads `result`, so the fused node can add the vector itself.
    `from_matmul` says that the operand is a MatMul with a weight, and so no part of anything that
    onnxruntime fuses together with the bias, but for a Gemm.
    """

    add: NodeRef
    vector: str
    operand: str
    result: str
    from_matmul: bool = False


class Layout(StrEnum):
    """Where a norm stands in its block: see recognition/layout.py."""

    UNKNOWN = ""
    POST_NORM = "post-norm"
    PRE_NORM = "pre-norm"
    SANDWICH = "sandwich"
    PARALLEL = "parallel"


@dataclass(frozen=True, slots=True)
class Site:
    """A residual Add and the norm that reads it.

    `a` and `b` are the operands, `b` the one that broadcasts where `broadcast` is true and that is
    proven; `sum` is the Add's output, `output` the norm's. `scale` and `bias` are tensors of the
    shape of the normalised axes, expressions that give one, or None for 1 and 0. `axis` is the
    first normalised axis, counted from the end. `interior` are the nodes between `sum` and
    `output`, by index.
    """

    id: str
    kind: NormKind
    add: NodeRef
    a: str
    b: str
    sum: str
    output: str
    scale: Parameter
    bias: Parameter
    epsilon: float
    axis: int
    elem_type: ElementType
    parameter_type: ElementType
    """The type of scale and bias: `elem_type`, or float32 beside a narrower one."""
    shape: tuple[Dim, ...]
    b_shape: tuple[Dim, ...] | None
    order_proven: bool
    sum_is_read: bool
    path: tuple[int, ...]
    """Nodes between sum and norm that move rows about (a Reshape) and keep the last axis."""
    interior: tuple[int, ...]
    notation: str = ""
    """The arithmetic from x, the sum, to the output, in one line."""
    sum_readers: tuple[NodeRef, ...] = ()
    """What reads the sum beside the norm."""
    addends: tuple[str, ...] = ()
    """The activations that are summed: three in a parallel block."""
    bias_add: BiasAdd | None = None
    form: object = ""
    """The normal form of what was seen; it prints."""
    computed_in: ElementType = ElementType.UNDEFINED
    """The widest type in which the model computes the norm's statistics; 0 when it is not known."""
    layout: Layout = Layout.UNKNOWN
    layer: int | None = None
    clamps: tuple[str, ...] = ()
    """Clamps in the norm that cannot act, and why, in words."""
    fused_by: str = ""
    """The operator of the fused node that the site is already, with its domain; '' for none."""

    @property
    def scope(self) -> ScopeRef:
        """The graph that the site is in."""
        return self.add.scope

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents of the normalised axes: the shape of scale and bias."""
        found = tuple(dim for dim in self.shape[self.axis :] if isinstance(dim, int))
        assert len(found) == -self.axis, "a site's normalised extents are numbers"
        return found

    @property
    def hidden(self) -> int:
        """How many elements a mean is over."""
        return math.prod(self.extents)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """An Add that feeds a norm, or something close to one, and why it is not fused.

    `form` is the normal form of what was seen, where there is one; `id` names a near miss of a
    scan, `site` the site that a plan left.
    """

    reason: Reason
    culprit: NodeRef
    add: NodeRef
    got: str = ""
    site: str = ""
    form: object = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was seen at a site or near miss, beside the definition that is nearest to it.

    Both are normal forms, as text; `extra` are the terms that only the first has, `missing` those
    that only the second has. All are empty when no arithmetic was seen.
    """

    item: Site | NearMiss
    kind: str = ""
    seen: str = ""
    definition: str = ""
    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Scan:
    """What a model holds: sites that can be fused, near misses, and sites fused before.

    `strange` are functions under our operators' names that graphfuse did not write, `unimported`
    domains that nodes are of and that their graph imports no opset of, `notes` what was put right
    of the model before it was scanned. `pictures` are there where they are asked for, `read` where
    the model is a file.
    """

    sites: tuple[Site, ...]
    near_misses: tuple[NearMiss, ...]
    nodes: int
    already_fused: int = 0
    strange: tuple[str, ...] = ()
    unimported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    read: tuple[HashedFile, ...] = ()

    def __repr__(self) -> str:
        found = f"{len(self.sites)} sites, {len(self.near_misses)} near misses"
        return f"<Scan: {found}, {self.already_fused} fused already, {self.nodes} nodes>"

    def count(self, kind: NormKind) -> int:
        """The number of sites of one kind."""
        return sum(site.kind == kind for site in self.sites)
