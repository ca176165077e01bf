"""Twenty Hugging Face architectures at realistic size, fused, beside the best alternative.

    python -m tests.campaigns.benchmarks.zoo_speed
    python -m tests.campaigns.benchmarks.zoo_speed --names bert,llama --types float32,int8 --seconds 20
    python -m tests.campaigns.benchmarks.zoo_speed --versions 1.24.4 1.29.0 1.32.0 --folder exports

256 to 1,024 wide, 4 to 12 layers, random weights, 1 x 128 tokens (or two images of 256 patches), and
the trained MiniLM. Each is exported once, in float32 and quantized by
onnxruntime.quantization.quantize_dynamic, and measured by tests/campaigns/benchmarks/fair.py: in the installed
onnxruntime, or in each of `--versions`, which gets a virtual environment of its own. Each row runs in
a process of its own, so that one that needs much memory does not weigh on the next.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaigns.benchmarks.fair import SHOWN, line, parser
from tests.campaigns.benchmarks.runtimes import pythons, run
from tests.campaigns.fusions import quantized
from tests.campaigns.zoo.rows import Row, build_row, causal, paired, sized, vision


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


TRAINED = "minilm-trained"
TYPES = ("float32", "int8")


def main(arguments: list[str] | None = None) -> int:
    made = parser("python -m tests.campaigns.benchmarks.zoo_speed", __doc__)
    made.add_argument("--names", help="some of the rows, such as bert,llama")
    made.add_argument("--types", default=",".join(TYPES), help="float32, int8")
    made.add_argument(
        "--versions", nargs="+", default=[], help="of onnxruntime; the installed one if not given"
    )
    made.add_argument("--folder", type=Path, help="where exports are kept")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    made.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = made.parse_args(arguments)
    if given.one:
        return _export(*given.one)
    names = given.names.split(",") if given.names else [*ROWS, TRAINED]
    types = given.types.split(",")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, pythons(given.versions, given.keep) as found:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = folder / f"{name}.onnx"
            if not path.exists() and not _exported(name, path):
                continue
            for model in _forms(path, types):
                for python in found:
                    rows += _measured(python, model, given)
    _summary(rows)
    return 0


def _exported(name: str, path: Path) -> bool:
    command = [
        sys.executable,
        "-m",
        "tests.campaigns.benchmarks.zoo_speed",
        "--one",
        name,
        str(path),
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        print(f"{name}: not exported: {made.stderr.strip().splitlines()[-1]}", flush=True)
    return not made.returncode


def _export(name: str, path: str) -> int:
    """In a child: write the original."""
    from models.export import export, minilm

    export(minilm() if name == TRAINED else build_row(ROWS[name]), Path(path))
    return 0


def _forms(path: Path, types: Sequence[str]) -> Iterator[Path]:
    if "float32" in types:
        yield path
    if "int8" in types:
        yield quantized(path)


def _measured(python: Path, model: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    options = ["--seconds", str(given.seconds), "--threads", str(given.threads)]
    options += ["--clock", given.clock, "--json"]
    options += ["--size", given.size] if given.size else []
    options += ["--no-limit"] if given.no_limit else []
    told = run(python, "tests.campaigns.benchmarks.fair", str(model), *options)
    if told.returncode:
        print(f"{model.stem}: {told.stderr.strip().splitlines()[-1]}", flush=True)
        return []
    figures = json.loads(told.stdout.splitlines()[-1])
    print(json.dumps(figures) if given.json else line(figures), flush=True)
    return [figures]


def _summary(rows: Sequence[dict[str, Any]]) -> None:
    """Median and least of each column, by version and type."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kind = "int8" if row["model"].endswith("-int8") else "float32"
        groups.setdefault((row["onnxruntime"], kind), []).append(row)
    for (version, kind), members in sorted(groups.items()):
        words = [f"{version:8} {kind:8} {len(members):3} models"]
        for name in SHOWN:
            values = [row[name][1] for row in members if name in row]
            if values:
                words.append(f"{name} {np.median(values):.3f} (least {min(values):.3f})")
        left = [row["left"] for row in members if "left" in row]
        words += [f"norms left {np.median(left):.1%}"] if left else []
        print("  ".join(words))


if __name__ == "__main__":
    sys.exit(main())
