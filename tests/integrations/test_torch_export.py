"""graphfuse.export: from a PyTorch module to a fused file, judged against the module itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import graphfuse
from graphfuse.errors import (
    GateError,
    OriginalModelError,
    ProviderError,
    UsageError,
    ValidationError,
    WriteError,
)
from graphfuse.files import leftovers
from graphfuse.integrations import module as modules
from models import blocks
from models.zoo import build
from tests.conftest import files_of
from tests.support.stages import Stages


class Block(nn.Module):
    """A residual connection and a norm, with two inputs of which one has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.norm = blocks.LayerNorm(16)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        total = x + self.inner(x) if scale is None else x + scale * self.inner(x)
        return {"normal": self.norm(total), "sum": total}


class Normed(nn.Module):
    """A block whose norm alone is given."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, input: Tensor) -> Tensor:
        return self.block(input)["normal"]


def example(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_a_module_becomes_a_fused_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, path = Block().eval(), tmp_path / "block.onnx"
    result = graphfuse.export(
        module,
        (example(2, 5, 16),),
        path,
        kwargs={"scale": torch.tensor(0.5)},
        dynamic_shapes={"x": {0: Dim("batch"), 1: Dim("length")}, "scale": None},
        output_names=["normal", "sum"],
    )
    assert len(result.fused) == 1
    assert files_of(tmp_path) == ["block.onnx"]
    assert result.validation is not None
    judged = {c.subject for c in result.validation.checks if c.where.endswith("eager PyTorch")}
    assert judged == {"sum", "normal"}
    assert any("float64 twin in PyTorch" in note for note in result.validation.notes)
    # Another batch and another length than the example's.
    x = example(3, 9, 16)
    session = ort.InferenceSession(path)
    after = session.run(["normal"], {"x": x.numpy(), "scale": np.array(0.5, np.float32)})[0]
    with torch.no_grad():
        before = module(x, torch.tensor(0.5))["normal"].numpy()
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_decoder_with_caches(dtype: torch.dtype, tmp_path: Path) -> None:
    case = build("llama2", cache=True)
    module = case.module.to(dtype)
    args = [v.to(dtype) if v.is_floating_point() else v for v in case.inputs.values()]
    result = graphfuse.export(module, args, tmp_path / "m.onnx", output_names=case.outputs)
    assert len(result.fused) == 4
    report = result.validation
    assert report is not None
    judged = [c.subject for c in report.checks if c.where.endswith("eager PyTorch")]
    assert set(judged) == set(case.outputs)


def test_what_narrows_inside_still_has_a_float64_twin() -> None:
    """An RMSNorm that works in float32 whatever it is given, as Hugging Face's do."""

    class Narrowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wide = x.to(torch.float32)
            return (wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    x = example(4, 64)
    found = modules.ModuleCall(torch, Narrowing(), (x,), {}).exact()
    wide = x.double()
    exact = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    np.testing.assert_allclose(found[0], exact.numpy(), rtol=1e-14)


def test_a_module_without_a_twin_is_compared_with_itself(tmp_path: Path) -> None:
    class Stubborn(Block):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("one of a kind")

    module = Stubborn().eval()
    result = graphfuse.export(module, (example(2, 16),), tmp_path / "m.onnx")
    assert result.validation is not None
    assert any("no float64 twin (RuntimeError: one of a kind" in n for n in result.validation.notes)


def test_a_module_without_sites_is_exported_as_it_is(tmp_path: Path) -> None:
    module = nn.Linear(4, 4).eval()
    result = graphfuse.export(module, (example(2, 4),), tmp_path / "m.onnx")
    assert not result.fused
    assert result.validation is not None
    assert {check.gate for check in result.validation.checks} == {"G2", "G3", "G4"}
    ort.InferenceSession(tmp_path / "m.onnx")


def test_large_weights_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "LARGE", 1000)
    graphfuse.export(Block().eval(), (example(2, 16),), tmp_path / "m.onnx")
    assert files_of(tmp_path) == ["m.onnx", "m.onnx.data"]
    ort.InferenceSession(tmp_path / "m.onnx")


def test_an_export_that_is_not_the_module_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch writes another scale than the module has: only eager PyTorch can tell."""
    module = Block().eval()
    steady = modules.ModuleCall.steady

    def other(call: Any) -> Any:
        with torch.no_grad():
            module.norm.gamma.mul_(1.001)
        return steady(call)

    monkeypatch.setattr(modules.ModuleCall, "steady", other)
    with pytest.raises(ValidationError, match="not what the module computes: G2 of"):
        graphfuse.export(module, (example(2, 16),), tmp_path / "m.onnx")
    assert files_of(tmp_path) == []


def test_a_module_in_float64_is_its_own_twin(tmp_path: Path) -> None:
    """Another order of additions is no other meaning; a scale that is off by 1e-9 is one."""
    module, x = nn.Sequential(nn.Linear(1024, 16), Normed()).double().eval(), example(2, 1024)
    args = (x.double(),)
    assert len(graphfuse.export(module, args, tmp_path / "m.onnx").fused) == 1
    after = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"input": args[0].numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(after, module(*args).numpy(), rtol=1e-10, atol=1e-12)


def test_a_meaning_that_is_off_in_float64_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Normed().double().eval()
    steady = modules.ModuleCall.steady

    def other(call: Any) -> Any:
        with torch.no_grad():
            module.block.norm.gamma.mul_(1 + 1e-9)
        return steady(call)

    monkeypatch.setattr(modules.ModuleCall, "steady", other)
    with pytest.raises(ValidationError, match="bound 1e-11"):
        graphfuse.export(module, (example(2, 16).double(),), tmp_path / "m.onnx")
    assert files_of(tmp_path) == []


class Random(Block):
    """Dropout that forgot `training=self.training`."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        return super().forward(nn.functional.dropout(x, 0.1), scale)


class Counting(Block):
    """Counts its calls where no state dict sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        self.calls += 1
        return {"y": super().forward(x, scale)["normal"] * self.calls}


@pytest.mark.parametrize("kind", [Random, Counting])
def test_other_numbers_in_each_call_cannot_be_compared(kind: type[Block], tmp_path: Path) -> None:
    """They are any distance from float64, and so would be what passes."""
    with pytest.raises(OriginalModelError, match="other numbers in each call"):
        graphfuse.export(kind().eval(), (example(2, 16),), tmp_path / "m.onnx")
    assert files_of(tmp_path) == []


def test_state_and_arguments_are_as_they_were(tmp_path: Path) -> None:
    class Changing(Block):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
            self.factor.mul_(3)
            self.calls = self.calls + 1
            x.mul_(self.factor * self.calls)
            return {"sum": super().forward(x, scale)["sum"]}

    module, x = Changing().eval(), example(2, 16)
    given = x.clone()
    result = graphfuse.export(module, (given,), tmp_path / "m.onnx", output_names=["sum"])
    assert (module.factor.item(), module.calls.item()) == (1, 0)
    assert torch.equal(given, x)
    assert result.validation is not None
    worst = max(c.value for c in result.validation.checks if c.where.endswith("eager PyTorch"))
    assert worst < 1e-6
    after = ort.InferenceSession(tmp_path / "m.onnx").run(["sum"], {"x": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(after, module(x.clone())["sum"].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_export_that_onnxruntime_lacks_kernels_for(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.GELU()).to(dtype).eval()
    with pytest.raises(OriginalModelError, match="the exported model does not run on CPU"):
        graphfuse.export(module, (example(2, 4).to(dtype),), tmp_path / "m.onnx")
    assert files_of(tmp_path) == []


def test_the_best_provider_of_this_machine(tmp_path: Path) -> None:
    module, args = Block().eval(), (example(2, 16),)
    result = graphfuse.export(module, args, tmp_path / "m.onnx", ep="auto")
    assert result.target != "auto"


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="has CUDA")
@pytest.mark.parametrize("validation", ["fast", "none"])
def test_a_missing_provider_is_said_before_exporting(validation: str, tmp_path: Path) -> None:
    stages = Stages()
    with pytest.raises(ProviderError, match="has no CUDAExecutionProvider"):
        graphfuse.export(
            Block().eval(),
            (example(2, 16),),
            tmp_path / "m.onnx",
            ep="cuda",
            progress=stages,
            level=validation,
        )
    assert not stages.names


def test_what_is_no_call_of_a_module(tmp_path: Path) -> None:
    path, module, x = tmp_path / "m.onnx", Block().eval(), example(1, 5, 16)
    with pytest.raises(UsageError, match=r"given a function, not a torch\.nn\.Module"):
        graphfuse.export(lambda x: x, (x,), path)
    # A tensor is a sequence of its rows: it would be exported with an axis less.
    with pytest.raises(UsageError, match=r"args has type Tensor, not tuple; pass `\(x,\)`"):
        graphfuse.export(module, x, path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="kwargs has type list, not dict"):
        graphfuse.export(module, (x,), path, kwargs=[x])  # type: ignore[arg-type]
    with pytest.raises(OriginalModelError, match=r"does not run \(IndexError"):
        graphfuse.export(nn.Embedding(4, 4).eval(), (torch.tensor([9]),), path)
    module.norm.train()
    with pytest.raises(UsageError, match="the module's part 'norm' is in training mode"):
        graphfuse.export(module, (x,), path)

    class Silent(Block):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> None:  # type: ignore[override]
            super().forward(x, scale)

    with pytest.raises(UsageError, match="gives no tensors"):
        graphfuse.export(Silent().eval(), (x,), path)
    assert files_of(tmp_path) == []


def test_another_opset_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    """PyTorch logs that it could not convert, and writes what it has."""
    with pytest.raises(OriginalModelError, match="as opset 11: it wrote opset 18"):
        graphfuse.export(Block().eval(), (example(2, 16),), tmp_path / "m.onnx", opset=11)
    assert files_of(tmp_path) == []


def test_what_killed_exports_left_goes_with_the_next(tmp_path: Path) -> None:
    dead, path = tmp_path / ".m.onnx.0123.graphfuse-tmp", tmp_path / "m.onnx"
    dead.mkdir()
    (dead / "m.onnx.data").write_bytes(bytes(100))
    with leftovers.scratch(path) as alive:
        graphfuse.export(Block().eval(), (example(2, 16),), path)
        assert alive.is_dir()
        assert not dead.exists()
    assert files_of(tmp_path) == ["m.onnx"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(WriteError, match=r"m\.onnx cannot be written \(Permission denied\)"):
        graphfuse.export(Block().eval(), (example(2, 16),), tmp_path / "m.onnx")


def test_errors_name_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module, args = Block().eval(), (example(2, 16),)
    with pytest.raises(UsageError, match=r"module\.eval\(\)"):
        graphfuse.export(Block(), args, path)
    with pytest.raises(UsageError, match="unknown level 'slow'"):
        graphfuse.export(module, args, path, level="slow")
    with pytest.raises(UsageError, match="tpu"):
        graphfuse.export(module, args, path, ep="tpu")
    with pytest.raises(GateError):
        graphfuse.export(module, args, path, min_fused=2)
    with pytest.raises(OriginalModelError, match="PyTorch cannot export"):
        graphfuse.export(module, (example(2, 5),), path)
    path.touch()
    with pytest.raises(UsageError, match="exists"):
        graphfuse.export(module, args, path)
    assert files_of(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_a_missing_package_names_the_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match=rf"{missing} .*pip install 'graphfuse\[torch\]'"):
        graphfuse.export(object(), (), tmp_path / "m.onnx")
