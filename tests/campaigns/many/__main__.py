"""Two hundred models at once, and what is done to batches: python -m tests.campaigns.many.

    python -m tests.campaigns.many growth --folder many           alone, then 50, 100, 200 at 1 and 2 workers
    python -m tests.campaigns.many kills --folder many --count 100
    python -m tests.campaigns.many cluster --folder many          three nodes of Ray, one of them killed
    python -m tests.campaigns.many cluster --folder many --kills 100
    python -m tests.campaigns.many storage --folder many          S3, by moto's server on the loopback
    python -m tests.campaigns.many scale --folder many            what a batch of 10,000 costs who starts it

The models are made once, in FOLDER/models: architectures of the zoo in float32, float16 and int8,
and a tenth that is broken, each in a way of its own. Exits with 1 when a result differs from the
command `fuse` alone, a broken model's row does not say why, or something is left over.
`cluster` needs `pip install 'graphfuse[ray]'`, `storage` needs `pip install 'moto[server]' s3fs`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.campaigns.many.models import chosen, make
from tests.campaigns.many.runs import batch, differences, linked, one_by_one

Part = Callable[[argparse.Namespace, Sequence[Path]], list[str]]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.many",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=["growth", "kills", "cluster", "storage", "scale"])
    parser.add_argument("--folder", type=Path, required=True, help="models and results")
    parser.add_argument("--models", type=int, default=200, help="how many there are")
    parser.add_argument("--count", type=int, default=100, help="how many kills")
    parser.add_argument("--kills", type=int, default=0, help="of nodes, each of a short run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.folder = options.folder.absolute()
    make(options.folder / "models", options.models)
    paths = chosen(options.folder / "models", options.models)
    wrong = _part(options.part)(options, paths)
    for line in wrong:
        print(f"not as it should be: {line}")
    print(f"{len(wrong)} differences")
    return 1 if wrong else 0


def _part(name: str) -> Part:
    if name == "kills":
        from tests.campaigns.many.kills import kills

        return kills
    if name == "cluster":
        from tests.campaigns.many.clusters import cluster

        return cluster
    if name == "storage":
        from tests.campaigns.many.stored import storage

        return storage
    if name == "scale":
        from tests.campaigns.many.scale import scale

        return scale
    return growth


def growth(options: argparse.Namespace, paths: Sequence[Path]) -> list[str]:
    """Seconds alone and in batches, and what differs. The digests of those alone are kept."""
    seconds, alone = one_by_one(paths, options.folder / "alone")
    (options.folder / "alone.json").write_text(json.dumps(alone))
    print(f"{len(paths)} models one by one: {seconds:.1f} s", flush=True)
    wrong: list[str] = []
    for count in sorted({len(paths) // 4, len(paths) // 2, len(paths)}):
        some = chosen(options.folder / "models", count)
        linked(some, options.folder / "in")
        for workers in (1, 2):
            output = f"out-{count}-{workers}"
            scratch = options.folder / f"tmp-{count}-{workers}"
            run = batch("in", output, "--workers", str(workers), scratch=scratch,
                        folder=options.folder)  # fmt: skip
            found = differences(run, some, alone)
            ratio = f", {seconds / run.seconds:.2f} times as fast" if count == len(paths) else ""
            print(f"{count} models, {workers} workers: {run.seconds:.1f} s{ratio}; "
                  f"{len(found)} differences", flush=True)  # fmt: skip
            wrong += [f"{output}: {line}" for line in found]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
