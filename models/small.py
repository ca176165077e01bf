"""The small exported models in this folder: what they are, and how to make them again.

    python -m models.small

Weights are random (seed 0). Exporters leave file names of the machine that ran them in each
node's metadata; they are removed, everything else is as exported.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Small:
    """A file: its architecture and export, and how many sites a scan must find."""

    file: str
    architecture: str
    exporter: str
    opset: int
    dtype: str
    layer_norms: int
    rms_norms: int
    counted: str


SMALL = (
    Small("bert.onnx", "bert", "dynamo", 18, "float32", 5, 0, "2 per layer, the embeddings' norm"),
    Small("gpt2.onnx", "gpt2", "torchscript", 13, "float32", 5, 0, "2 per layer, the position sum"),
    Small("llama.onnx", "llama", "dynamo", 18, "float32", 0, 4, "2 per layer"),
    Small("llama-opset23.onnx", "llama", "dynamo", 23, "float32", 0, 4, "2 per layer"),
    Small("llama-float16.onnx", "llama", "torchscript", 13, "float16", 0, 4, "2 per layer"),
    Small("gemma.onnx", "gemma", "dynamo", 18, "float32", 0, 4, "2 per layer"),
    Small("encoder-post.onnx", "encoder-post", "torchscript", 17, "float32", 4, 0, "2 per layer"),
    Small("vit.onnx", "vit", "dynamo", 18, "float32", 5, 0, "2 per layer, the position sum"),
    Small("bert-opset11.onnx", "bert", "torchscript", 11, "float32", 5, 0, "as bert.onnx"),
)


def make(folder: Path = FOLDER) -> None:
    """Export every small model into a folder."""
    import onnx
    import torch

    from models.architectures import build
    from models.export import export

    for small in SMALL:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / small.file
            dtype = getattr(torch, small.dtype)
            export(build(small.architecture), path, small.exporter, small.opset, dtype)
            model = onnx.load(path)
        for item in (*model.graph.node, *model.graph.value_info, *model.graph.input):
            del item.metadata_props[:]
        for function in model.functions:
            for node in function.node:
                del node.metadata_props[:]
        del model.metadata_props[:]
        del model.graph.metadata_props[:]
        (folder / small.file).write_bytes(model.SerializeToString(deterministic=True))
        print(f"{small.file}: {(folder / small.file).stat().st_size} bytes")


if __name__ == "__main__":
    make()
