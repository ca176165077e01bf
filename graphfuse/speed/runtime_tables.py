"""Measuring what the installed onnxruntime does with Add and a norm: its entry of the table.

    python -m graphfuse.speed.runtime_tables             print the entry
    python -m graphfuse.speed.runtime_tables -o FILE     put it into planning/runtimes.json
    python -m graphfuse.speed.runtime_tables --markdown  print the table that ships

Nodes are timed in a chain, as in kernel_timing, with optimizations off; functions and
onnxruntime's own fusions in a plain default session. One thread, processor time, medians of turns:
only the ratios within an entry are used. It takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphfuse import ops
from graphfuse.files.model_file import wrap
from graphfuse.planning import runtimes
from graphfuse.records import NormKind
from graphfuse.records.element_types import ElementType
from graphfuse.running.sessions import DISABLED_KEY, run, session
from graphfuse.speed import kernel_timing
from graphfuse.speed.bound_runs import environment
from graphfuse.speed.timing import Threads, paired, pinned
from graphfuse.system import libraries, machine
from graphfuse.validation.hard_inputs import hard_inputs
from graphfuse.validation.tolerance import least_factor, reference_rows
from graphfuse.views.fused_nodes import FusedNode

SHAPE = (1, 128, 768)
OPSETS = {NormKind.LAYER_NORM: (13, 17), NormKind.RMS_NORM: (13, 18, 23)}
"""Where the body changes: primitives with axes as an attribute, as an input, the norm itself."""

FUSIONS = ("SkipLayerNormFusion",)
"""onnxruntime's own fusions that take an Add and a norm."""

ROUNDS = 15
CLOCK = "processor"
MEASURED_TYPES = (ElementType.FLOAT, ElementType.FLOAT16, ElementType.DOUBLE, ElementType.BFLOAT16)


COMMAND = "python -m graphfuse.speed.runtime_tables -o graphfuse/planning/runtimes.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the entry or put it into a table."""
    parser = argparse.ArgumentParser(
        prog="python -m graphfuse.speed.runtime_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args(arguments)
    if given.markdown:
        print(_markdown())
        return 0
    with pinned(1) as threads:
        entry = measured(threads)
    if given.output is None:
        json.dump(entry, sys.stdout, indent=2)
        print()
        return 0
    there = given.output
    entries: list[dict[str, Any]] = []
    if there.exists():
        entries = json.loads(there.read_text(encoding="utf-8"))["runtimes"]
    there.write_text(_text(_merged(entries, entry)), encoding="utf-8")
    return 0


def measured(threads: Threads) -> dict[str, Any]:
    """The entry of the installed onnxruntime."""
    kinds = {NormKind.LAYER_NORM: "LN", NormKind.RMS_NORM: "RMS"}
    entry: dict[str, Any] = {
        "onnxruntime": libraries.onnxruntime().__version__,
        "machine": environment()["machine"],
        "nodes": {},
        "bodies": {},
        "fusions": {},
        "errors": {},
    }
    for kind, norm in kinds.items():
        for elem_type in MEASURED_TYPES:
            name = runtimes.case(kind, elem_type)
            entry["nodes"][name] = _nodes(norm, elem_type, threads)
            if elem_type != ElementType.BFLOAT16:
                # The CPU provider has no Add in bfloat16: no body runs without the kernels.
                entry["errors"][name] = _errors(kind, elem_type)
            for opset in OPSETS[kind] if elem_type != ElementType.BFLOAT16 else ():
                times = _bodies(kind, elem_type, opset, threads)
                if times:
                    entry["bodies"][runtimes.body_case(kind, elem_type, opset)] = times
            print(name, entry["nodes"][name], file=sys.stderr, flush=True)
    for fusion in FUSIONS:
        entry["fusions"][fusion] = _fusion(fusion, threads)
    return entry


COLUMNS = (
    "onnxruntime",
    "Add + LayerNorm",
    "SkipLayerNorm",
    "graphfuse",
    "default session, Add",
    "default session, Sum",
    "default session, apart",
    "Add + RMSNorm",
    "SkipSimplified",
    "graphfuse RMS",
    "K of Add + LayerNorm",
    "K of SkipLayerNorm",
)


def _markdown() -> str:
    """The float32 part of the table that ships."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for entry in runtimes.table():
        known = runtimes.runtime(entry["onnxruntime"])
        layer, rms = (known.nodes[runtimes.case(kind, ElementType.FLOAT)] for kind in NormKind)
        body = known.body(NormKind.LAYER_NORM, ElementType.FLOAT, 17)
        errors = known.errors[runtimes.case(NormKind.LAYER_NORM, ElementType.FLOAT)]
        figures = [
            *(
                layer[name]
                for name in (
                    runtimes.NodeForm.PAIR,
                    runtimes.NodeForm.CONTRIB,
                    runtimes.NodeForm.GRAPHFUSE,
                )
            ),
            *(body[form] for form in ops.BodyForm),
            *(
                rms[name]
                for name in (
                    runtimes.NodeForm.PAIR,
                    runtimes.NodeForm.CONTRIB,
                    runtimes.NodeForm.GRAPHFUSE,
                )
            ),
        ]
        lost = [errors[name] for name in (runtimes.NodeForm.PAIR, runtimes.NodeForm.CONTRIB)]
        words = [known.name, *(f"{figure:.0f}" for figure in figures)]
        words += ["rows lost" if error is None else f"{error:.2f}" for error in lost]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def _merged(entries: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries with one more; it takes the place of that of its minor version."""
    version = runtimes.parse_version(entry["onnxruntime"])
    others = [e for e in entries if runtimes.parse_version(e["onnxruntime"]) != version]
    return sorted([*others, entry], key=lambda entry: runtimes.parse_version(entry["onnxruntime"]))


def _text(entries: list[dict[str, Any]]) -> str:
    """One line for each case: a table that is measured again gives a diff that can be read."""
    blocks: list[str] = []
    for entry in entries:
        lines = [f'      "{key}": {json.dumps(entry[key])}' for key in ("onnxruntime", "machine")]
        for part in ("nodes", "bodies", "fusions", "errors"):
            rows = ",\n".join(
                f'        "{key}": {json.dumps(value)}' for key, value in entry[part].items()
            )
            lines.append(f'      "{part}": {{\n{rows}\n      }}')
        blocks.append("    {\n" + ",\n".join(lines) + "\n    }")
    body = ",\n".join(blocks)
    shape = json.dumps(list(SHAPE))
    return (
        f'{{\n  "schema": {runtimes.SCHEMA},\n'
        f'  "command": "{COMMAND}",\n'
        f'  "shape": {shape},\n  "runtimes": [\n{body}\n  ]\n}}\n'
    )


def _microseconds(calls: Mapping[str, Callable[[], object]], length: int) -> dict[str, float]:
    timings = paired(calls, 0.0, ROUNDS, CLOCK)
    return {name: round(timing.median / length * 1e6, 2) for name, timing in timings.items()}


def _nodes(norm: str, elem_type: ElementType, threads: Threads) -> dict[str, float]:
    """Microseconds of one node in each form that this onnxruntime has in the type."""
    names = {
        kernel_timing.Contestant.PAIR: runtimes.NodeForm.PAIR,
        kernel_timing.Contestant.CONTRIB: runtimes.NodeForm.CONTRIB,
        kernel_timing.Contestant.OWN: runtimes.NodeForm.GRAPHFUSE,
    }
    one = kernel_timing.Case(norm, elem_type.text, SHAPE, False, threads.count)
    calls: dict[str, Callable[[], object]] = {}
    for contender, name in names.items():
        try:
            calls[name] = kernel_timing.caller(one, contender, threads)
        except Exception as error:
            # onnxruntime raises its own classes: it has no such kernel in this type.
            machine.check(error, "measuring nodes")
            print(f"{norm} {one.type}: no {name} ({str(error)[:80]})", file=sys.stderr)
    return _microseconds(calls, one.length)


def _bodies(
    kind: NormKind, elem_type: ElementType, opset: int, threads: Threads
) -> dict[str, float]:
    """Microseconds of a fused node that runs its function, by the form of that.

    Nothing for an opset that is newer than the onnxruntime.
    """
    calls: dict[str, Callable[[], object]] = {}
    for form in ops.BodyForm:
        variant = ops.Variant(elem_type, elem_type, form=form)
        function = ops.function(kind, opset, variant)
        try:
            calls[form] = _plain(_chain(kind, elem_type, opset, function), threads)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            machine.check(error, "measuring bodies")
            print(f"{kind} opset {opset}: {str(error)[-80:]}", file=sys.stderr)
            return {}
    return _microseconds(calls, kernel_timing.LONGEST_CHAIN)


def _fusion(name: str, threads: Threads) -> dict[str, float]:
    """Add and LayerNormalization in a default session, with and without one of its fusions."""
    model = _chain(NormKind.LAYER_NORM, ElementType.FLOAT, 17, None)
    calls = {"on": _plain(model, threads), "off": _plain(model, threads, name)}
    return _microseconds(calls, kernel_timing.LONGEST_CHAIN)


EPSILONS = tuple(float(np.float32(epsilon)) for epsilon in (1e-5, 1e-12))
"""PyTorch's and BERT's, as attributes hold them: what an old kernel loses depends on it."""


def _errors(kind: NormKind, elem_type: ElementType) -> dict[str, float | None]:
    """The least K of rule G1 of the pair and of the fused operator; None where values are lost."""
    found: dict[str, float | None] = {}
    for name in (runtimes.NodeForm.PAIR, runtimes.NodeForm.CONTRIB):
        try:
            factors = [_factor(kind, elem_type, name, epsilon) for epsilon in EPSILONS]
        except Exception as error:
            # onnxruntime raises its own classes: it has no such kernel in this type.
            machine.check(error, "measuring errors")
            continue
        worst = max(factors)
        found[name] = round(worst, 2) if np.isfinite(worst) else None
    return found


def _factor(kind: NormKind, elem_type: ElementType, form: str, epsilon: float) -> float:
    extents, centred = (SHAPE[-1],), kind == NormKind.LAYER_NORM
    ones, zeros = np.ones(extents), np.zeros(extents)
    operator, domain = ops.CONTRIB_OPERATOR[kind], ops.CONTRIB_DOMAIN
    inputs = ["A", "B", "Scale", *(["Bias"] if centred else [])]
    fused = helper.make_node(operator, inputs, ["Y"], domain=domain, epsilon=epsilon)
    vectors = {"Scale": ones, **({"Bias": zeros} if centred else {})}
    shape = (1, None, *extents)
    site = FusedNode(
        fused, ("main",), elem_type, elem_type, shape, shape, extents, vectors, epsilon
    )
    a, b, _ = hard_inputs(site, 0)
    nodes = [fused]
    if form == runtimes.NodeForm.PAIR:
        norm = "LayerNormalization" if centred else "SimplifiedLayerNormalization"
        nodes = [
            helper.make_node("Add", inputs[:2], ["sum"]),
            helper.make_node(norm, ["sum", *inputs[2:]], ["Y"], epsilon=epsilon),
        ]
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info(name, elem_type, a.shape) for name in ("A", "B")],
        [helper.make_tensor_value_info("Y", elem_type, None)],
        [onnx.numpy_helper.from_array(v.astype(dtype), key) for key, v in vectors.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    got = run(session(model, Path(), optimize=False, kernels=False), {"A": a, "B": b})["Y"]
    wide = [array.astype(np.float64) for array in (a, b)]
    with np.errstate(all="ignore"):
        reference = reference_rows(wide[0], wide[1], vectors, epsilon, centred, elem_type)
        rows = zip(
            *(array.reshape(-1, *extents) for array in (got, reference.output, reference.bound)),
            strict=True,
        )
        return max(least_factor(*row) for row in rows)


def _plain(model: onnx.ModelProto, threads: Threads, without: str = "") -> Callable[[], object]:
    """A call of a model in a session without graphfuse, on memory that is bound beforehand."""
    options = libraries.onnxruntime().SessionOptions()
    threads.apply(options)
    if without:
        options.add_session_config_entry(DISABLED_KEY, without)
    loaded = wrap(model, Path())
    made = session(loaded.proto, loaded.folder, options=options)
    rng = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    arrays = {value.name: rng.standard_normal(SHAPE).astype(dtype) for value in model.graph.input}
    binding = made.io_binding()
    for key, array in arrays.items():
        binding.bind_cpu_input(key, array)
    binding.bind_output(model.graph.output[0].name, "cpu")

    def call() -> object:
        made.run_with_iobinding(binding)
        return arrays

    return call


def _chain(
    kind: NormKind, elem_type: ElementType, opset: int, function: onnx.FunctionProto | None
) -> onnx.ModelProto:
    """Nodes that each add a branch to what the one before normalised; without the kernels.

    Without a function they are Add and the norm.
    """
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    parameters = {"scale": np.ones(SHAPE[-1], dtype)}
    if kind == NormKind.LAYER_NORM:
        parameters["bias"] = np.zeros(SHAPE[-1], dtype)
    nodes: list[onnx.NodeProto] = []
    name = "x"
    for index in range(kernel_timing.LONGEST_CHAIN):
        sum_, y = f"sum{index}", f"y{index}"
        if function is None:
            nodes.append(helper.make_node("Add", [name, "branch"], [sum_]))
            nodes.append(
                helper.make_node("LayerNormalization", [sum_, *parameters], [y], epsilon=1e-5)
            )
        else:
            inputs = [name, "branch", *parameters]
            nodes.append(
                helper.make_node(
                    function.name,
                    inputs,
                    [y, sum_],
                    domain=ops.DOMAIN,
                    epsilon=1e-5,
                    axis=-1,
                    stash_type=ops.stash_type(elem_type),
                )
            )
        name = y
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info(key, elem_type, SHAPE) for key in ("x", "branch")],
        [helper.make_tensor_value_info(name, elem_type, SHAPE)],
        [onnx.numpy_helper.from_array(array, key) for key, array in parameters.items()],
    )
    return helper.make_model(
        graph,
        ir_version=ops.MINIMUM_IR_VERSION,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)],
        functions=[] if function is None else [function],
    )


if __name__ == "__main__":
    sys.exit(main())
