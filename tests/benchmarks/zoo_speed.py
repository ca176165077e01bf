"""Twenty Hugging Face architectures at realistic size: the default session against the fused model.

    python -m tests.benchmarks.zoo_speed
    python -m tests.benchmarks.zoo_speed --names bert,llama --seconds 20 --kernels both

256 to 1,024 wide, 4 to 12 layers, random weights, 1 x 128 tokens (or two images of 256 patches).
Each is exported, fused for the CPU without validation, and timed by `graphfuse bench`: in paired runs
against the original in onnxruntime's default session. `--kernels off` gives the fused model the
default session as well, as for those who lack graphfuse. Each row is run in a process of
its own, so that one that needs much memory does not weigh on the next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.zoo.rows import Row, build_row, causal, paired, sized, vision


def _wide(hidden: int, layers: int, heads: int, **more: object) -> dict[str, object]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 256,
        **more,
    }


def _encoder(name: str, hidden: int, layers: int, heads: int, **more: object) -> Row:
    return Row(
        f"{name}Config", f"{name}Model", sized(**_wide(hidden, layers, heads, **more)), "text"
    )


def _decoder(name: str, hidden: int, layers: int, heads: int, **more: object) -> Row:
    sizes = {"num_key_value_heads": heads // 2, "head_dim": hidden // heads, **more}
    values = causal(**_wide(hidden, layers, heads, **sizes))
    return Row(f"{name}Config", f"{name}Model", values, "tokens")


def _vision(name: str, hidden: int, layers: int, heads: int) -> Row:
    # 256 patches, as ViT has of its images; the rows' own images are small.
    sizes = _wide(hidden, layers, heads, patch_size=2)
    sizes.pop("max_position_embeddings")
    return Row(f"{name}Config", f"{name}Model", vision(**sizes), "image", dynamic=False)


def _pair(name: str, hidden: int, layers: int, heads: int) -> Row:
    sides = {
        f"{side}_{what}": value
        for side in ("encoder", "decoder")
        for what, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * hidden))
    }
    values = paired(d_model=hidden, max_position_embeddings=256, **sides)
    return Row(f"{name}Config", f"{name}Model", values, "text to text")


ROWS: dict[str, Row] = {
    "bert": _encoder("Bert", 768, 12, 12),
    "minilm": _encoder("Bert", 384, 6, 12),
    "roberta": _encoder("Roberta", 512, 6, 8),
    "electra": _encoder("Electra", 256, 12, 4, embedding_size=128),
    "xlm-roberta": _encoder("XLMRoberta", 768, 6, 12),
    "mpnet": _encoder("MPNet", 768, 6, 12),
    "ernie": _encoder("Ernie", 768, 4, 12),
    "distilbert": Row(
        "DistilBertConfig",
        "DistilBertModel",
        sized(
            hidden_size=...,
            num_hidden_layers=...,
            num_attention_heads=...,
            intermediate_size=...,
            dim=768,
            n_layers=6,
            n_heads=12,
            hidden_dim=3072,
            max_position_embeddings=256,
        ),
        "text",
    ),
    "gpt2": Row(
        "GPT2Config",
        "GPT2Model",
        {
            "vocab_size": 96,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 256,
            "use_cache": False,
            "attn_implementation": "eager",
        },
        "tokens",
    ),
    "gpt-neox": _decoder("GPTNeoX", 512, 6, 8, num_key_value_heads=..., head_dim=...),
    "opt": Row(
        "OPTConfig",
        "OPTModel",
        causal(
            **_wide(768, 6, 12),
            ffn_dim=3072,
            word_embed_proj_dim=768,
            num_key_value_heads=...,
            head_dim=...,
        )
        | {},
        "text",
    ),
    "llama": _decoder("Llama", 1024, 8, 16, intermediate_size=2816),
    "mistral": _decoder("Mistral", 768, 6, 12),
    "qwen2": _decoder("Qwen2", 512, 12, 8, head_dim=...),
    "qwen3": _decoder("Qwen3", 512, 8, 8),
    "gemma": _decoder("Gemma", 512, 8, 8),
    "phi": _decoder("Phi", 768, 6, 12, head_dim=...),
    "bart": _pair("Bart", 512, 4, 8),
    "vit": _vision("ViT", 768, 8, 12),
    "deit": _vision("DeiT", 384, 12, 6),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.zoo_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--names", help="some of the rows, such as bert,llama")
    parser.add_argument("--seconds", type=float, default=10, help="per contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", default="1x128", help="batch and positions")
    parser.add_argument("--kernels", choices=("on", "off", "both"), default="on")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        return _export(*given.one)
    names = given.names.split(",") if given.names else list(ROWS)
    ratios: dict[str, list[float]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.zoo_speed", "--one", name, folder],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                print(f"{name:12} not exported: {made.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            sites = made.stdout.split()[-1]
            for kernels in ("on", "off") if given.kernels == "both" else (given.kernels,):
                found = _bench(Path(folder), given, kernels)
                speedup = found["speedup"]
                ratios.setdefault(kernels, []).append(speedup["median"])
                print(
                    f"{name:12} {sites:>3} sites, kernels {kernels:3} "
                    f"{found['original']['median'] * 1e3:8.2f} ms   {speedup['median']:.3f} "
                    f"({speedup['low']:.3f} to {speedup['high']:.3f})",
                    flush=True,
                )
    for kernels, values in ratios.items():
        print(
            f"kernels {kernels}: median {np.median(values):.3f}, least {min(values):.3f} "
            f"of {len(values)}"
        )
    return 0


def _export(name: str, folder: str) -> int:
    """In a child: write the original and the fused model, print how many sites were fused."""
    import graphfuse
    from models.export import export

    original = Path(folder) / "original.onnx"
    export(build_row(ROWS[name]), original)
    result = graphfuse.optimize(original, Path(folder) / "fused.onnx", validation="none")
    print(len(result.fused))
    return 0


def _bench(folder: Path, given: argparse.Namespace, kernels: str) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "graphfuse", "bench"]
    command += [str(folder / "original.onnx"), str(folder / "fused.onnx")]
    command += ["--seconds", str(given.seconds), "--threads", str(given.threads)]
    command += [
        "--clock",
        given.clock,
        "--sizes",
        given.size,
        "--no-profile",
        "--no-memory",
        "--json",
    ]
    command += ["--no-kernels"] if kernels == "off" else []
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise SystemExit(told.stderr)
    return json.loads(told.stdout)["comparisons"][0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
