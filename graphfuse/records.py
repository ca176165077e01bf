"""The frozen records that the stages hand each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphfuse.reasons import Reason

if TYPE_CHECKING:
    import onnx

Dim = int | str | None
"""An extent: a number, a symbol, or unknown."""

LAYER_NORM = "LayerNorm"
RMS_NORM = "RMSNorm"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type (onnx.TensorProto numbers, 0 when unknown) and shape (None when unknown)."""

    elem_type: int
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
    """A node of the model: its index in its graph, operator and name (which may be empty)."""

    index: int
    op_type: str
    name: str
    scope: ScopeRef = MAIN

    def __str__(self) -> str:
        node = f"{self.op_type} {self.name!r}" if self.name else f"{self.op_type} #{self.index}"
        return f"{node} in {self.scope.text}" if self.scope.text else node


@dataclass(frozen=True, slots=True)
class Factor:
    """A weight in an expression: its exponent, and its extents along the normalised axes."""

    tensor: str
    exponent: float = 1.0
    extents: tuple[int, ...] = (-1,)
    """What to reshape it to: its other axes have extent 1."""


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
    """

    add: NodeRef
    vector: str
    operand: str
    result: str


@dataclass(frozen=True, slots=True)
class Site:
    """A residual Add and the norm that reads it.

    `a` and `b` are the operands, `b` the one that broadcasts where `broadcast` is true and that is
    proven; `total` is the Add's output, `output` the norm's. `scale` and `bias` are tensors of the
    shape of the normalised axes, expressions that give one, or None for 1 and 0. `axis` is the
    first normalised axis, counted from the end. `interior` are the nodes between `total` and
    `output`, by index.
    """

    id: str
    kind: str
    add: NodeRef
    a: str
    b: str
    total: str
    output: str
    scale: Parameter
    bias: Parameter
    epsilon: float
    axis: int
    elem_type: int
    parameter_type: int
    """The type of scale and bias: `elem_type`, or float32 beside a narrower one."""
    shape: tuple[Dim, ...]
    b_shape: tuple[Dim, ...] | None
    order_proven: bool
    total_is_read: bool
    path: tuple[int, ...]
    """Nodes between sum and norm that move rows about (a Reshape) and keep the last axis."""
    interior: tuple[int, ...]
    spelling: str = ""
    """The arithmetic from x, the sum, to the output, in one line."""
    sum_readers: tuple[NodeRef, ...] = ()
    """What reads the sum beside the norm."""
    addends: tuple[str, ...] = ()
    """The activations that are summed: three in a parallel block."""
    bias_add: BiasAdd | None = None
    form: object = ""
    """The normal form of what was seen; it prints."""
    layout: str = ""
    """Where the norm stands in its block: see patterns/layout.py."""
    layer: int | None = None

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
    expected: str = ""
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


@dataclass(frozen=True, slots=True)
class Scan:
    """What a model holds: sites that can be fused, near misses, and sites fused before."""

    sites: tuple[Site, ...]
    near_misses: tuple[NearMiss, ...]
    already_fused: int
    nodes: int

    def count(self, kind: str) -> int:
        """The number of sites of one kind, `LayerNorm` or `RMSNorm`."""
        return sum(site.kind == kind for site in self.sites)


@dataclass(frozen=True, slots=True)
class Fusion:
    """One planned rewrite: the site, the operator that replaces it, and its inputs in order.

    `output` is the normalised tensor as the operator yields it. `prelude` are nodes that compute a
    scale or bias from weights, where an expression asks for it; `epilogue` moves the rows of the
    output as those of the sum were moved before the norm. `body` is the function that the operator
    needs.
    """

    site: Site
    domain: str
    op_type: str
    inputs: tuple[str, ...]
    output: str
    prelude: tuple[onnx.NodeProto, ...] = ()
    epilogue: tuple[onnx.NodeProto, ...] = ()
    body: onnx.FunctionProto | None = None


@dataclass(frozen=True, slots=True)
class Vector:
    """An initializer to add: `value` in every element, for an absent scale or bias."""

    name: str
    elem_type: int
    extents: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rewritten for a target, and what is left with its reason."""

    target: str
    fusions: tuple[Fusion, ...]
    left: tuple[NearMiss, ...]
    vectors: tuple[Vector, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of a gate against its bound: `value <= bound` passes.

    `gate` is G0 (meaning, relative L2 in float64), G1 (a site alone, multiples of the rounding
    bound), G2 (the whole model, relative L2 distance to float64), G3 (elements that lost their
    value to NaN, infinity or zero) or G4 (decisions and integers that changed). `subject` is the
    output of the model or of the fused node, `where` the feed that gave the worst, and `repeat`
    the options of `graphfuse validate ORIGINAL FUSED` that measure it again.
    """

    gate: str
    subject: str
    value: float
    bound: float
    where: str
    passed: bool
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Activation:
    """What a sum was in the original's own run: `largest` is a magnitude.

    `float16_share` is that magnitude's share of float16's range. `squares_overflow` says that its
    square leaves that range: providers that square in float16 then give infinity.
    """

    site: str
    mean: float
    std: float
    largest: float

    @property
    def float16_share(self) -> float:
        """The largest magnitude, as a share of 65,504."""
        return self.largest / 65504.0

    @property
    def squares_overflow(self) -> bool:
        """Whether the square of the largest magnitude is beyond float16."""
        return self.largest > 255.0


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A fused node that could not be compared with what it replaced, and why."""

    site: str
    why: str


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All checks of one validation. `passed` is true when every one of them holds.

    `wrong` are outputs of fused nodes that are to blame for a failure, in the order of the model.
    `evaluated` tells what evaluated which operators for the float64 twins. `activations` are the
    sums of the original's own run, `unpaired` the fused nodes that only the whole model was judged
    by, and `notes` what was left out and why.
    """

    checks: tuple[Check, ...]
    providers: tuple[str, ...]
    seed: int
    level: str = "full"
    wrong: tuple[str, ...] = ()
    evaluated: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    activations: tuple[Activation, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def first_difference(self) -> str:
        """The output of the first fused node that is to blame; '' when none is."""
        return self.wrong[0] if self.wrong else ""

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.passed)

    def worst(self, gate: str) -> Check | None:
        """The check of a gate that is furthest out, relative to its bound."""
        mine = [check for check in self.checks if check.gate == gate]
        if not mine:
            return None
        return max(mine, key=lambda c: (not c.passed, c.value / c.bound if c.bound else 0.0))


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was written: path as given, size in bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FuseResult:
    """The outcome of `fuse` and `optimize`.

    `model` is the rewritten model (its weights still where they were), `fused` the sites that
    became one node, `left` all near misses, those of the target included.
    """

    model: onnx.ModelProto
    target: str
    scan: Scan
    fused: tuple[Fusion, ...]
    left: tuple[NearMiss, ...]
    nodes_before: int
    nodes_after: int
    validation: ValidationReport | None = None
    written: tuple[WrittenFile, ...] = field(default=())

    @property
    def changed(self) -> bool:
        """Whether anything was rewritten."""
        return bool(self.fused)

    def reasons(self) -> Counter[Reason]:
        """How often each reason occurs among what is left."""
        return Counter(miss.reason for miss in self.left)
