"""Load time and peak memory, each measured in a process of its own.

    python -m graphfuse.bench.footprint < request.json

Memory that a process once had is not given back, so contenders cannot share one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.bench.records import Footprint
from graphfuse.bench.sessions import Contender
from graphfuse.bench.timing import Threads
from graphfuse.errors import OriginalModelError
from graphfuse.graph.model_file import Model, serialize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PROCESSES = 3
RUNS = 3
SECONDS = 600


def footprints(
    contenders: Sequence[Contender], provider: str, threads: Threads, feeds: Mapping[str, Array]
) -> dict[str, Footprint]:
    """What each contender's session needs; the processes take turns."""
    found: dict[str, list[Footprint]] = {contender.name: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Any text can name an input, but not an argument of savez: the arrays go by position.
        np.savez(folder / "feeds.npz", *feeds.values())
        requests = {c.name: _request(c, provider, threads, folder) for c in contenders}
        for request in requests.values():
            request["names"] = list(feeds)
        for _ in range(PROCESSES):
            for key, request in requests.items():
                found[key].append(_ask(request))
    return {
        key: Footprint(
            statistics.median(one.load for one in several),
            max(one.memory for one in several),
            max(one.grown for one in several),
            max((one.device for one in several if one.device is not None), default=None),
        )
        for key, several in found.items()
    }


def _request(
    contender: Contender, provider: str, threads: Threads, folder: Path
) -> dict[str, object]:
    path = contender.model.file
    if path is None:
        path = folder / f"{contender.name}.onnx"
        path.write_bytes(serialize(contender.model.proto))
    return {
        "model": str(path.absolute()),
        "folder": str(contender.model.folder.absolute()),
        "tuned": contender.tuned,
        "provider": provider,
        "threads": [threads.count, threads.others],
        "feeds": str(folder / "feeds.npz"),
    }


def _ask(request: Mapping[str, object]) -> Footprint:
    command = [sys.executable, "-m", "graphfuse.bench.footprint"]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
        )
        return Footprint(**json.loads(child.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        told = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise OriginalModelError(
            f"a process that only runs {request['model']} failed: {told[-1] if told else error}",
            "leave memory out with --no-memory",
        ) from error


def main() -> int:
    """In the child: make the session, run it a few times, print what that took."""
    import onnx

    from graphfuse import foreign

    request: dict[str, Any] = json.load(sys.stdin)
    path, folder = Path(request["model"]), Path(request["folder"])
    foreign.onnxruntime()
    with np.load(request["feeds"]) as arrays:
        feeds = dict(zip(request["names"], (arrays[n] for n in arrays.files), strict=True))
    contender = Contender("child", Model(onnx.ModelProto(), path, folder), request["tuned"])
    before, device = resident(), device_memory(request["provider"])
    start = time.perf_counter()
    made = contender.session(request["provider"], Threads(*request["threads"]))
    load = time.perf_counter() - start
    from graphfuse.runtime import run

    for _ in range(RUNS):
        run(made, feeds)
    after, peak = device_memory(request["provider"]), peak_memory()
    used = None if device is None or after is None else after - device
    print(json.dumps({"load": load, "memory": peak, "grown": peak - before, "device": used}))
    return 0


def peak_memory() -> int:
    """The most memory that this process had, in bytes."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def resident() -> int:
    """The memory that this process has now, in bytes; its peak where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory()
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return peak_memory()


def device_memory(provider: str) -> int | None:
    """Bytes in use on the first NVIDIA GPU; None for other providers, or without nvidia-smi."""
    if "CUDA" not in provider and "Tensorrt" not in provider:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return int(told.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


if __name__ == "__main__":
    sys.exit(main())
