"""Open files, on systems that have less of them than POSIX.

Windows opens no folder, and nothing relative to one; it reads at no offset, and its C library would
change the bytes of what is not opened as binary. It neither renames nor removes what is open. Its
locks are of bytes, not of files.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import stat
from pathlib import Path
from typing import Any

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)
READING = os.O_RDONLY | BINARY
"""How a file is opened to be read; a pipe in its place is waited for."""
LOOKING = READING | getattr(os, "O_NONBLOCK", 0)
"""The same of a file that may be anything."""
CHANGING = os.O_RDWR | BINARY | NO_FOLLOW
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)

OPENS_FOLDERS = hasattr(os, "O_DIRECTORY")
OPENS_INSIDE = OPENS_FOLDERS and bool(NO_FOLLOW) and {os.open, os.stat} <= os.supports_dir_fd
"""Whether a name can be opened relative to an open folder, without following a link."""
MARKS_OPEN = os.utime in os.supports_fd
"""Whether the times of an open file can be set."""
MOVES_OPEN = importlib.util.find_spec("fcntl") is not None
"""Whether an open file can be renamed and removed. Windows has no fcntl, and does neither."""
KEEPS_NAMES = os.name == "nt"
"""Whether a rename never replaces what has the name already."""
TELLS_CHANGES = os.name != "nt"
"""Whether `st_ctime` is when a file changed. On Windows it is when the file was made."""

LOCKED_BYTE = 2**43
"""Where a byte is locked in place of its file: no weights are as long, so nobody reads it."""

NAME_SURROGATE = 0x20000000
"""The bit of a reparse tag that is set for what stands for another name, as in winnt.h."""


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes of an open file from an offset on, as one read gives them."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)


def lock(descriptor: int, wait: bool = False) -> bool:
    """Lock an open file; False when somebody else has, or where there are no locks."""
    try:
        if MOVES_OPEN:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        else:
            _lock_byte(descriptor, wait)
    except (ImportError, OSError):
        return False
    return True


def _lock_byte(descriptor: int, wait: bool) -> None:
    msvcrt: Any = importlib.import_module("msvcrt")
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        # With patience it tries ten times, a second apart.
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)


def leads_elsewhere(status: os.stat_result) -> bool:
    """Whether what `lstat` found is a link: a symbolic one, or a junction of Windows."""
    tag = getattr(status, "st_reparse_tag", 0)
    return stat.S_ISLNK(status.st_mode) or bool(tag & NAME_SURROGATE)


def is_link(path: Path) -> bool:
    """The same of a path; False for one that is not there."""
    try:
        return leads_elsewhere(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False
