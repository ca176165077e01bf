"""Runs of `optimize` that are disturbed, and what must hold of their folders afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import graphfuse
from graphfuse.files import leftovers, model_file, weights, wire
from tests.files.test_files import external
from tests.support.graphs import model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Scenario:
    """A folder that is prepared, and a run in it. `output` is the model that is written."""

    prepare: Callable[[Path], object]
    model: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    old: bool = False

    def make(self, folder: Path) -> None:
        """A folder as it is before the run."""
        self.prepare(folder)
        (folder / self.output).parent.mkdir(exist_ok=True)
        if self.old and self.output != self.model:
            (folder / self.output).write_bytes(b"the old model")

    def run(self, folder: Path) -> None:
        """The run; it raises what `optimize` does."""
        graphfuse.optimize(
            folder / self.model,
            graphfuse.Output(
                folder / self.output,
                force=self.old and self.output != self.model,
                **self.options,
            ),
            level="none",
        )


def plain(folder: Path) -> None:
    folder.mkdir()
    onnx.save(residual(NORM), folder / "model.onnx")


def siteless(folder: Path) -> None:
    folder.mkdir()
    proto = model("y = Relu(a)", inputs="float[B,8] a", outputs="float[B,8] y")
    (folder / "model.onnx").write_bytes(proto.SerializeToString() + b"\x08\x08")


def apart(folder: Path) -> None:
    folder.mkdir()
    external(folder / "in", data="deep/er/weights.bin")


def there(folder: Path) -> None:
    """The weights are in the output's folder: a dead run's, of which no journal is left."""
    apart(folder)
    copy = folder / "out" / "deep" / "er" / "weights.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / "in" / "deep" / "er" / "weights.bin").read_bytes())
    os.utime(copy, ns=(leftovers.CLAIM, leftovers.CLAIM))


def guarded(folder: Path) -> None:
    """A model whose group may read it, and nobody else."""
    plain(folder)
    (folder / "model.onnx").chmod(0o640)


def beside(folder: Path) -> None:
    external(folder)


def inline(folder: Path) -> None:
    """Weights that `small_limits` makes too large to be inline."""
    folder.mkdir()
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    text = "h = MatMul(b, w) x = Add(a, h) " + NORM
    proto = model(
        text,
        inputs="float[B,S,64] a, float[B,S,64] b",
        outputs="float[B,S,64] y",
        constants={
            "w": weight,
            "scale": np.ones(64, np.float32),
            "bias": np.zeros(64, np.float32),
        },
    )
    onnx.save(proto, folder / "model.onnx")


def small_limits(proto_limit: int = 8192) -> None:
    """Let this process take small files for those beyond protobuf's 2 GiB."""
    model_file.LARGE = 4096
    model_file.LEAST_INLINE = 4096
    model_file.PROTO_LIMIT = weights.PROTO_LIMIT = proto_limit
    assert wire.DEEPEST_MESSAGE


SCENARIOS = {
    "a new file": Scenario(plain, "model.onnx", "fused.onnx"),
    "an old file": Scenario(plain, "model.onnx", "fused.onnx", old=True),
    "in place, a group's": Scenario(
        guarded, "model.onnx", "model.onnx", {"in_place": True}, old=True
    ),
    "weights there": Scenario(there, "in/model.onnx", "out/fused.onnx"),
    "in place": Scenario(plain, "model.onnx", "model.onnx", {"in_place": True}, old=True),
    "without sites": Scenario(siteless, "model.onnx", "fused.onnx", old=True),
    "weights beside": Scenario(beside, "model.onnx", "fused.onnx", old=True),
    "weights copied": Scenario(apart, "in/model.onnx", "out/fused.onnx"),
    "weights copied, an old file": Scenario(apart, "in/model.onnx", "out/fused.onnx", old=True),
    "weights copied beside": Scenario(beside, "model.onnx", "fused.onnx", {"weights": "copy"}),
    "weights embedded": Scenario(beside, "model.onnx", "fused.onnx", {"weights": "embed"}),
    "split": Scenario(inline, "model.onnx", "fused.onnx", old=True),
    "split in place": Scenario(inline, "model.onnx", "model.onnx", {"in_place": True}, old=True),
}


def files_of(folder: Path) -> Files:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


def problem(scenario: Scenario, now: Files, before: Files, after: Files, killed: bool) -> str:
    """What is wrong with a folder after a disturbed run; '' when nothing is.

    `before` and `after` are what an undisturbed run found and made.
    """
    name = scenario.output
    inputs = {path: data for path, data in before.items() if path != name}
    changed = [path for path, data in inputs.items() if now.get(path) != data]
    if changed:
        return f"changed {changed}"
    if now.get(name) not in (before.get(name), after[name]):
        return f"{name} is neither the old nor the new one"
    if now.get(name) == after[name] and name in now:
        missing = [path for path, data in after.items() if now.get(path) != data]
        return f"the new model is there without {missing}" if missing else ""
    litter = now.keys() - before.keys()
    return f"left {sorted(litter)}" if litter and not killed else ""
