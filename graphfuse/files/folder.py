"""The folder of a model, and the files in it that external data may be in.

A location is opened component by component, relative to the folder, without following links: what
lies elsewhere is never opened, whatever is renamed meanwhile. Windows cannot: there each component
is looked at by its path, before a file is opened and after.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from graphfuse.errors import ChangedError
from graphfuse.system.descriptors import (
    FOLDER,
    LOOKING,
    NO_FOLLOW,
    OPENS_INSIDE,
    TELLS_CHANGES,
    is_link,
    leads_elsewhere,
)

MEMORY_MARK = "_ORT_MEM_ADDR_"
"""What onnxruntime calls data that is at an address of its process: its offset is a pointer."""

DRIVE = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:/")
"""A drive or the scheme of a URL."""

WINDOWS_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])[ ]*(\.|$)", re.I)
"""A name that is a device on Windows, in whichever folder, with an ending or without."""


Identity = tuple[int, int, int, int, int]
"""What tells a file from others and from what it was: device, inode, size, and when it changed."""


def identity(status: os.stat_result) -> Identity:
    """Two times: the first can be set to anything, the second by the file system alone.

    Windows has the first alone.
    """
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns if TELLS_CHANGES else 0,
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


def components(location: str, windows: bool = os.name == "nt") -> list[str]:
    """The parts of a location inside its folder. Raises LocationError for one that leaves it.

    `windows` says whether names are read as Windows does, where more of them are not what they say.
    """
    if not location:
        raise LocationError("its location is empty")
    shown = f"location {location[:120]!r}"
    if "\\" in location or any(ord(c) < 32 or ord(c) == 127 for c in location):
        raise LocationError(f"{shown} has a backslash or a control character")
    parts = location.split("/")
    leaves = location.startswith("/") or ".." in parts or DRIVE.match(location)
    if leaves or (windows and ":" in location):
        raise LocationError(f"{shown} leaves the model's folder")
    if MEMORY_MARK in location:
        raise LocationError(f"{shown} is an address in memory")
    if "" in parts or parts[-1] == ".":
        raise LocationError(f"{shown} names no file")
    parts = [part for part in parts if part != "."]
    if windows and any(part[-1] in ". " or WINDOWS_DEVICE.match(part) for part in parts):
        raise LocationError(f"{shown} is another name on Windows")
    return parts


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
        """What a location is: a regular file in this folder. Raises LocationError otherwise."""
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
            if is_link(path):
                return True
        return False

    def open(self, location: str) -> int:
        """A descriptor of a location's file, to be closed by the caller.

        Raises LocationError, and ChangedError when it is another file than the gate saw.
        """
        self._known.pop(location, None)
        self.status(location)
        if self._may_follow(location):
            descriptor = os.open(os.path.realpath(self.path / location), LOOKING | NO_FOLLOW)
        else:
            descriptor = self._opened(components(location))
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
                status = self._status(parts)
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise LocationError(f"{shown} cannot be read ({text})") from error
        if leads_elsewhere(status):
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

    def _status(self, parts: list[str]) -> os.stat_result:
        """What is under a name, and no link of it is followed."""
        if not OPENS_INSIDE:
            return (self._walked(parts) / parts[-1]).lstat()
        holder = self._entered(parts)
        try:
            return os.stat(parts[-1], dir_fd=holder, follow_symlinks=False)
        finally:
            os.close(holder)

    def _opened(self, parts: list[str]) -> int:
        """A descriptor of what is under a name, and no link of it is followed."""
        if OPENS_INSIDE:
            holder = self._entered(parts)
            try:
                return os.open(parts[-1], LOOKING | NO_FOLLOW, dir_fd=holder)
            finally:
                os.close(holder)
        path = self._walked(parts) / parts[-1]
        if is_link(path):
            raise LocationError(f"{path} is a symbolic link")
        descriptor = os.open(path, LOOKING | NO_FOLLOW)
        try:
            # What was opened is what the name has now, and no link leads there.
            same = os.path.samestat(os.fstat(descriptor), self._status(parts))
        except BaseException:
            os.close(descriptor)
            raise
        if not same:
            os.close(descriptor)
            raise ChangedError(path)
        return descriptor

    def _walked(self, parts: list[str]) -> Path:
        """The path of the folder that holds the last component, looked at on the way there."""
        path = self.path
        for part in parts[:-1]:
            path /= part
            status = path.lstat()
            if leads_elsewhere(status):
                raise LocationError(
                    f"location {'/'.join(parts)[:120]!r}: {part} is a symbolic link"
                )
            if not stat.S_ISDIR(status.st_mode):
                text = os.strerror(errno.ENOTDIR)
                raise LocationError(f"location {'/'.join(parts)[:120]!r}: {part}: {text}")
        return path

    def _entered(self, parts: list[str]) -> int:
        """A descriptor of the folder that holds the last component."""
        holder = os.open(self.path, FOLDER)
        for part in parts[:-1]:
            try:
                inner = os.open(part, FOLDER | NO_FOLLOW, dir_fd=holder)
            except OSError as error:
                link = error.errno != errno.ENOENT and _is_link(part, holder)
                why = f"{part} is a symbolic link" if link else f"{part}: {error.strerror}"
                raise LocationError(f"location {'/'.join(parts)[:120]!r}: {why}") from error
            finally:
                os.close(holder)
            holder = inner
        return holder


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
