"""What onnxruntime's own optimiser makes of models before and after fusing: nothing is to be lost.

    python -m tests.campaigns.fusions
    python -m tests.campaigns.fusions --names hf-bert --folder exports --quantized

Every export of tests/exports/test_exports.py and of the trained MiniLM, in float32 and with
onnxruntime.quantization's dynamic int8, is fused and loaded at every level of optimization, with
graphfuse's kernels and without. A fusion of onnxruntime's is an operator of which the optimised
graph has more than the model had; norms and their sums, which graphfuse fuses itself, do not count.
One line for each model that lost any, and a summary; exits with 1 when there is one. A quantized
model that onnxruntime itself does not load is named and left out.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime as ort

import graphfuse
from graphfuse import kernels

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
NORMS = frozenset(
    (
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "RMSNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    )
)
INCLUDES = {
    "com.microsoft::BiasGelu": "com.microsoft::Gelu",
    "com.microsoft::DynamicQuantizeMatMul": "com.microsoft::MatMulIntegerToFloat",
}
"""Fusions that take in what another one made: where there is the first, the second is not lost."""

MINILM = (("dynamo", 18), ("torchscript", 17), ("torchscript", 11))

Counts = Counter[str]


def operators(model: onnx.ModelProto) -> Counts:
    """The operators of the main graph and its bodies, by domain and name."""
    found: Counts = Counter()
    pending = [model.graph]
    while pending:
        for node in pending.pop().node:
            found[f"{node.domain}::{node.op_type}".removeprefix("::")] += 1
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return found


def optimised(path: Path, level: str, with_kernels: bool) -> Counts:
    """The operators of what a session makes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    if with_kernels:
        kernels.register(options)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return operators(onnx.load(options.optimized_model_filepath, load_external_data=False))


def made(path: Path, level: str, with_kernels: bool = False) -> Counts:
    """The operators of which a session has more than its model."""
    before = operators(onnx.load(path, load_external_data=False))
    more = optimised(path, level, with_kernels) - before
    found = Counter({name: n for name, n in more.items() if _short(name) not in NORMS})
    for larger, smaller in INCLUDES.items():
        found[smaller] += found[larger]
    return found


def _short(name: str) -> str:
    return name.rpartition("::")[2]


def lost(original: Path, fused: Path) -> dict[str, Counts]:
    """The fusions that a session makes of the original alone, by level and kernels."""
    found: dict[str, Counts] = {}
    for level in LEVELS:
        wanted = made(original, level)
        for with_kernels in (True, False):
            gone = wanted - made(fused, level, with_kernels)
            if gone:
                found[f"{level}, {'with' if with_kernels else 'without'} kernels"] = gone
    return found


def does_not_load(path: Path) -> str:
    """Why onnxruntime makes no session of a model; '' when it does."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime raises its own classes, one per failure code.
        return " ".join(str(error).split())[-160:]
    return ""


def exports(folder: Path, names: list[str] | None) -> Iterator[Path]:
    """The float32 exports, made where they are not there yet."""
    from models.export import build, export
    from tests.exports.test_exports import EXPORTS

    rows = [*EXPORTS, *(("minilm", exporter, opset) for exporter, opset in MINILM)]
    for name, exporter, opset in rows:
        if names is not None and name not in names:
            continue
        path = folder / f"{name}-{exporter}-{opset}.onnx"
        if not path.exists():
            export(build(name), path, exporter, opset)
        yield path


def quantized(path: Path) -> Path:
    """The same with dynamic int8 weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises to run its own preprocessing first.
    logging.getLogger().setLevel(logging.ERROR)
    output = path.with_name(f"{path.stem}-int8.onnx")
    if not output.exists():
        quantize_dynamic(path, output, weight_type=QuantType.QInt8)
    return output


def compare(path: Path) -> tuple[int, dict[str, Counts]]:
    """How many sites were fused, and what was lost by it."""
    fused = path.with_name(f"{path.stem}-fused.onnx")
    result = graphfuse.optimize(path, graphfuse.Output(fused, force=True), level="none")
    return len(result.fused), lost(path, fused)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.fusions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--names", help="architectures, separated by commas; all if not given")
    parser.add_argument("--folder", type=Path, help="where exports are kept")
    parser.add_argument("--quantized", action="store_true", help="the int8 forms only")
    given = parser.parse_args(arguments)
    names = given.names.split(",") if given.names else None
    tried = losing = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for path in exports(folder, names):
            for model in [*([] if given.quantized else [path]), quantized(path)]:
                why = does_not_load(model)
                if why:
                    print(f"{model.stem} does not load: {why}", flush=True)
                    continue
                sites, gone = compare(model)
                tried += 1
                losing += bool(gone)
                for where, counts in gone.items():
                    print(f"{model.stem}, {sites} sites, {where}: lost {dict(counts)}", flush=True)
    print(f"onnxruntime {ort.__version__}: {tried} models, {losing} lost a fusion")
    return 1 if losing else 0


if __name__ == "__main__":
    sys.exit(main())
