"""G1: a fused node alone on a provider, every element against its rounding bound.

graphfuse's own kernel has to hold its bound. What any other kernel misses is asked of the original
too: its own nodes of the site run on the same rows, provider and optimizations, and a row that
they get as wrong is onnxruntime's, fused or not. The original is run only then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphfuse.errors import in_one_line
from graphfuse.files.model_file import Model
from graphfuse.graph.tensors import upcast
from graphfuse.records import Check
from graphfuse.running.sessions import has_kernels, run, session
from graphfuse.system import libraries, machine
from graphfuse.validation.hard_inputs import LARGEST, hard_inputs
from graphfuse.validation.tolerance import (
    OTHER_KERNEL,
    OWN_KERNEL,
    RowReference,
    element_factors,
    no_worse,
    reference_rows,
)
from graphfuse.views.fused_nodes import OWN_DOMAIN, ROLES, FusedNode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Outputs = Mapping[str, Array]

Replaced = Callable[[], Model | None]
"""What a fused node replaced, cut out when it is asked for; None where it cannot be."""

WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
"""The types in which statistics may be computed; for float64 sums only the second."""

DRAWS, LEAST_DRAWS = 64, 8
"""How often hard rows are drawn again to see what the original loses of their kind, at most, and
how often where it loses none."""

HARD, REAL = "hard rows", "rows of the original's own run"


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows of a site beyond their bound, fused or not; `label` is one of them."""

    site: str
    provider: str
    rows: int
    of: int
    kind: str
    label: str
    own_kernel_holds: bool


@dataclass
class Trial:
    """One fused node on one provider and one set of rows; `checks` runs it.

    `source` tells the rows' origin, `labels` each of them, `alike` are others of their kind.
    `lost` is there once a run was beyond its bound and the original no better; `asked` says that
    the original was run.
    """

    model: Model
    site: FusedNode
    provider: str
    operands: tuple[Array, Array]
    labels: Sequence[str]
    kind: str
    source: str
    part: Replaced
    alike: Iterable[tuple[Array, Array]] = ()
    lost: Lost | None = None
    asked: bool = False
    vectors: dict[str, Array] = field(init=False)
    reference: RowReference = field(init=False)

    def __post_init__(self) -> None:
        self.vectors = {role: _held(self.site, role) for role in self.site.vectors}
        self.reference = self._right(self.operands)

    def checks(self) -> list[Check]:
        """Run the node with graphfuse's kernel, where the provider has it, and as others run it."""
        site, (a, b) = self.site, self.operands
        alone = _model_of_one(self.model, site, a, b, self.vectors)
        own = site.node.domain == OWN_DOMAIN and has_kernels([self.provider])
        own = own and site.takes_kernels
        checks: list[Check] = []
        for kernels in (True, False) if own else (False,):
            bound = OWN_KERNEL if kernels else OTHER_KERNEL
            name = "graphfuse kernel, " if kernels else ""
            where = f"{self.provider}, {name}{self.source}"
            try:
                # Judged is the provider's kernel, not one that onnxruntime falls back to.
                made = session(alone, Path(), self.provider, kernels=kernels, fallback=False)
                outputs = run(made, {"A": a, "B": b})
            except Exception as error:
                # onnxruntime raises its own classes; whatever else it is, this site does not run.
                machine.check(error, f"running {site.output!r} alone on {self.provider}")
                text = in_one_line(error)
                if checks and "NOT_IMPLEMENTED" in text:
                    # Without graphfuse's kernels the provider lacks the type (bfloat16 on the CPU),
                    # for the original's nodes as for these: nothing could be worse than they are.
                    continue
                checks.append(self._failed(bound, f"{where}: {text}"))
                continue
            shape, wanted = outputs["Y"].shape, self.reference.output.shape
            if shape != wanted:
                text = f"{where}: shape {list(shape)} in place of {list(wanted)}"
                checks.append(self._failed(bound, text))
                continue
            holds = all(check.passed for check in checks) and bool(checks)
            checks.append(self._judged(outputs, bound, where, None if kernels else holds))
        return checks

    def _failed(self, bound: float, where: str) -> Check:
        return Check("G1", self.site.output, float("inf"), bound, where, False)

    def _judged(self, outputs: Outputs, bound: float, where: str, holds: bool | None) -> Check:
        """The least K that passes, and the row that needs it.

        `holds` is whether graphfuse's kernel holds its bound, and None for a run of that itself:
        it is held to its bound whatever the original does.
        """
        factors = self._factors(outputs)
        rows = {name: found.max(-1, initial=0.0) for name, found in factors.items()}
        more = ""
        if holds is not None and not all((worst <= bound).all() for worst in rows.values()):
            lost = self._lost(factors, bound)
            labels = [
                "the sum" if name == "Sum" else self._label(int(row))
                for name, mask in lost.items()
                for row in np.flatnonzero(mask)
            ]
            if labels:
                count = int(np.logical_or.reduce(list(lost.values())).sum())
                self.lost = Lost(
                    self.site.output,
                    self.provider,
                    count,
                    len(rows["Y"]),
                    self.kind,
                    labels[0],
                    holds,
                )
                more = f"; {count} rows lost, as in the original"
                rows |= {name: np.where(mask, 0.0, rows[name]) for name, mask in lost.items()}
        name = max(rows, key=lambda each: rows[each].max(initial=0.0))
        value = float(rows[name].max(initial=0.0))
        label = "the sum" if name == "Sum" else self._label(int(np.argmax(rows[name])))
        text = f"{where}, {label}{more}"
        return Check("G1", self.site.output, value, bound, text, value <= bound)

    def _label(self, row: int) -> str:
        return self.labels[row % len(self.labels)]

    def _factors(self, outputs: Outputs, right: RowReference | None = None) -> dict[str, Array]:
        """Each element's distance from float64 in multiples of its bound, row by row.

        The sum is an output too: it must be right to its rounding.
        """
        right = right or self.reference
        wanted = {"Y": (right.output, right.bound), "Sum": (right.total, right.total_bound)}
        return {
            name: element_factors(array, *wanted[name]).reshape(-1, self.site.hidden)
            for name, array in outputs.items()
        }

    def _lost(self, factors: Mapping[str, Array], bound: float) -> dict[str, NDArray[np.bool_]]:
        """By output, the rows beyond the bound of which the original loses as much.

        A kernel that computes the variance as a difference loses a row or not as its sums happen
        to be rounded, and the original rounds others. So rows of the same kind are drawn again,
        until each was lost as badly, or some were right in all of the first draws.
        """
        beyond = {name: found.max(-1, initial=0.0) > bound for name, found in factors.items()}
        lost = {name: np.zeros_like(mask) for name, mask in beyond.items()}
        ever = {name: np.zeros_like(mask) for name, mask in beyond.items()}
        for number, others in enumerate(self._original()):
            for name in beyond.keys() & others.keys():
                lost[name] |= beyond[name] & no_worse(factors[name], others[name])
                ever[name] |= others[name].max(-1, initial=0.0) > bound
            left = {name: beyond[name] & ~lost[name] for name in beyond}
            hopeless = number >= LEAST_DRAWS and any((left[n] & ~ever[n]).any() for n in left)
            if hopeless or not any(mask.any() for mask in left.values()):
                break
        return lost

    def _original(self) -> Iterator[dict[str, Array]]:
        """How far off the original's own nodes are on these rows, then on others of their kind.

        Nothing where its nodes cannot be run on these rows.
        """
        self.asked = True
        part = self.part()
        if part is None:
            return
        made: libraries.Session | None = None
        names = {self.site.output: "Y", self.site.node.output[-1]: "Sum"}
        names |= {self.site.output: "Y"}
        for operands in itertools.chain([self.operands], self.alike):
            feeds = self._feeds(operands)
            if feeds is None:
                return
            model = _typed(part.proto, feeds, self.site)
            try:
                made = made or session(
                    model, part.folder, self.provider, kernels=False, fallback=False
                )
                outputs = run(made, feeds)
            except Exception as error:
                # Whatever else onnxruntime raises: the bound stands, with nothing to compare with.
                doing = f"running what {self.site.output!r} replaced on {self.provider}"
                machine.check(error, doing)
                return
            found = {names[name]: array for name, array in outputs.items()}
            right = self.reference if operands is self.operands else self._right(operands)
            yield self._factors(found, right)

    def _right(self, operands: tuple[Array, Array]) -> RowReference:
        """What a site gives in float64, and how far off each element may be."""
        site, (a, b) = self.site, operands
        with np.errstate(all="ignore"):
            return reference_rows(
                upcast(a),
                upcast(b),
                {role: upcast(vector) for role, vector in self.vectors.items()},
                site.epsilon,
                site.centred,
                site.elem_type,
            )

    def _feeds(self, operands: tuple[Array, Array]) -> dict[str, Array] | None:
        """The operands by the names that both models have; None where one name stands for two."""
        a, b = operands
        feeds: dict[str, Array] = {}
        for role, array in {"A": a, "B": b, **self.vectors}.items():
            name = self.site.roles.get(role)
            if name is None:
                continue
            there = feeds.setdefault(name, array)
            if there is not array and not np.array_equal(there, array, equal_nan=True):
                return None
        return feeds


def on_hard_rows(
    model: Model, site: FusedNode, provider: str, seed: int, part: Replaced, more: str = ""
) -> Trial | Check:
    """The trial on hard rows; a failed check for a node whose attributes alone are wrong."""
    stash = next((a.i for a in site.node.attribute if a.name == "stash_type"), 0)
    double = site.elem_type == TensorProto.DOUBLE
    if stash and stash not in ((TensorProto.DOUBLE,) if double else WIDE):
        where = f"stash_type {stash}: statistics in a type that is too narrow"
        return Check("G1", site.output, float("inf"), OTHER_KERNEL, where, False)
    a, b, labels = hard_inputs(site, seed)
    alike = (hard_inputs(site, seed + number)[:2] for number in range(1, DRAWS + 1))
    return Trial(model, site, provider, (a, b), labels, HARD, f"seed {seed}{more}", part, alike)


def on_activations(
    model: Model, site: FusedNode, provider: str, captured: tuple[Array, Array], part: Replaced
) -> Trial | None:
    """The trial on what the site reads in the original's own run; None where that is too much."""
    dtype = helper.tensor_dtype_to_np_dtype(site.elem_type)
    a, b = (array.astype(dtype) for array in captured)
    if a.size > LARGEST or not a.size:
        return None
    return Trial(model, site, provider, (a, b), ["a row of a run"], REAL, "real activations", part)


def notes(found: Sequence[Lost]) -> list[str]:
    """What onnxruntime gets wrong, fused or not: a sentence for each provider and kind of rows."""
    groups: dict[tuple[str, str], list[Lost]] = {}
    for lost in found:
        groups.setdefault((lost.provider, lost.kind), []).append(lost)
    return [_note(*group, items) for group, items in groups.items()]


def _note(provider: str, kind: str, found: Sequence[Lost]) -> str:
    worst = max(found, key=lambda lost: lost.rows)
    at = f"{len(found)} sites, such as {worst.site}" if len(found) > 1 else worst.site
    row = f" (such as {worst.label})" if kind == HARD else ""
    own = "; graphfuse's kernels do not" if all(lost.own_kernel_holds for lost in found) else ""
    return (
        f"onnxruntime {libraries.onnxruntime().__version__} loses {worst.rows} of {worst.of} {kind}"
        f"{row} on {provider}, fused or not, at {at}{own}"
    )


def _held(site: FusedNode, role: str) -> Array:
    """A vector in the type in which the node reads it."""
    elem_type = site.elem_type if role == "AddBias" else site.parameter_type
    return site.vectors[role].astype(helper.tensor_dtype_to_np_dtype(elem_type))


def _typed(part: onnx.ModelProto, feeds: Mapping[str, Array], site: FusedNode) -> onnx.ModelProto:
    """The part with the types of what it is given: the operands are inputs, also constant ones."""
    given = {site.roles["A"], site.roles["B"]} | {value.name for value in part.graph.input}
    read = {name for node in part.graph.node for name in node.input}
    typed = onnx.ModelProto()
    typed.CopyFrom(part)
    kept = [tensor for tensor in part.graph.initializer if tensor.name not in given]
    del typed.graph.input[:], typed.graph.initializer[:], typed.graph.output[:]
    typed.graph.initializer.extend(kept)
    for name in sorted(given & read & feeds.keys()):
        elem_type = helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
        value = helper.make_tensor_value_info(name, elem_type, feeds[name].shape)
        typed.graph.input.append(value)
    for value in part.graph.output:
        typed.graph.output.append(helper.make_tensor_value_info(value.name, site.elem_type, None))
    return typed


def _model_of_one(
    model: Model, site: FusedNode, a: Array, b: Array, vectors: Mapping[str, Array]
) -> onnx.ModelProto:
    """A model of one node: the fused one, its attributes and functions as they are."""
    node = onnx.NodeProto()
    node.CopyFrom(site.node)
    for position, role in enumerate(ROLES[node.domain, node.op_type][: len(node.input)]):
        if node.input[position]:
            node.input[position] = role
    node.output[0] = "Y"
    outputs = ["Y"]
    if node.output[-1] and len(node.output) > 1:
        node.output[len(node.output) - 1] = "Sum"
        outputs.append("Sum")
    graph = helper.make_graph(
        [node],
        "site",
        [
            helper.make_tensor_value_info(k, site.elem_type, v.shape)
            for k, v in (("A", a), ("B", b))
        ],
        [helper.make_tensor_value_info(name, site.elem_type, None) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in vectors.items() if k in node.input],
    )
    return helper.make_model(
        graph,
        ir_version=model.proto.ir_version,
        opset_imports=list(model.proto.opset_import),
        functions=[f for f in model.proto.functions if f.domain == node.domain],
    )
