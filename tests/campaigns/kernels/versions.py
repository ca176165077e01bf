"""One binary in many versions of onnxruntime.

    python -m tests.campaigns.kernels.versions
    python -m tests.campaigns.kernels.versions --versions 1.17.3 1.31.1

Each version gets a virtual environment of its own with nothing but onnxruntime and numpy. There the
library of this installation is registered, and every operator, in every pair of types and on every
instruction set, must give the bits that it gives here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphfuse.kernels import library_path
from tests.campaigns.kernels.accuracy import cases
from tests.campaigns.kernels.node import Node
from tests.support import environments

VERSIONS = ("1.17.3", "1.20.1", "1.23.2", "1.27.0", "1.31.1")

# Runs in the environment of the version: numpy and onnxruntime are all that is there.
CHECK = """
import os, sys, pathlib
import numpy as np
import onnxruntime as ort
library, folder = sys.argv[1], pathlib.Path(sys.argv[2])
checked = 0
for path in sorted(folder.glob("*.onnx")):
    arrays = np.load(path.with_suffix(".npz"))
    feeds = {name: arrays[name] for name in arrays.files if not name.startswith("result")}
    for isa in arrays["result names"]:
        os.environ["GRAPHFUSE_KERNEL_ISA"] = str(isa)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.register_custom_ops_library(library)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = {argument.name: feeds[argument.name] for argument in session.get_inputs()}
        for output, value in zip("YS", session.run(None, taken)):
            wanted = arrays[f"result {isa} {output}"]
            assert value.tobytes() == wanted.tobytes(), (path.name, isa, output)
            checked += 1
print(ort.__version__, checked, "results, equal bit by bit")
"""


def wrapped(node: Node) -> onnx.ModelProto:
    """The node between Casts from and to float32, which every version can be fed with."""
    nodes = [
        helper.make_node("Cast", [f"{name} wide"], [name], to=node.elem_type(name))
        for name in node.inputs
    ]
    nodes += list(node.model().graph.node)
    nodes += [
        helper.make_node("Cast", [name], [f"{name} wide"], to=TensorProto.FLOAT)
        for name in node.outputs
    ]
    graph = helper.make_graph(
        nodes,
        "wrapped",
        [
            helper.make_tensor_value_info(f"{name} wide", TensorProto.FLOAT, None)
            for name in node.inputs
        ],
        [
            helper.make_tensor_value_info(f"{name} wide", TensorProto.FLOAT, None)
            for name in node.outputs
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("graphfuse", 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def write_cases(folder: Path) -> None:
    """Models, operands, and what they give here."""
    import onnxruntime as ort

    from graphfuse.kernels import register
    from tests.campaigns.kernels.node import instruction_sets, isa

    rng = np.random.default_rng(8)
    for index, node in enumerate(cases()):
        path = folder / f"{index}.onnx"
        onnx.save(wrapped(node), path)
        feeds = node.feeds(rng, (3, 70, 300), (70, 300))
        arrays = {f"{name} wide": array.astype(np.float32) for name, array in feeds.items()}
        results: dict[str, np.ndarray] = {"result names": np.array(instruction_sets())}
        for name in instruction_sets():
            with isa(name):
                options = ort.SessionOptions()
                register(options)
                made = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                for output, value in zip("YS", made.run(None, arrays), strict=True):
                    results[f"result {name} {output}"] = value
        np.savez(path.with_suffix(".npz"), **arrays, **results)


def check(version: str, folder: Path) -> str:
    """What a version says of the library; raises CalledProcessError when it is not right there."""
    numpy = "numpy<2" if int(version.split(".")[1]) < 19 else "numpy"
    home = folder / f"venv-{version}"
    python = environments.make(home, Path(sys.executable), (f"onnxruntime=={version}", numpy))
    script = folder / "check.py"
    script.write_text(CHECK)
    command = [python, script, library_path(), folder]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kernels.versions", description=__doc__
    )
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    given = parser.parse_args(arguments)
    passed = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cases(folder)
        for version in given.versions:
            try:
                print(check(version, folder), flush=True)
            except subprocess.CalledProcessError as error:
                print(f"{version}: {error}", flush=True)
                passed = False
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
