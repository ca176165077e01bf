"""The Windows wheel's library under wine: onnxruntime's own DLL registers it and runs its operators."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from graphfuse.kernels import register
from tests.campaigns.kernels.accuracy import cases
from tests.campaigns.kernels.compared import library_in
from tests.campaigns.kernels.node import ISA, Node, instruction_sets, isa

TURNS = 5
"""Sessions of each model; the library is loaded and unloaded with each of them."""
SHAPE = (3, 5, 70)


def missing() -> str:
    """What apt has to install, or ''."""
    return "" if shutil.which("wine") else "wine wine64"


def constant(node: Node) -> onnx.ModelProto:
    """A model without inputs: the node's operands are weights of it."""
    rng = np.random.default_rng(5)
    model = node.model()
    for name, array in node.feeds(rng, SHAPE).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    del model.graph.input[:]
    for value in model.graph.output:
        shape = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, SHAPE)
        value.type.CopyFrom(shape)
    return model


def wanted(model: onnx.ModelProto, node: Node) -> list[bytes]:
    """The outputs' bytes here."""
    options = ort.SessionOptions()
    register(options)
    made = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = made.run_with_ort_values(list(node.outputs), {})
    size = int(np.prod(SHAPE)) * node.dtype().itemsize
    return [_raw(each.data_ptr(), size) for each in results]


def _raw(address: int, size: int) -> bytes:
    import ctypes

    return ctypes.string_at(address, size)


def unpacked(wheel: Path, ends: str, folder: Path) -> Path:
    """The one file of a wheel whose name ends so."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ends))
        return Path(archive.extract(name, folder))


def try_out(python: Path, wheel: Path, linux: Path, folder: Path) -> list[str]:
    """Every operator in every pair of types and instruction set; the lines say what was equal.

    The bits are those of the Linux wheel, which the same compiler made: another one contracts
    multiplications and additions elsewhere.
    """
    folder.mkdir()
    download = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    download += ["--platform", "win_amd64", "--python-version", "3.11", "--dest", folder]
    subprocess.run([*download, "onnxruntime"], check=True)
    (package,) = folder.glob("onnxruntime-*.whl")
    runtime = unpacked(package, "capi/onnxruntime.dll", folder / "runtime")
    library = unpacked(wheel, ".dll", folder / "library")
    beside = unpacked(linux, ".so", folder / "linux").parent
    host = folder / "host.exe"
    compile_ = [
        python,
        "-m",
        "ziglang",
        "c++",
        "-target",
        "x86_64-windows-gnu",
        "-O2",
        "-std=c++17",
    ]
    source = Path(__file__).parent / "windows.cc"
    subprocess.run([*compile_, source, "-o", host], check=True)
    environment = {**os.environ, "WINEPREFIX": str(folder / "prefix"), "WINEDEBUG": "-all"}
    equal: list[str] = []
    for name in instruction_sets():
        expected: list[bytes] = []
        models: list[str] = []
        for index, node in enumerate(cases()):
            model = constant(node)
            with isa(name), library_in(beside):
                expected += wanted(model, node)
            path = folder / f"{index}.onnx"
            onnx.save(model, path)
            models += [str(path), str(len(expected[-1]))]
        done = subprocess.run(
            ["wine", host, runtime, library, str(TURNS), *models],
            env={**environment, ISA: name}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        *lines, version = done.stdout.splitlines() or [""]
        if done.returncode or lines != [raw.hex() for raw in expected]:
            same = sum(a == b.hex() for a, b in zip(lines, expected, strict=False))
            raise SystemExit(
                f"{name}: exit code {done.returncode}, {same} of {len(expected)} results as on "
                f"Linux\n{done.stderr}"
            )
        equal.append(f"{name}: {len(expected)} results in {version}, equal bit by bit to Linux")
    return equal
