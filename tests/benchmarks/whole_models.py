"""Whole models, fused with graphfuse's kernels, against the default session of the original.

    python -m tests.benchmarks.whole_models
    python -m tests.benchmarks.whole_models --model llama --shape 1,1 --seconds 20

Each model is exported (random weights but for MiniLM's), fused for the CPU, and both run paired and
interleaved at ORT_ENABLE_ALL, which is what a session does by default: onnxruntime's own fusions are
on for the original. One line per model and shape: milliseconds of the original, how many times
faster the fused one is (median of pairs, with quartiles), and what share of its time onnxruntime's
profiler gives to the nodes that only the original has, and to those that only the fused one has.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

import graphfuse
from graphfuse.bench.timing import Threads, paired, pinned
from models.example import Example, Flat
from models.export import export, minilm

SHAPES = {
    "minilm": ((1, 128), (8, 128)),
    "bert": ((1, 128),),
    "llama": ((1, 128), (1, 1)),
    "gpt2": ((1, 128), (1, 1)),
}


def _example(model: torch.nn.Module, vocabulary: int, mask: bool) -> Example:
    ids = torch.randint(0, vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids}
    if mask:
        inputs["attention_mask"] = torch.ones_like(ids)
    outputs = ["last_hidden_state"]
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Example(Flat(model.eval(), list(inputs), outputs), inputs, outputs, axes)


def bert() -> Example:
    """BERT-base: 12 layers, 768 wide."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False)
    return _example(model, 30522, mask=True)


def llama() -> Example:
    """LLaMA's shape: 12 layers, 1,024 wide."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=8,
        use_cache=False,
        attn_implementation="eager",
    )
    return _example(LlamaModel(config), 4096, mask=False)


def gpt2() -> Example:
    """GPT-2: 12 layers, 768 wide."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(use_cache=False, attn_implementation="eager")
    return _example(GPT2Model(config), 50257, mask=False)


MODELS: dict[str, Callable[[], Example]] = {
    "minilm": minilm,
    "bert": bert,
    "llama": llama,
    "gpt2": gpt2,
}


def session(path: Path, kernels: bool, threads: Threads, profile: Path | None = None) -> Any:
    options = graphfuse.session_options() if kernels else ort.SessionOptions()
    options.log_severity_level = 4
    threads.apply(options)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(made: Any, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {}
    for argument in made.get_inputs():
        ids = argument.name == "input_ids"
        array = rng.integers(0, 4096, shape) if ids else np.ones(shape, np.int64)
        values[argument.name] = np.zeros(shape, np.int64) if "type" in argument.name else array
    return values


def profile(
    path: Path, kernels: bool, threads: Threads, shape: tuple[int, ...], folder: Path
) -> dict[tuple[str, str], float]:
    """Kernel time by node and operator, by onnxruntime's profiler."""
    made = session(path, kernels, threads, folder / "profile")
    values = feeds(made, shape)
    for _ in range(20):
        made.run(None, values)
    spent: dict[tuple[str, str], float] = {}
    for event in json.loads(Path(made.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            node = (event["name"], event["args"]["op_name"])
            spent[node] = spent.get(node, 0) + event["dur"]
    return spent


def share(spent: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> float:
    """The share of the time that goes to nodes that the other session does not have."""
    return sum(time for node, time in spent.items() if node not in other) / sum(spent.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.whole_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--shape", help="such as 1,128; the model's own when not given")
    parser.add_argument("--seconds", type=float, default=10, help="per contender and shape")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, pinned(given.threads) as threads:
        for model in given.model or MODELS:
            _measure(model, given, threads, Path(name))
    return 0


def _measure(model: str, given: argparse.Namespace, threads: Threads, folder: Path) -> None:
    original, fused = folder / f"{model}.onnx", folder / f"{model}-fused.onnx"
    export(MODELS[model](), original)
    result = graphfuse.fuse(original)
    onnx.save(result.model, fused)
    shapes = [tuple(map(int, given.shape.split(",")))] if given.shape else SHAPES[model]
    before = session(original, False, threads)
    after = session(fused, True, threads)
    for shape in shapes:
        values = feeds(before, shape)
        timings = paired(
            {
                "original": lambda v=values: before.run(None, v),
                "fused": lambda v=values: after.run(None, v),
            },
            given.seconds,
        )
        low, middle, high = timings["fused"].ratio(timings["original"])
        first, second = [
            profile(path, kernels, threads, shape, folder)
            for path, kernels in ((original, False), (fused, True))
        ]
        print(
            f"{model:7} {','.join(map(str, shape)):6} {len(result.fused):3} sites "
            f"{timings['original'].median * 1e3:8.2f} ms   {middle:.3f} "
            f"({low:.3f} to {high:.3f})   sums and norms {share(first, second):.1%} -> {share(second, first):.1%}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
