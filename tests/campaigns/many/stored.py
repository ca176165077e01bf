"""Sources and results in S3: moto's server on the loopback, which knows S3's interface."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
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
    one_by_one,
)

BUCKET = "many"


@contextlib.contextmanager
def s3() -> Iterator[Any]:
    """A server, and the file system of its bucket; where it is and its keys are in os.environ."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        found = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        found.mkdir(BUCKET)
        yield found
    finally:
        server.stop()


def storage(options: argparse.Namespace, paths: Sequence[Path]) -> list[str]:
    """All models from there to there; then short runs that are killed, each run again."""
    alone = options.folder / "alone"
    if not alone.exists():
        one_by_one(paths, alone)
    with s3() as files:
        _upload(files, paths, "in")
        start = time.monotonic()
        run = _run(files, options.folder, "in", "out")
        found = differences(run, paths, digests(alone))
        print(f"{len(paths)} models from S3 to S3, 2 workers: {time.monotonic() - start:.1f} s, "
              f"exit {run.code}; {len(found)} differences", flush=True)  # fmt: skip
        again = time.monotonic()
        _run(files, options.folder, "in", "out", "--only-failed", "--validate", "fast")
        print(f"again, what failed: {time.monotonic() - again:.1f} s", flush=True)
        return [*found, *_kills(options, paths, files)]


def _kills(options: argparse.Namespace, paths: Sequence[Path], files: Any) -> list[str]:
    draw, wrong = random.Random(options.seed), list[str]()
    for number in range(options.kills):
        some = sample(paths, number % 5)
        alone = options.folder / f"alone-{number % 5}"
        if not alone.exists():
            one_by_one(some, alone)
        source, output = f"in-{number}", f"out-{number}"
        _upload(files, some, source)
        started = _start(options.folder, source, output)
        time.sleep(draw.uniform(1.0, 14.0))
        started.send_signal(signal.SIGKILL)
        started.wait()
        run = _run(files, options.folder, source, output)
        found = differences(run, some, digests(alone))
        wrong += [f"run {number}, killed: {line}" for line in found]
        print(f"{number + 1}: killed, {len(found)} differences", flush=True)
    return wrong


def _upload(files: Any, paths: Sequence[Path], name: str) -> None:
    data = paths[0].parent.glob("*.bin")
    for path in (*paths, *data):
        files.put_file(str(path), f"{BUCKET}/{name}/{path.name}")


def _start(folder: Path, source: str, output: str, *words: str) -> subprocess.Popen[bytes]:
    target = f"s3://{BUCKET}/{output}"
    return subprocess.Popen(
        [*COMMAND, "batch", f"s3://{BUCKET}/{source}", "-o", target, *BOUNDS, *words],
        env=environment(folder / "tmp-s3"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _run(files: Any, folder: Path, source: str, output: str, *words: str) -> Run:
    started = _start(folder, source, output, *words)
    code = started.wait()
    found = _result(files, f"{BUCKET}/{output}", folder / "tmp-s3")
    found.code = code
    return found


def _result(files: Any, output: str, scratch: Path) -> Run:
    rows: dict[str, Mapping[str, Any]] = {}
    there: dict[str, str] = {}
    for name in files.find(output):
        inside = name.removeprefix(f"{output}/")
        content = files.cat_file(name)
        if not inside.startswith(f"{LEDGER_NAME}/"):
            there[inside] = hashlib.sha256(content).hexdigest()
            continue
        row = json.loads(content)
        if "begun" not in row:
            rows[row["source"].rpartition("/")[2]] = row
    litter = [name for name in there if name.startswith(".")]
    litter += [str(path) for path in scratch.rglob("*")]
    return Run(0, 0, rows, {k: v for k, v in there.items() if k not in litter}, "", litter)
