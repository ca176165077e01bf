"""Small models with changed bytes, through the gate and scan, in forked workers with limits."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

import graphfuse
from graphfuse.files import model_file
from models.committed import COMMITTED
from tests.campaigns.hostile.cases import furnish
from tests.campaigns.hostile.external import write
from tests.campaigns.hostile.places import PLACES
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, residual

SECONDS = 10
MEMORY = 2 * 2**30
BATCH = 500

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12, 0x3A, 0x08)


def seeds(folder: Path) -> list[bytes]:
    """Models to mutate: each way to write a norm, each place of a tensor, small exports."""
    norms = ("y = LayerNormalization(x, scale, bias)", DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM)
    found = [residual(norm).SerializeToString() for norm in norms]
    furnish(folder / "model")
    entries = (("location", "weights.bin"), ("offset", "8"), ("length", "32"))
    found += [write(folder / "model", place, entries, None).read_bytes() for place in PLACES]
    exports = sorted(
        (MODELS / small.file for small in COMMITTED), key=lambda path: path.stat().st_size
    )
    return found + [_without_weights(path) for path in exports[:2]]


def _without_weights(path: Path) -> bytes:
    """An export with its larger weights empty: what is mutated is the graph."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            tensor.raw_data = tensor.raw_data[:64]
    return model.SerializeToString()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        if not found:
            break
        at = draw.randrange(len(found))
        kind = draw.randrange(7)
        if kind == 0:
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            found[at] = draw.randrange(256)
        elif kind == 2:
            found[at] = draw.choice(INTERESTING)
        elif kind == 3:
            del found[at : at + draw.randrange(1, 32)]
        elif kind == 4:
            found[at:at] = draw.randbytes(draw.randrange(1, 8))
        elif kind == 5:
            stop = at + draw.randrange(1, 64)
            found[at:at] = found[at:stop]
        else:
            other, length = draw.randrange(len(found)), draw.randrange(1, 16)
            found[at : at + length] = found[other : other + length]
    return bytes(found)


@dataclass(frozen=True)
class Failure:
    """A mutated model that ended a process, or raised what is no answer."""

    seed: int
    what: str


def _attempt(data: bytes, path: Path, small: bool) -> str:
    """'' for a result or a named error; otherwise what else was raised."""
    path.write_bytes(data)
    # Every other one is read as a large file is.
    usual = model_file.LARGE, model_file.LEAST_INLINE
    model_file.LARGE = model_file.LEAST_INLINE = 64 if small else 2**26
    try:
        graphfuse.scan(path)
    except graphfuse.InternalError as error:
        return f"InternalError: {error}"
    except graphfuse.GraphfuseError:
        return ""
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        model_file.LARGE, model_file.LEAST_INLINE = usual
    return ""


def _work(corpus: list[bytes], first: int, count: int, folder: Path, writing: int) -> None:
    """In a child: try mutations, and say where it is."""
    # A child that dies is a line of the campaign. pytest's handler would print every stack too,
    # to a descriptor of its own, past the null device.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path = folder / "model" / f"{os.getpid()}.onnx"
    for seed in range(first, first + count):
        draw = random.Random(seed)
        signal.alarm(SECONDS)
        os.write(writing, f"{seed}\n".encode())
        problem = _attempt(mutated(draw.choice(corpus), draw), path, bool(seed % 2))
        if problem:
            os.write(writing, f"!{problem.splitlines()[0]}\n".encode())
    path.unlink()
    os._exit(0)


def campaign(count: int, seed: int, jobs: int, folder: Path) -> Iterator[Failure]:
    """Mutations number `seed` and on; gives what failed."""
    corpus = seeds(folder)
    # What is imported late is imported once.
    graphfuse.scan(residual("y = LayerNormalization(x, scale, bias)"))
    pending = [(n, min(BATCH, seed + count - n)) for n in range(seed, seed + count, BATCH)]
    running: dict[int, tuple[int, int, int]] = {}
    while pending or running:
        while pending and len(running) < jobs:
            first, size = pending.pop(0)
            reading, writing = os.pipe()
            os.set_blocking(writing, True)
            with warnings.catch_warnings():
                # Later Pythons warn of threads; none of pytest's holds a lock that is needed here.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                try:
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, 2)
                    _work(corpus, first, size, folder, writing)
                finally:
                    os._exit(99)
            os.close(writing)
            running[child] = (reading, first, size)
        child, status = _finished(running)
        reading, first, size = running.pop(child)
        with os.fdopen(reading, errors="replace") as pipe:
            lines = pipe.read().splitlines()
        at = first
        for line in lines:
            if line.startswith("!"):
                yield Failure(at, line[1:])
            else:
                at = int(line)
        code = os.waitstatus_to_exitcode(status)
        if code:
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            yield Failure(at, ended)
            if at + 1 < first + size:
                pending.append((at + 1, first + size - at - 1))


def _finished(running: dict[int, tuple[int, int, int]]) -> tuple[int, int]:
    while True:
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return child, status
        time.sleep(0.01)


def report(count: int, seed: int, jobs: int) -> int:
    """Run a campaign and print what came of it."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        failures = list(campaign(count, seed, jobs, Path(folder)))
    for failure in failures[:40]:
        print(f"FAILED mutation {failure.seed}: {failure.what}")
    print(
        f"{count} mutated models through the gate and scan in {time.perf_counter() - start:.0f} s, "
        f"at most {SECONDS} s and {MEMORY >> 30} GiB each: {len(failures)} failures"
    )
    return bool(failures)


def truncations(data: bytes, folder: Path) -> Iterator[tuple[int, str]]:
    """Every prefix of a model; gives what else than a result or a named error came of one."""
    path = folder / "cut.onnx"
    for length in range(1, len(data)):
        for small in (False, True):
            problem = _attempt(data[:length], path, small)
            if problem:
                yield length, problem


def report_truncations() -> int:
    """Cut a model at every length and print what came of it."""
    bad = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for data in seeds(Path(folder))[:6]:
            found = list(truncations(data, Path(folder)))
            total += len(data) - 1
            bad += len(found)
            for length, problem in found[:10]:
                print(f"FAILED at {length} of {len(data)} bytes: {problem}")
    print(f"{total} prefixes of 6 models, read in both ways: {bad} failures")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(report(2000, 1, 2))
