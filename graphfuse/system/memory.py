"""How much memory this process may still take: the system's, its control groups' and its limits'.

A container is a control group (cgroup): what bounds it is not in the system's figures. Pages of
files that nobody has used lately count for a group and are given back when memory is short, so they
are no use of it. `--memory-limit` sets a limit on address space, and so is one of the limits here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ENDLESS = 2**60
"""What version 1 of control groups writes for no limit is near 2**63."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that can still be taken, and what bounds them, in words."""

    size: int
    bound: str


def available(root: Path = Path("/")) -> Room | None:
    """The tightest bound on this process; None where the system does not tell.

    `root` is where /proc and /sys are looked for.
    """
    rooms = [*_system(root), *_groups(root), *_limits(root)]
    return min(rooms, key=lambda room: room.size, default=None)


def _system(root: Path) -> Iterator[Room]:
    fields = _fields(root / "proc/meminfo")
    if "MemAvailable" in fields:
        yield Room(fields["MemAvailable"] * 1024, "the system's memory")
        return
    names = getattr(os, "sysconf_names", {})
    if root == Path("/") and hasattr(ctypes, "windll"):
        yield from _windows()
    elif root == Path("/") and "SC_PHYS_PAGES" in names:
        # All there is: other systems do not tell what is free of it.
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        yield Room(pages * size, "the system's memory")


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h; the fields that are not read have no names here."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("physical", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 5),
    )


def _windows() -> Iterator[Room]:
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        yield Room(status.free, "the system's memory")


def _groups(root: Path) -> Iterator[Room]:
    """What each control group around this process leaves, version 2 and version 1."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in (*_upwards(mounted, path), *_upwards(mounted / "unified", path)):
                yield from _group(folder, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in _upwards(mounted / "memory", path):
                yield from _group(
                    folder,
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                )


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    """A group and those around it; in a container the mount may be the group itself."""
    inner = PurePosixPath(path.lstrip("/"))
    if ".." not in inner.parts:
        yield from (mounted / each for each in (inner, *inner.parents))


def _group(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[Room]:
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None or most >= ENDLESS:
        return
    unused = _fields(folder / "memory.stat").get(reclaimable, 0)
    yield Room(max(0, most - max(0, used - unused)), "the container's memory (cgroup)")


def _limits(root: Path) -> Iterator[Room]:
    try:
        import resource
    except ImportError:
        return
    fields = _fields(root / "proc/self/status")
    for name, field, words in (
        ("RLIMIT_AS", "VmSize", "the limit on address space (ulimit -v, --memory-limit)"),
        ("RLIMIT_DATA", "VmData", "the limit on data (ulimit -d)"),
    ):
        number = getattr(resource, name, None)
        if number is None:
            continue
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            yield Room(max(0, soft - fields.get(field, 0) * 1024), words)


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name, of files such as /proc/meminfo (in KiB) and memory.stat."""
    found: dict[str, int] = {}
    for line in _text(path).splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdecimal():
            found[words[0]] = int(words[1])
    return found


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
