"""What is planned, and what comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from graphfuse.errors import UsageError
from graphfuse.records.drawings import Picture
from graphfuse.records.element_types import ElementType
from graphfuse.records.provenance import HashedFile
from graphfuse.records.reasons import Reason
from graphfuse.records.requests import AnyOutput, Output, output_of
from graphfuse.records.runs import ValidationReport
from graphfuse.records.sites import NearMiss, Scan, ScopeRef, Site, TensorType

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Fusion:
    """One planned rewrite: the site, the operator that replaces it, and its inputs in order.

    `output` is the normalised tensor as the operator yields it. `prelude` are nodes that compute a
    scale or bias from weights, where an expression asks for it; `epilogue` moves the rows of the
    output as those of the sum were moved before the norm. `body` is the function that the operator
    needs. `types` are what the graph is to say of the outputs where it says nothing: onnxruntime
    knows no shapes behind an operator of a library, and leaves its own fusions there undone.
    `attributes` are those of the node, `sum_at` is the output that the sum is, where it is read.
    """

    site: Site
    domain: str
    op_type: str
    inputs: tuple[str, ...]
    output: str
    prelude: tuple[onnx.NodeProto, ...] = ()
    epilogue: tuple[onnx.NodeProto, ...] = ()
    body: onnx.FunctionProto | None = None
    types: tuple[tuple[str, TensorType], ...] = ()
    attributes: tuple[tuple[str, int | float], ...] = ()
    sum_at: int = 1

    @property
    def operator(self) -> str:
        """The operator with its domain, such as com.microsoft::SkipLayerNormalization."""
        return f"{self.domain}::{self.op_type}"


@dataclass(frozen=True, slots=True)
class Vector:
    """An initializer to add: `value` in every element, for an absent scale or bias.

    `data` are its bytes in ONNX's raw form where it has more than one number: a scale or bias that
    is computed from small constants.
    """

    name: str
    elem_type: ElementType
    extents: tuple[int, ...]
    value: float
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Cost:
    """How many times faster a site's fused node is than its original nodes, and how that is known.

    `source` is `table` (measured before, interpolated) or `autotune` (measured on this machine),
    `where` the size that it holds for. `folds` says that the node adds the bias vector as well.
    `runtime` is the onnxruntime that the figures are of.
    """

    site: str
    source: str
    speedup: float
    where: str
    wins: bool = True
    folds: bool = False
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rewritten for a target, and what is left with its reason.

    `runtime` is the version of onnxruntime that it was made for, `made_for` all those for which it
    would be the same, in words. `functions` are those that the model gains, each with its place
    among all; `imports` are the operator sets that it gains, and `function_imports` those of its
    own functions, by their index. `ir_version` is the lowest that the fused nodes need.
    """

    target: str
    fusions: tuple[Fusion, ...]
    left: tuple[NearMiss, ...]
    vectors: tuple[Vector, ...] = ()
    costs: tuple[Cost, ...] = ()
    runtime: str = ""
    made_for: str = ""
    functions: tuple[tuple[int, onnx.FunctionProto], ...] = ()
    imports: tuple[tuple[str, int], ...] = ()
    function_imports: tuple[tuple[int, tuple[str, int]], ...] = ()
    ir_version: int = 0

    def by_scope(self) -> dict[ScopeRef, list[Fusion]]:
        """The fusions by the graph that they are in."""
        found: dict[ScopeRef, list[Fusion]] = {}
        for fusion in self.fusions:
            found.setdefault(fusion.site.scope, []).append(fusion)
        return found


def _nowhere(_: Rewritten, output: Output) -> tuple[HashedFile, ...]:
    raise UsageError(f"{output.path} cannot be written: the result has no model", "fuse one")


def _undrawn(_: Rewritten) -> tuple[Picture, ...]:
    return ()


def _as_it_is(proto: onnx.ModelProto) -> onnx.ModelProto:
    return proto


@dataclass(frozen=True, kw_only=True)
class Rewritten(ABC):
    """A model that was rewritten, and what came of it on the way to a file.

    `left` are near misses, or nodes that had to stay. `written` are the files that were written,
    the model first, `read` those of the original, and `notes` what is to be said of them. `proto`
    is the rewritten model while weights that are inline in a large file still lie there:
    `complete` puts them in.
    """

    proto: onnx.ModelProto = field(repr=False)
    left: tuple[NearMiss, ...]
    nodes_before: int
    nodes_after: int
    validation: ValidationReport | None = None
    written: tuple[HashedFile, ...] = ()
    read: tuple[HashedFile, ...] = ()
    notes: tuple[str, ...] = ()
    complete: Callable[[onnx.ModelProto], onnx.ModelProto] = field(
        default=_as_it_is, repr=False, compare=False
    )
    saver: Callable[[Rewritten, Output], tuple[HashedFile, ...]] = field(
        default=_nowhere, repr=False, compare=False
    )

    drawer: Callable[[Rewritten], tuple[Picture, ...]] = field(
        default=_undrawn, repr=False, compare=False
    )

    @property
    @abstractmethod
    def changed(self) -> bool:
        """Whether anything was rewritten."""

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:
        """The graph around each distinct spelling, before and after; drawn when first asked for."""
        return self.drawer(self)

    def _in_words(self, done: str) -> str:
        nodes = f"{self.nodes_before} to {self.nodes_after} nodes"
        verdict = "not validated" if self.validation is None else self.validation.verdict
        return f"<{type(self).__name__}: {done}, {len(self.left)} left, {nodes}, {verdict}>"

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The rewritten model; external data stays where it was, what was inline is inline."""
        return self.complete(self.proto)

    def save(self, output: AnyOutput) -> tuple[HashedFile, ...]:
        """Write the model to any place, atomically, with the weights that it needs there.

        Args:
            output: The file to write, or an `Output` that says more.

        Returns:
            The files that were written, the model first.

        Raises:
            UsageError: For an output that exists without `force`.
            WriteError: When it cannot be written; what was there still is.
        """
        return self.saver(self, output_of(output))


@dataclass(frozen=True, kw_only=True, repr=False)
class FuseResult(Rewritten):
    """The outcome of `fuse` and `optimize`.

    `fused` are the sites that became one node, `left` all near misses, those of the target
    included. `runtime` and `made_for` are those of the plan. `kept` are sites that were what the
    target wants before. The rest is as in Rewritten.
    """

    target: str
    scan: Scan
    fused: tuple[Fusion, ...]
    costs: tuple[Cost, ...] = ()
    runtime: str = ""
    made_for: str = ""
    kept: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything was rewritten."""
        return bool(self.fused)

    def __repr__(self) -> str:
        return self._in_words(f"{len(self.fused)} fused for {self.target}")

    @property
    def put_back(self) -> tuple[NearMiss, ...]:
        """The sites that were fused, failed validation, and are as they were."""
        return tuple(miss for miss in self.left if miss.reason is Reason.PUT_BACK)

    def reasons(self) -> Counter[Reason]:
        """How often each reason occurs among what is left."""
        return Counter(miss.reason for miss in self.left)


@dataclass(frozen=True, slots=True)
class Unfused:
    """A fused node that was written out: its output, and its operator with the domain."""

    output: str
    operator: str


@dataclass(frozen=True, kw_only=True, repr=False)
class UnfuseResult(Rewritten):
    """The outcome of `unfuse`.

    `unfused` are the nodes that were written out, `left` those that had to stay. The rest is as in
    Rewritten.
    """

    unfused: tuple[Unfused, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was written out."""
        return bool(self.unfused)

    def __repr__(self) -> str:
        return self._in_words(f"{len(self.unfused)} unfused")
