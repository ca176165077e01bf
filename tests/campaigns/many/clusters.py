"""A cluster of three nodes on this machine, of which one is killed in the middle."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graphfuse.batches.ledger import LEDGER_NAME
from tests.campaigns.many.kills import sample
from tests.campaigns.many.runs import (
    BOUNDS,
    COMMAND,
    Run,
    differences,
    digests,
    environment,
    linked,
    one_by_one,
    result,
)

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "memory": 4 * 2**30}


@contextlib.contextmanager
def three_nodes() -> Iterator[Any]:
    """A head and two more; nothing of this tree is on their path, so that it has to travel."""
    os.environ.pop("PYTHONPATH", None)
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args=dict(NODE))
    try:
        for _ in range(2):
            found.add_node(**NODE)
        yield found
    finally:
        found.shutdown()


def cluster(options: argparse.Namespace, paths: Sequence[Path]) -> list[str]:
    """All models with one node killed; or, with --kills, short runs, of each a node or a worker."""
    with three_nodes() as nodes:
        if options.kills:
            return _kills(options, paths, nodes)
        alone = options.folder / "alone"
        if not alone.exists():
            one_by_one(paths, alone)
        linked(paths, options.folder / "in")
        shutil.rmtree(options.folder / "out-ray", ignore_errors=True)
        start = time.monotonic()
        run, when = _run(options.folder, "out-ray", nodes, len(paths) // 2, "node")
        found = differences(run, paths, digests(alone))
        print(f"{len(paths)} models on three nodes, one killed after {when} rows: "
              f"{time.monotonic() - start:.1f} s, exit {run.code}; "
              f"{len(found)} differences", flush=True)  # fmt: skip
        return found


def _kills(options: argparse.Namespace, paths: Sequence[Path], nodes: Any) -> list[str]:
    draw, wrong = random.Random(options.seed), list[str]()
    for number in range(options.kills):
        some = sample(paths, number % 5)
        folder = options.folder / "ray-kills"
        shutil.rmtree(folder, ignore_errors=True)
        linked(some, folder / "in")
        alone = options.folder / f"alone-{number % 5}"
        if not alone.exists():
            one_by_one(some, alone)
        whom = draw.choice(["node", "worker"])
        run, when = _run(folder, "out", nodes, draw.randrange(len(some)), whom,
                         draw.uniform(0.0, 3.0))  # fmt: skip
        found = differences(run, some, digests(alone))
        wrong += [f"run {number}, {whom} killed: {line}" for line in found]
        print(f"{number + 1}: {whom} killed after {when} rows, {run.seconds:.1f} s, "
              f"{len(found)} differences", flush=True)  # fmt: skip
    return wrong


def _run(
    folder: Path, output: str, nodes: Any, rows: int, whom: str, more: float = 0.0
) -> tuple[Run, int]:
    """A batch on the cluster; when it has so many rows, a node or a worker of Ray is killed."""
    start = time.monotonic()
    scratch = folder / "tmp"
    with (folder / "ray.log").open("w") as log:
        started = subprocess.Popen(
            [*COMMAND, "batch", "in", "-o", output, *BOUNDS, "--ray", nodes.address],
            cwd=folder,
            env=environment(scratch),
            stdout=log,
            stderr=log,
        )
        while started.poll() is None and _rows(folder / output) < rows:
            time.sleep(0.1)
        time.sleep(more)
        when = _rows(folder / output)
        if whom == "node":
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
            nodes.add_node(**NODE)
        else:
            _kill_a_worker()
        started.wait()
    run = result(folder / output, scratch)
    run.seconds, run.code = time.monotonic() - start, started.returncode
    return run, when


def _rows(output: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = (output / LEDGER_NAME).read_text().splitlines()
        return sum("begun" not in json.loads(line) for line in lines)
    return 0


def _kill_a_worker() -> None:
    """Kill -9 of a process in which Ray runs a task of the batch, if there is one."""
    found = subprocess.run(["pgrep", "-f", "ray::_on_node"], capture_output=True, text=True,
                           check=False).stdout.split()  # fmt: skip
    if found:
        subprocess.run(["kill", "-9", found[0]], check=False)
    else:
        print("  (no worker ran then)", file=sys.stderr)
