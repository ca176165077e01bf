"""The small exported models in this folder: what they are, and how to make them again.

    python -m models.committed

Each is what `python -m models.export` writes for its row; weights are random (seed 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Committed:
    """A file: its architecture and export, and how many sites a scan must find."""

    file: str
    architecture: str
    exporter: str
    opset: int
    dtype: str
    layer_norms: int
    rms_norms: int


def arguments(architecture: str, exporter: str, opset: int, dtype: str) -> list[str]:
    """The arguments of `python -m models.export` for an export, but for the output."""
    words = [architecture, "--exporter", exporter, "--opset", str(opset)]
    return [*words, *(() if dtype == "float32" else ("--dtype", dtype))]


COMMITTED = (
    Committed("bert.onnx", "hf-bert", "dynamo", 18, "float32", 5, 0),
    Committed("bert-opset11.onnx", "hf-bert", "torchscript", 11, "float32", 5, 0),
    Committed("gpt2.onnx", "hf-gpt2", "torchscript", 13, "float32", 5, 0),
    Committed("llama.onnx", "hf-llama", "dynamo", 18, "float32", 0, 4),
    Committed("llama-opset23.onnx", "hf-llama", "dynamo", 23, "float32", 0, 4),
    Committed("llama-float16.onnx", "hf-llama", "torchscript", 13, "float16", 0, 4),
    Committed("gemma.onnx", "hf-gemma", "dynamo", 18, "float32", 0, 4),
    Committed("encoder-post.onnx", "torch-encoder-post", "torchscript", 17, "float32", 4, 0),
    Committed("vit.onnx", "hf-vit", "dynamo", 18, "float32", 5, 0),
)


def make(folder: Path = FOLDER) -> None:
    """Export every committed model into a folder."""
    from models.export import main

    for each in COMMITTED:
        words = arguments(each.architecture, each.exporter, each.opset, each.dtype)
        main([*words, "-o", str(folder / each.file)])


if __name__ == "__main__":
    make()
