"""Each fused node alone: what it means (G0), and how accurate its kernel is (G1).

G0 evaluates the node and the part of the original that it replaced in float64, on rows around the
size of epsilon: there a wrong epsilon shows, which activations of the usual size hide. G1 runs the
node on the provider, on hard rows, every element against its rounding bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphfuse.graph.inference import infer_types
from graphfuse.graph.model_file import Model
from graphfuse.graph.shapes import UNKNOWN
from graphfuse.records import Check, Dim
from graphfuse.runtime import run, session
from graphfuse.validation.extract import Parts
from graphfuse.validation.operators import CONTRIB_EPSILON, EPSILON
from graphfuse.validation.reference import FUSED_DOMAINS, Twin, UnsupportedModelError, upcast
from graphfuse.validation.tolerance import (
    FLOAT,
    MEANING_BOUND,
    OTHER_KERNEL,
    distance,
    least_factor,
    reference_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CENTRED = {
    "AddLayerNormalization": True,
    "SkipLayerNormalization": True,
    "AddRMSNormalization": False,
    "SkipSimplifiedLayerNormalization": False,
}
DEFAULT_EPSILON = {"graphfuse": EPSILON, "com.microsoft": CONTRIB_EPSILON}


@dataclass(frozen=True, slots=True)
class FusedNode:
    """A fused node as a model holds it, with what is known of its operands."""

    node: onnx.NodeProto
    elem_type: int
    a_shape: tuple[Dim, ...]
    b_shape: tuple[Dim, ...]
    scale: Array
    bias: Array
    epsilon: float

    @property
    def name(self) -> str:
        """The node's name, or its output's."""
        return self.node.name or self.node.output[0]

    @property
    def centred(self) -> bool:
        """Whether it is a LayerNorm."""
        return CENTRED[self.node.op_type]


def fused_nodes(model: Model, rng: np.random.Generator) -> Iterator[FusedNode]:
    """The fused nodes of a model's main graph. Parameters that are computed are drawn instead."""
    graph = model.proto.graph
    mine = [n for n in graph.node if n.domain in FUSED_DOMAINS and n.op_type in CENTRED]
    if not mine:
        return
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    types = infer_types(model.proto)
    for node in mine:
        scale_type = types.get(node.input[2], UNKNOWN)
        hidden = scale_type.shape[0] if scale_type.shape else None
        if not isinstance(hidden, int):
            continue
        unknown: tuple[Dim, ...] = (None, None, hidden)
        a_shape = types.get(node.input[0], UNKNOWN).shape or unknown
        b_shape = types.get(node.input[1], UNKNOWN).shape or a_shape
        epsilon = {a.name: a.f for a in node.attribute}.get("epsilon", DEFAULT_EPSILON[node.domain])
        centred = CENTRED[node.op_type]
        yield FusedNode(
            node,
            scale_type.elem_type,
            _with_extent(a_shape, hidden),
            _with_extent(b_shape, hidden),
            _vector(model, initializers, node, 2, 1.0, hidden, rng),
            _vector(model, initializers, node, 3, 0.0, hidden, rng)
            if centred
            else np.zeros(hidden),
            float(epsilon),
        )


def _vector(
    model: Model,
    initializers: dict[str, onnx.TensorProto],
    node: onnx.NodeProto,
    position: int,
    default: float,
    hidden: int,
    rng: np.random.Generator,
) -> Array:
    """A scale or bias in float64: as the model holds it, absent, or drawn where it is computed."""
    if len(node.input) <= position or not node.input[position]:
        return np.full(hidden, default)
    tensor = initializers.get(node.input[position])
    if tensor is None:
        return upcast(rng.normal(default, 0.2, hidden).astype(np.float16))
    return upcast(model.read(tensor))


def _with_extent(shape: tuple[Dim, ...], hidden: int) -> tuple[Dim, ...]:
    return shape if shape and shape[-1] == 1 else (*shape[:-1], hidden)


def check_sites(original: Model, fused: Model, provider: str, seed: int) -> tuple[list[Check], str]:
    """Check every fused node that only the second model has, alone.

    Gives the checks and the output of the first node whose meaning differs.
    """
    there = {node.output[0]: node for node in original.proto.graph.node if node.output}
    checks: list[Check] = []
    differs = ""
    before, after = Parts(original), Parts(fused)
    for site in fused_nodes(fused, np.random.default_rng(seed)):
        if there.get(site.node.output[0]) == site.node:
            continue
        meaning = _check_meaning(before, after, site, seed)
        if meaning is not None:
            checks.append(meaning)
            differs = differs or ("" if meaning.passed else site.node.output[0])
        checks.append(_check_kernel(fused, site, provider, seed))
    return checks, differs


def _check_meaning(before: Parts, after: Parts, site: FusedNode, seed: int) -> Check | None:
    """The node against what it replaced, in float64; None when they cannot be paired.

    What cannot be paired, or does not run on rows of another number, is left to the whole model.
    """
    shared = {
        name for name in site.node.input if name in before.computed and name in after.computed
    }
    part, replacement = before.behind(site.node, shared), after.behind(site.node, shared)
    if part is None or replacement is None:
        return None
    rng = np.random.default_rng(seed)
    a, b = _operands(site, _rows_around_epsilon(site, rng), rng)
    known = dict(zip(site.node.input, (a, b, site.scale, site.bias), strict=False))
    known[site.node.input[0]], known[site.node.input[1]] = a, b
    feeds = {value.name: known[value.name] for value in part.proto.graph.input}
    feeds |= {value.name: known[value.name] for value in replacement.proto.graph.input}
    try:
        meant = Twin(part).run(feeds)
    except UnsupportedModelError:
        return None
    twin, name = Twin(replacement), site.node.output[0]
    got = _rows(twin.run(feeds)[name])
    # Row by row: in one norm over all, large rows would hide the small ones.
    values = [distance(*pair) for pair in zip(got, _rows(meant[name]), strict=True)]
    bounds = [MEANING_BOUND] * len(values)
    if max(values) > MEANING_BOUND:
        # What float32 does to an epsilon is no difference in meaning.
        nudged = _rows(twin.run_nudged(feeds)[name])
        slack = [distance(*pair) for pair in zip(nudged, got, strict=True)]
        bounds = [
            bound + more if value > bound else bound
            for value, bound, more in zip(values, bounds, slack, strict=True)
        ]
    figures = zip(values, bounds, strict=True)
    value, bound = max(figures, key=lambda figure: figure[0] / figure[1])
    where = f"float64, rows around epsilon, seed {seed}"
    return Check("G0", site.name, value, bound, where, value <= bound)


def _rows_around_epsilon(site: FusedNode, rng: np.random.Generator) -> Array:
    root = float(np.sqrt(site.epsilon))
    hidden: int = site.scale.shape[0]
    rows = [
        rng.standard_normal(hidden) * sigma + ratio * sigma
        for sigma in (root / 10, root, 10 * root, 1.0)
        for ratio in (0.0, 1.0)
    ]
    return np.stack(rows)


def _check_kernel(model: Model, site: FusedNode, provider: str, seed: int) -> Check:
    a, b, labels = hard_inputs(site, seed)
    where = f"{provider}, seed {seed}"
    try:
        alone = session(_alone(model, site, a, b), Path(), provider)
        outputs = run(alone, {"A": a, "B": b})
    except Exception as error:
        # onnxruntime raises its own classes; whatever it is, this site does not run.
        text = " ".join(str(error).split())[:200]
        return Check("G1", site.name, float("inf"), OTHER_KERNEL, f"{where}: {text}", False)
    with np.errstate(all="ignore"):
        reference = reference_rows(
            upcast(a),
            upcast(b),
            site.scale,
            site.bias,
            site.epsilon,
            site.centred,
            site.elem_type,
        )
        factors = [
            least_factor(row, exact, bound)
            for row, exact, bound in zip(
                _rows(outputs["Y"]), _rows(reference.output), _rows(reference.bound), strict=True
            )
        ]
        total = _total_factor(site, outputs, reference.total)
    worst = int(np.argmax(factors))
    value = max(factors[worst], total)
    label = labels[worst % len(labels)] if factors[worst] >= total else "the sum"
    return Check("G1", site.name, value, OTHER_KERNEL, f"{where}, {label}", value <= OTHER_KERNEL)


def _total_factor(site: FusedNode, outputs: dict[str, Array], total: Array) -> float:
    """The sum is an output too: it must be a + b, rounded once."""
    if "Sum" not in outputs:
        return 0.0
    number = FLOAT[site.elem_type]
    return least_factor(outputs["Sum"], total, number.eta + number.roundoff * np.abs(total))


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def hard_inputs(site: FusedNode, seed: int) -> tuple[Array, Array, list[str]]:
    """Operands whose rows go through the distributions that norms get wrong.

    Deviations from far below sqrt(epsilon) to 1000, means up to 10,000 deviations, an outlier, a
    constant row, a zero row, subnormals, large magnitudes. Rows of A follow the axis before the
    last, so a B that broadcasts over the leading axes keeps its rows.
    """
    rng = np.random.default_rng(seed)
    hidden: int = site.scale.shape[0]
    dtype = helper.tensor_dtype_to_np_dtype(site.elem_type)
    number = FLOAT[site.elem_type]
    # Squares are summed in float32 (float64 for float64): beyond this no kernel stays finite.
    accumulated = np.sqrt(1e308 if site.elem_type == 11 else 3e38) / np.sqrt(hidden) / 4
    limit = min(number.largest / 4, accumulated)
    root = float(np.sqrt(site.epsilon))
    rows: list[Array] = []
    labels: list[str] = []
    for sigma in (0.0, root / 10, root, 10 * root, 1.0, 1e3):
        for ratio in (0.0, 1.0, 1e2, 1e3, 1e4):
            rows.append(rng.standard_normal(hidden) * sigma + ratio * (sigma or 1.0))
            labels.append(f"sigma {sigma:.3g}, mean {ratio * (sigma or 1.0):.3g}")
    outlier: Array = rng.standard_normal(hidden)
    outlier[int(rng.integers(hidden))] *= 3000
    tiny: Array = rng.standard_normal(hidden) * (number.eta or 1e-308) * 64
    large: Array = np.sign(rng.standard_normal(hidden)) * limit * rng.uniform(0.5, 1, hidden)
    rows += [outlier, np.zeros(hidden), tiny, large, outlier, outlier]
    labels += ["a 3000x outlier", "a zero row", "subnormals", "large magnitudes"]
    labels += ["a NaN", "an infinity"]
    a, b = _operands(site, np.clip(np.stack(rows), -limit, limit), rng)
    a[..., -2, 0], a[..., -1, 0] = np.nan, np.inf
    return a.astype(dtype), b.astype(dtype), labels


def _operands(site: FusedNode, rows: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Split rows into two operands of the site's ranks; B broadcasts as it does in the model."""
    b = _broadcast_rows(site, rows * rng.uniform(0, 1, rows.shape))
    a = rows - b
    lead = (1,) * (max(len(site.a_shape), len(site.b_shape)) - 2)
    a = a.reshape(*lead, *a.shape)
    return a, b.reshape(*lead, *b.shape) if len(site.b_shape) >= 2 else b.reshape(-1)


def _broadcast_rows(site: FusedNode, matrix: Array) -> Array:
    """B's rows: one for all where B has no such axis, one number where its last extent is 1."""
    shape = site.b_shape
    if len(shape) < 2 or (shape[-2] == 1 and site.a_shape[-2:-1] != (1,)):
        middle = len(matrix) // 2
        matrix = matrix[middle : middle + 1]
    return matrix[..., :1] if shape and shape[-1] == 1 and site.scale.shape[0] != 1 else matrix


def _alone(model: Model, site: FusedNode, a: Array, b: Array) -> onnx.ModelProto:
    """A model of one node: the fused one, its attributes and functions as they are."""
    node = onnx.NodeProto()
    node.CopyFrom(site.node)
    names = ["A", "B", "Scale", "Bias"]
    for position, name in enumerate(names[: len(node.input)]):
        if node.input[position]:
            node.input[position] = name
    node.output[0] = "Y"
    outputs = ["Y"]
    if node.output[-1] and len(node.output) > 1:
        node.output[len(node.output) - 1] = "Sum"
        outputs.append("Sum")
    dtype = helper.tensor_dtype_to_np_dtype(site.elem_type)
    vectors = {"Scale": site.scale, "Bias": site.bias}
    graph = helper.make_graph(
        [node],
        "site",
        [
            helper.make_tensor_value_info(k, site.elem_type, v.shape)
            for k, v in (("A", a), ("B", b))
        ],
        [helper.make_tensor_value_info(name, site.elem_type, None) for name in outputs],
        [
            numpy_helper.from_array(v.astype(dtype), k)
            for k, v in vectors.items()
            if k in node.input
        ],
    )
    return helper.make_model(
        graph,
        ir_version=model.proto.ir_version,
        opset_imports=list(model.proto.opset_import),
        functions=[f for f in model.proto.functions if f.domain == node.domain],
    )
