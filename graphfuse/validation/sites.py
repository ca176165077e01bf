"""Each fused node alone: what it means (G0), and how accurate its kernel is (G1).

G0 evaluates the node and the part of the original that it replaced in float64, on rows around the
size of epsilon: there a wrong epsilon shows, which activations of the usual size hide. G1 runs the
node on the provider, on hard rows, every element against its rounding bound.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphfuse.errors import in_one_line
from graphfuse.graph.model_file import Model
from graphfuse.records import Check, Unpaired
from graphfuse.runtime import has_kernels, run, session
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.extract import Parts, parts_by_scope
from graphfuse.validation.fused_nodes import ROLES, FusedNode, fused_nodes
from graphfuse.validation.hard_inputs import LARGEST, hard_inputs, operands
from graphfuse.validation.lifting import OWN_DOMAIN, upcast
from graphfuse.validation.reference import Twin
from graphfuse.validation.tolerance import (
    MEANING_BOUND,
    OTHER_KERNEL,
    OWN_KERNEL,
    RowReference,
    distance,
    least_factor,
    reference_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
"""The types in which statistics may be computed; for float64 sums only the second."""


@dataclass
class SiteResults:
    """What checking the fused nodes alone gave; `wrong` are the outputs of those that failed."""

    checks: list[Check] = field(default_factory=list[Check])
    wrong: list[str] = field(default_factory=list[str])
    unpaired: list[Unpaired] = field(default_factory=list[Unpaired])


def new_sites(
    original: Model, fused: Model, seed: int, only: Sequence[str] = ()
) -> tuple[list[FusedNode], list[Unpaired]]:
    """The fused nodes that only the second model has, or those of them with a given output.

    Also gives those of which too little is known to check them alone.
    """
    before = parts_by_scope(original)
    found: list[FusedNode] = []
    unknown: list[Unpaired] = []
    for node, scope, site in fused_nodes(fused, np.random.default_rng(seed)):
        there, output = before.get(scope), node.output[0]
        new = there is None or there.node(output) != node
        if new and (not only or output in only):
            if isinstance(site, str):
                unknown.append(Unpaired(output, site))
            else:
                found.append(site)
    return found, unknown


def check_sites(
    original: Model,
    fused: Model,
    sites: Sequence[FusedNode],
    provider: str,
    seed: int,
    activations: Mapping[str, tuple[Array, Array]] | None = None,
    options: str = "",
) -> SiteResults:
    """Check fused nodes alone: what each means, and the kernel of each distinct one.

    `activations` are operands from the original's own run, by output, which `options` repeat.
    """
    results = SiteResults()
    before, after = parts_by_scope(original), parts_by_scope(fused)
    for site in sites:
        there = before.get(site.scope)
        found = "the original has no such graph"
        if there is not None:
            found = _check_meaning(there, after[site.scope], site, seed)
        if isinstance(found, str):
            results.unpaired.append(Unpaired(site.output, found))
            continue
        results.checks.append(found)
        if not found.passed:
            results.wrong.append(site.output)
    alike: dict[object, list[FusedNode]] = {}
    for site in sites:
        alike.setdefault(_likeness(site), []).append(site)
    for first, *others in alike.values():
        more = f", {len(others)} more alike" if others else ""
        checks = _check_kernels(fused, first, provider, seed, more)
        if not all(check.passed for check in checks):
            results.wrong += [site.output for site in (first, *others)]
        results.checks += checks
    for site in sites:
        if activations and site.output in activations:
            checks = _check_activations(fused, site, provider, activations[site.output])
            results.checks += [replace(check, repeat=options) for check in checks]
            results.wrong += [check.subject for check in checks if not check.passed]
    order = {site.output: number for number, site in enumerate(sites)}
    results.wrong = sorted(set(results.wrong), key=order.__getitem__)
    repeat = f"--validate sites --seed {seed} --site "
    results.checks = [
        check if check.repeat else replace(check, repeat=repeat + shlex.quote(check.subject))
        for check in results.checks
    ]
    return results


def _likeness(site: FusedNode) -> object:
    """What a kernel's result depends on: sites that have it in common are run once."""
    vectors = tuple((role, array.tobytes()) for role, array in site.vectors.items())
    attributes = tuple(sorted(a.SerializeToString() for a in site.node.attribute))
    outputs = tuple(bool(name) for name in site.node.output)
    types = (site.elem_type, site.parameter_type, site.a_shape, site.b_shape, site.extents)
    return (
        site.node.domain,
        site.node.op_type,
        attributes,
        outputs,
        tuple(site.roles),
        types,
        vectors,
    )


def _check_meaning(before: Parts, after: Parts, site: FusedNode, seed: int) -> Check | str:
    """The node against what it replaced, in float64; a sentence when they cannot be paired.

    What cannot be paired, or does not run on rows of another number, is left to the whole model.
    """
    names = set(site.roles.values())
    shared = {name for name in names if before.computes(name) and after.computes(name)}
    if before.node(site.output) is None:
        return f"the original computes no {site.output!r}"
    part, replacement = before.behind(site.node, shared), after.behind(site.node, shared)
    if part is None or replacement is None:
        return "what it replaced reads more than the fused node does"
    rng = np.random.default_rng(seed)
    a, b = operands(site, _rows_around_epsilon(site, rng), rng, as_declared=True)
    values = {**site.vectors, "A": a, "B": b}
    known = {name: values[role] for role, name in reversed(site.roles.items())}
    feeds = {value.name: known[value.name] for value in part.proto.graph.input}
    feeds |= {value.name: known[value.name] for value in replacement.proto.graph.input}
    try:
        meant = Twin(part).run(feeds)
    except UnsupportedModelError as error:
        return f"what it replaced does not run on rows of its own ({error.message[:120]})"
    twin, name = Twin(replacement), site.output
    try:
        result, wanted = twin.run(feeds)[name], meant[name]
    except UnsupportedModelError as error:
        where = f"float64, {error.message[:160]}"
        return Check("G0", name, float("inf"), MEANING_BOUND, where, False)
    if result.shape != wanted.shape or wanted.size % site.hidden:
        where = f"float64, shape {result.shape} in place of {wanted.shape}"
        return Check("G0", name, float("inf"), MEANING_BOUND, where, False)
    got = _rows(site, result)
    # Row by row: in one norm over all, large rows would hide the small ones.
    values = [distance(*pair) for pair in zip(got, _rows(site, wanted), strict=True)]
    bounds = [MEANING_BOUND] * len(values)
    if max(values) > MEANING_BOUND:
        # What float32 does to an epsilon is no difference in meaning.
        nudged = _rows(site, twin.run(feeds, nudged=True)[name])
        slack = [distance(*pair) for pair in zip(nudged, got, strict=True)]
        bounds = [
            bound + more if value > bound else bound
            for value, bound, more in zip(values, bounds, slack, strict=True)
        ]
    figures = zip(values, bounds, strict=True)
    value, bound = max(figures, key=lambda figure: figure[0] / figure[1])
    where = f"float64, rows around epsilon, seed {seed}"
    return Check("G0", name, value, bound, where, value <= bound)


def _rows_around_epsilon(site: FusedNode, rng: np.random.Generator) -> Array:
    root = float(np.sqrt(site.epsilon))
    rows = [
        rng.standard_normal(site.hidden) * sigma + ratio * sigma
        for sigma in (root / 10, root, 10 * root, 1.0)
        for ratio in (0.0, 1.0)
    ]
    return np.stack(rows)


def _check_kernels(
    model: Model, site: FusedNode, provider: str, seed: int, more: str = ""
) -> list[Check]:
    """G1 on hard rows, of each way in which the provider can run the node."""
    stash = next((a.i for a in site.node.attribute if a.name == "stash_type"), 0)
    double = site.elem_type == TensorProto.DOUBLE
    if stash and stash not in ((TensorProto.DOUBLE,) if double else WIDE):
        where = f"stash_type {stash}: statistics in a type that is too narrow"
        return [Check("G1", site.output, float("inf"), OTHER_KERNEL, where, False)]
    a, b, labels = hard_inputs(site, seed)
    return _run_alone(model, site, provider, (a, b), labels, f"seed {seed}{more}")


def _check_activations(
    model: Model, site: FusedNode, provider: str, captured: tuple[Array, Array]
) -> list[Check]:
    """G1 on what the site reads in the original's own run."""
    dtype = helper.tensor_dtype_to_np_dtype(site.elem_type)
    a, b = (array.astype(dtype) for array in captured)
    if a.size > LARGEST or not a.size:
        return []
    return _run_alone(model, site, provider, (a, b), ["a row of a run"], "real activations")


def _run_alone(
    model: Model,
    site: FusedNode,
    provider: str,
    arrays: tuple[Array, Array],
    labels: list[str],
    source: str,
) -> list[Check]:
    """Run the node with graphfuse's kernel, where the provider has it, and as others run it."""
    a, b = arrays
    vectors = {role: _held(site, role) for role in site.vectors}
    with np.errstate(all="ignore"):
        reference = reference_rows(
            upcast(a),
            upcast(b),
            {role: upcast(vector) for role, vector in vectors.items()},
            site.epsilon,
            site.centred,
            site.elem_type,
        )
    alone = _alone(model, site, a, b, vectors)
    own = site.node.domain == OWN_DOMAIN and has_kernels([provider])
    checks: list[Check] = []
    for kernels in (True, False) if own else (False,):
        bound = OWN_KERNEL if kernels else OTHER_KERNEL
        where = f"{provider}, {'graphfuse kernel, ' if kernels else ''}{source}"
        try:
            # Judged is the provider's kernel, not one that onnxruntime falls back to.
            made = session(alone, Path(), provider, kernels=kernels, fallback=False)
            outputs = run(made, {"A": a, "B": b})
        except Exception as error:
            # onnxruntime raises its own classes; whatever it is, this site does not run.
            text = in_one_line(error)
            if checks and "NOT_IMPLEMENTED" in text:
                # Without graphfuse's kernels the provider lacks the type (bfloat16 on the CPU), for
                # the original's nodes as for these: there is nothing that it could be worse than.
                continue
            checks.append(Check("G1", site.output, float("inf"), bound, f"{where}: {text}", False))
            continue
        shape, wanted = outputs["Y"].shape, reference.output.shape
        if shape != wanted:
            text = f"{where}: shape {list(shape)} in place of {list(wanted)}"
            checks.append(Check("G1", site.output, float("inf"), bound, text, False))
            continue
        value, label = _worst(site, outputs, reference, labels)
        checks.append(Check("G1", site.output, value, bound, f"{where}, {label}", value <= bound))
    return checks


def _worst(
    site: FusedNode, outputs: dict[str, Array], reference: RowReference, labels: list[str]
) -> tuple[float, str]:
    """The least K that passes, and the row that needs it."""
    with np.errstate(all="ignore"):
        factors = [
            least_factor(row, exact, bound)
            for row, exact, bound in zip(
                _rows(site, outputs["Y"]),
                _rows(site, reference.output),
                _rows(site, reference.bound),
                strict=True,
            )
        ]
        total = _total_factor(outputs, reference)
    worst = int(np.argmax(factors))
    label = labels[worst % len(labels)] if factors[worst] >= total else "the sum"
    return max(factors[worst], total), label


def _held(site: FusedNode, role: str) -> Array:
    """A vector in the type in which the node reads it."""
    elem_type = site.elem_type if role == "AddBias" else site.parameter_type
    return site.vectors[role].astype(helper.tensor_dtype_to_np_dtype(elem_type))


def _total_factor(outputs: dict[str, Array], reference: RowReference) -> float:
    """The sum is an output too: it must be right to its rounding."""
    if "Sum" not in outputs:
        return 0.0
    return least_factor(outputs["Sum"], reference.total, reference.total_bound)


def _rows(site: FusedNode, array: Array) -> Array:
    return array.reshape(-1, site.hidden)


def _alone(
    model: Model, site: FusedNode, a: Array, b: Array, vectors: dict[str, Array]
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
