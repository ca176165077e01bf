"""What graphfuse says of models that other tools fused: python -m tests.campaigns.peers.

BERT and LLaMA, small, by both exporters, fused by onnxruntime.transformers' optimizer and by
onnxscript's rewriter for onnxruntime. One line each: the operators that the tool brought in, the
verdict at `full`, what float64 could not judge, and what could not be paired.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx

import graphfuse
from models.export import export
from models.huggingface import build
from tests.support.silence import silence

MODELS = {"hf-bert": "bert", "hf-llama": "gpt2"}
"""Architectures, and what onnxruntime's optimizer calls a model of that kind."""

EXPORTS = (("dynamo", 18), ("torchscript", 17))


def by_onnxruntime(path: Path, target: Path, name: str) -> None:
    """onnxruntime.transformers.optimizer, its own fusions alone."""
    from onnxruntime.transformers import optimizer

    model = optimizer.optimize_model(
        str(path), model_type=MODELS[name], num_heads=4, hidden_size=32, opt_level=0
    )
    model.save_model_to_file(str(target))


def by_onnxscript(path: Path, target: Path, name: str) -> None:
    """onnxscript.rewriter.ort_fusions."""
    import onnx_ir
    from onnxscript.rewriter import ort_fusions

    del name
    made = ort_fusions.optimize_for_ort(onnx_ir.load(str(path)))
    onnx_ir.save(made[0] if isinstance(made, tuple) else made, str(target))


TOOLS: dict[str, Callable[[Path, Path, str], None]] = {
    "onnxruntime.transformers": by_onnxruntime,
    "onnxscript ort_fusions": by_onnxscript,
}


def verdict(original: Path, fused: Path) -> tuple[bool, str]:
    """Whether a fused model passes, and the line that says so."""
    nodes = onnx.load(fused, load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes if node.domain == "com.microsoft")
    brought = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
    report = graphfuse.validate(original, fused)
    parts = [brought, "passed" if report.passed else "FAILED"]
    parts += [f"{c.gate} of {c.subject} {c.value:.2g} > {c.bound:.2g}" for c in report.failures[:1]]
    worst = [(gate, report.worst(gate)) for gate in ("G0", "G1", "G2")]
    parts += [f"{gate} {c.value:.2g} of {c.bound:.2g}" for gate, c in worst if c is not None]
    parts += [f"unpaired {item.site}: {item.why}" for item in report.unpaired]
    single = report.evaluated.get("onnxruntime in float32", ())
    parts += [f"no float64 for {', '.join(single)}"] if single else []
    return report.passed, "; ".join(parts)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.peers", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), help="only this one")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.model] if options.model else MODELS:
            for exporter, opset in EXPORTS:
                original = Path(folder, f"{name}-{exporter}.onnx")
                with silence():
                    export(build(name), original, exporter, opset)
                for tool, fuse in TOOLS.items():
                    fused = original.with_suffix(".fused.onnx")
                    try:
                        with silence():
                            fuse(original, fused, name)
                    except Exception as error:  # whatever the tool raises
                        text = f"the tool fails: {type(error).__name__}: {str(error)[:120]}"
                    else:
                        passed, text = verdict(original, fused)
                        failed |= not passed
                    print(f"{name}, {exporter} {opset}, {tool}: {text}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
