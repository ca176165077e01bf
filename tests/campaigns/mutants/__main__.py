"""The table of mutants; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.campaigns.mutants.kinds import KINDS
from tests.campaigns.mutants.trial import LEVELS, TARGETS, Verdict, verdicts

MODELS = ("bert", "gpt2", "llama", "gemma", "t5")
TYPES = ("float32", "float16")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.mutants", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--families", default=",".join(TARGETS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    found: list[Verdict] = []
    print(
        f"{'model':16} {'operators':12} {'mutant':34} {'fast':12} {'full':12} {'sites':12} {'turned':12} allclose"
    )
    with tempfile.TemporaryDirectory() as folder:
        for label, path in _models(options.models.split(","), options.types.split(","), folder):
            for family in options.families.split(","):
                for verdict in verdicts(label, path, family, options.kinds.split(",")):
                    found.append(verdict)
                    _show(verdict)
    print()
    for level in (*LEVELS, "turned", "allclose"):
        missed = Counter(v.kind for v in found if getattr(v, level) == "passed")
        caught = len(found) - sum(missed.values())
        print(f"{level}: {caught} of {len(found)} caught; missed: {dict(missed) or 'none'}")
    return 1 if any(verdict.missed for verdict in found) else 0


def _models(names: list[str], types: list[str], folder: str) -> Iterator[tuple[str, Path]]:
    """Exports in each type; what ends in .onnx is a file, for where PyTorch is not."""
    for name in names:
        if name.endswith(".onnx"):
            yield Path(name).stem[:16], Path(name)
            continue
        import torch

        from models.export import build, export

        for dtype in types:
            path = Path(folder, f"{name}-{dtype}.onnx")
            export(build(name), path, dtype=getattr(torch, dtype))
            yield f"{name} {dtype}", path


def _show(v: Verdict) -> None:
    print(
        f"{v.model:16} {v.family:12} {v.kind:34} {v.fast:12} {v.full:12} {v.sites:12} "
        f"{v.turned:12} {v.allclose}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
