"""Load time and peak memory, each measured in a process of its own.

    python -m graphfuse.speed.footprint < request.json

Memory that a process once had is not given back, so contenders cannot share one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import OriginalModelError
from graphfuse.files.model_file import Model, serialize
from graphfuse.records.element_types import ElementType
from graphfuse.running import empty_inputs
from graphfuse.speed.bound_runs import Contender, SessionKind
from graphfuse.speed.measurements import Footprint
from graphfuse.speed.timing import Threads
from graphfuse.system import machine

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
        write_feeds(folder / "feeds.npz", feeds.values())
        requests = {c.name: _request(c, provider, threads, folder) for c in contenders}
        for request in requests.values():
            request["names"] = list(feeds)
            request["types"] = [feed_type(array) for array in feeds.values()]
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
    source = contender.source
    path = source if isinstance(source, Path) else folder / f"{contender.name}.onnx"
    if isinstance(source, onnx.ModelProto):
        path.write_bytes(serialize(empty_inputs.without(source)))
    return {
        "model": str(path.absolute()),
        "folder": str(contender.model.folder.absolute()),
        "kind": contender.kind,
        "provider": provider,
        "threads": [threads.count, threads.others],
        "feeds": str(folder / "feeds.npz"),
    }


def _ask(request: Mapping[str, object]) -> Footprint:
    command = [sys.executable, "-m", "graphfuse.speed.footprint"]
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
        found = machine.lack_in(told[-1] if told else "")
        if found is not None:
            raise machine.failure(found, "measuring load time and memory", error) from error
        raise OriginalModelError(
            f"a process that only runs {request['model']} failed: {told[-1] if told else error}",
            "leave memory out with --no-memory",
        ) from error


def write_feeds(path: Path, arrays: Iterable[Array]) -> None:
    """Write arrays by position: any text can name an input, but not an argument of savez.

    A file of numpy's has neither Python's strings nor types that numpy lacks: those go as text and
    as bits.
    """
    plain = (
        array.astype(str) if feed_type(array) == ElementType.STRING else array.view(_bits(array))
        for array in arrays
    )
    np.savez(path, *plain)


def read_feeds(path: Path, types: Sequence[int]) -> list[Array]:
    """The arrays that `write_feeds` wrote, which had these types."""
    with np.load(path) as arrays:
        found = [arrays[name] for name in arrays.files]
    dtypes = [onnx.helper.tensor_dtype_to_np_dtype(type_) for type_ in types]
    return [
        array.astype(dtype) if dtype.kind == "O" else array.view(dtype)
        for array, dtype in zip(found, dtypes, strict=True)
    ]


def feed_type(array: Array) -> int:
    """The number of an array's type in ONNX."""
    if array.dtype.kind in "OU":
        return ElementType.STRING
    return onnx.helper.np_dtype_to_tensor_dtype(array.dtype)


def _bits(array: Array) -> np.dtype[Any]:
    """The array's own type, or unsigned integers of its size where numpy lacks that."""
    dtype = array.dtype
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def main() -> int:
    """In the child: make the session, run it a few times, print what that took."""
    from graphfuse.system import libraries

    request: dict[str, Any] = json.load(sys.stdin)
    path, folder = Path(request["model"]), Path(request["folder"])
    libraries.onnxruntime()
    arrays = read_feeds(Path(request["feeds"]), request["types"])
    feeds = dict(zip(request["names"], arrays, strict=True))
    contender = Contender(
        "child", Model(onnx.ModelProto(), path, folder), SessionKind(request["kind"])
    )
    before, device = resident(), device_memory(request["provider"])
    start = time.perf_counter()
    made = contender.session(request["provider"], Threads(*request["threads"]))
    load = time.perf_counter() - start
    from graphfuse.running.sessions import run

    for _ in range(RUNS):
        run(made, feeds)
    after, peak = device_memory(request["provider"]), peak_memory()
    used = None if device is None or after is None else after - device
    print(json.dumps({"load": load, "memory": peak, "grown": peak - before, "device": used}))
    return 0


def peak_memory() -> int:
    """The most memory that this process had, in bytes.

    On Linux `ru_maxrss` is no less than what its parent had: it is kept when a program is started.
    """
    if sys.platform == "win32":
        return 0
    own = _status("VmHWM")
    if own is not None:
        return own
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def resident() -> int:
    """The memory that this process has now, in bytes; its peak where the system does not tell."""
    now = _status("VmRSS")
    return peak_memory() if now is None else now


def _status(field: str) -> int | None:
    """A figure that Linux keeps of this process, in bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


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
