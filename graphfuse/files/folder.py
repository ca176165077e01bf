"""The folder of a model, and the files in it that external data may be in.

A location is opened component by component, relative to the folder, without following links: what
lies elsewhere is never opened, whatever is renamed meanwhile.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from graphfuse.errors import ChangedError

MEMORY_MARK = "_ORT_MEM_ADDR_"
"""What onnxruntime calls data that is at an address of its process: its offset is a pointer."""

DRIVE = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:/")
"""A drive or the scheme of a URL."""

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW


Identity = tuple[int, int, int, int, int]
"""What tells a file from others and from what it was: device, inode, size, and when it changed."""


def identity(status: os.stat_result) -> Identity:
    """Two times: the first can be set to anything, the second by the file system alone."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


TICK = 20_000_000
"""Nanoseconds after which every system's clock for files has moved on: before, two changes may
have one time."""


def settled(look: Callable[[], os.stat_result]) -> os.stat_result:
    """What a file is, looked at so late after its last change that another one would show.

    It waits, if at all, for files that were written a moment ago.
    """
    status = look()
    for _ in range(5):
        age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
        if not 0 <= age < TICK:
            break
        time.sleep((TICK - age) / 1e9)
        status = look()
    return status


class LocationError(Exception):
    """A location that is not opened; the text says why."""


def components(location: str) -> list[str]:
    """The parts of a location inside its folder. Raises RefusedError for one that leaves it."""
    if not location:
        raise LocationError("its location is empty")
    shown = f"location {location[:120]!r}"
    if "\\" in location or any(ord(c) < 32 or ord(c) == 127 for c in location):
        raise LocationError(f"{shown} has a backslash or a control character")
    parts = location.split("/")
    leaves = location.startswith("/") or ".." in parts or DRIVE.match(location)
    if leaves or (os.name == "nt" and ":" in location):
        raise LocationError(f"{shown} leaves the model's folder")
    if MEMORY_MARK in location:
        raise LocationError(f"{shown} is an address in memory")
    if "" in parts or parts[-1] == ".":
        raise LocationError(f"{shown} names no file")
    return [part for part in parts if part != "."]


@dataclass
class Folder:
    """A folder, and what its model's external data may be: `model` is None for one in memory.

    With `allow_links` symbolic and hard links are followed, wherever they lead.
    """

    path: Path
    model: Path | None = None
    allow_links: bool = False
    _known: dict[str, os.stat_result] = field(default_factory=dict[str, os.stat_result])
    _first: dict[str, Identity] = field(default_factory=dict[str, Identity])

    def status(self, location: str) -> os.stat_result:
        """What a location is: a regular file in this folder. Raises RefusedError otherwise."""
        if location not in self._known:
            first = location not in self._first
            status = settled(lambda: self._look(location)) if first else self._look(location)
            self._first.setdefault(location, identity(status))
            self._known[location] = status
        return self._known[location]

    def check_same(self) -> None:
        """Raise ChangedError when a file is another one than when it was first looked at."""
        for location, first in self._first.items():
            try:
                now = identity(self._look(location))
            except LocationError as error:
                raise ChangedError(self.path / location) from error
            if now != first:
                raise ChangedError(self.path / location)

    def real_path(self, location: str) -> Path:
        """Where a location is: links are resolved if they are allowed."""
        path = self.path / location
        return Path(os.path.realpath(path)) if self.is_linked(location) else path

    def is_linked(self, location: str) -> bool:
        """Whether a component of a location is a symbolic link."""
        path = self.path
        for part in components(location):
            path /= part
            if path.is_symlink():
                return True
        return False

    def open(self, location: str) -> int:
        """A descriptor of a location's file, to be closed by the caller.

        Raises RefusedError, and ChangedError when it is another file than the gate saw.
        """
        flags = os.O_RDONLY | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)
        self._known.pop(location, None)
        self.status(location)
        if self._may_follow(location):
            descriptor = os.open(os.path.realpath(self.path / location), flags)
        else:
            holder, name = self._enter(components(location))
            try:
                descriptor = os.open(name, flags, dir_fd=holder)
            finally:
                os.close(holder)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise LocationError(f"{location} is no regular file any more")
        if identity(status) != self._first[location]:
            os.close(descriptor)
            raise ChangedError(self.path / location)
        return descriptor

    def _look(self, location: str) -> os.stat_result:
        shown = str(self.path / location)[:200]
        parts = components(location)
        try:
            if self._may_follow(location):
                status = Path(os.path.realpath(self.path / location)).lstat()
            else:
                holder, name = self._enter(parts)
                try:
                    status = os.stat(name, dir_fd=holder, follow_symlinks=False)
                finally:
                    os.close(holder)
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise LocationError(f"{shown} cannot be read ({text})") from error
        if stat.S_ISLNK(status.st_mode):
            raise LocationError(f"{shown} is a symbolic link")
        if not stat.S_ISREG(status.st_mode):
            raise LocationError(f"{shown} is not a regular file")
        if status.st_nlink > 1 and not self.allow_links:
            raise LocationError(f"{shown} has {status.st_nlink} hard links")
        if self.model is not None and _is_file(self.model, status):
            raise LocationError(f"{shown} is the model itself")
        return status

    def _may_follow(self, location: str) -> bool:
        """Links are followed when the user says so, and as the Hugging Face cache has them.

        There the model itself is a link. As in onnxruntime (ValidateExternalDataPath), its data may
        then be in the folder that the model really is in.
        """
        if not self.is_linked(location):
            return False
        if self.allow_links:
            return True
        if self.model is None or not self.model.is_symlink():
            return False
        holder = Path(os.path.realpath(self.model)).parent
        return Path(os.path.realpath(self.path / location)).is_relative_to(holder)

    def _enter(self, parts: list[str]) -> tuple[int, str]:
        """A descriptor of the folder that holds the last component, and that component."""
        holder = os.open(self.path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        for part in parts[:-1]:
            try:
                inner = os.open(part, DIRECTORY, dir_fd=holder)
            except OSError as error:
                link = error.errno != 2 and _is_link(part, holder)
                why = f"{part} is a symbolic link" if link else f"{part}: {error.strerror}"
                raise LocationError(f"location {'/'.join(parts)[:120]!r}: {why}") from error
            finally:
                os.close(holder)
            holder = inner
        return holder, parts[-1]


def _is_link(part: str, holder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=holder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _is_file(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except OSError:
        return False
