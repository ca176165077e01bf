"""A POSIX system with what Windows lacks taken away: Python imports this file when it starts.

What is gone is gone before anything else is imported, so that imports at module level are tried as
well. What Windows refuses is refused: opening folders, names relative to one, renaming over a file
or while something is open or mapped, and reading in text mode, where its C library changes bytes.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import importlib
import importlib.util
import io
import os
import signal
import stat
import sys
import types
from collections.abc import Callable
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
"""Only graphfuse does without: other libraries have builds of their own for Windows."""

OF_OS = (
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "pread", "preadv", "pwrite", "fchmod", "fchown",
    "chown", "lchown", "fchdir", "getxattr", "setxattr", "removexattr", "listxattr", "SEEK_DATA", "SEEK_HOLE",
    "sched_getaffinity", "sched_setaffinity", "sched_yield", "sysconf", "sysconf_names", "killpg", "setsid",
    "getpgid", "setpgid", "getuid", "geteuid", "getgid", "getegid", "mkfifo", "mknod", "fork", "nice",
    "posix_fadvise", "posix_fallocate", "copy_file_range", "sendfile", "memfd_create", "getpriority",
)  # fmt: skip
OF_SIGNAL = ("SIGKILL", "SIGHUP", "SIGBUS", "SIGSTOP", "SIGUSR1", "SIGALRM", "pthread_sigmask")

BINARY = 1 << 30
HERE = ("/proc/", "/dev/", "/sys/")
"""What no Windows has. The files of this process are listed with what is kept here."""

listdir, readlink, lstat, system_open = os.listdir, os.readlink, os.lstat, os.open
plain_open, find_spec, import_module = io.open, importlib.util.find_spec, importlib.import_module
plain_import, flock = builtins.__import__, fcntl.flock


def caller() -> str:
    """The module that called what stands in for a function."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def imports(name: str, *arguments: Any, **options: Any) -> types.ModuleType:
    if name in MODULES and caller().startswith("graphfuse"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return plain_import(name, *arguments, **options)


def finds(name: str, package: str | None = None) -> Any:
    missing = name in MODULES and caller().startswith("graphfuse")
    return None if missing else find_spec(name, package)


def loads(name: str, package: str | None = None) -> types.ModuleType:
    return msvcrt if name == "msvcrt" else import_module(name, package)


def locking(descriptor: int, mode: int, _: int) -> None:
    try:
        flock(descriptor, fcntl.LOCK_EX | (0 if mode else fcntl.LOCK_NB))
    except OSError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


msvcrt = types.ModuleType("msvcrt")
msvcrt.locking, msvcrt.LK_NBLCK, msvcrt.LK_LOCK = locking, 0, 1  # type: ignore[attr-defined]


def opens(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    if dir_fd is not None:
        raise NotImplementedError("dir_fd unavailable on this platform")
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(HERE):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
    if stat.S_ISDIR(_mode(path)):
        raise PermissionError(errno.EACCES, "Permission denied", path)
    # A new file's flags come from io.open, which knows itself what is binary.
    if not flags & (BINARY | os.O_CREAT) and caller().startswith("graphfuse"):
        raise AssertionError(f"{path} is opened in text mode")
    return system_open(path, flags & ~BINARY, mode)


def plainly(file: Any, *arguments: Any, **options: Any) -> Any:
    if (
        isinstance(file, (str, os.PathLike))
        and str(file).startswith(HERE)
        and "null" not in str(file)
    ):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", file)
    return plain_open(file, *arguments, **options)


def _mode(path: Any) -> int:
    try:
        return status_of(path).st_mode
    except (OSError, ValueError):
        return 0


status_of, set_times = os.stat, os.utime


def looks(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    if dir_fd is not None:
        raise NotImplementedError("dir_fd unavailable on this platform")
    return status_of(path, follow_symlinks=follow_symlinks)


def times(path: Any, *arguments: Any, **options: Any) -> None:
    if isinstance(path, int):
        raise TypeError("utime: path should be string, bytes or os.PathLike, not int")
    set_times(path, *arguments, **options)


def _is_used(path: Any) -> bool:
    """Whether this process has a file open, or mapped."""
    try:
        wanted = lstat(path)
    except OSError:
        return False
    if not stat.S_ISREG(wanted.st_mode):
        return False
    for name in listdir("/proc/self/fd"):
        try:
            found = status_of(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if os.path.samestat(found, wanted):
            return True
    with plain_open("/proc/self/maps", "rb") as lines:
        inode = str(wanted.st_ino).encode()
        return any(len(words) > 5 and words[4] == inode for words in map(bytes.split, lines))


def refused(call: Callable[..., Any], both: bool, replaces: bool) -> Callable[..., Any]:
    def standing_in(*paths: Any, **options: Any) -> Any:
        for path in paths[: 1 + both]:
            if _is_used(path):
                raise PermissionError(errno.EACCES, "it is used by a process", path)
        if not replaces and os.path.lexists(paths[1]):
            raise FileExistsError(errno.EEXIST, "it is there already", paths[0], None, paths[1])
        return call(*paths, **options)

    return standing_in


for name in OF_OS:
    if hasattr(os, name):
        delattr(os, name)
for name in OF_SIGNAL:
    if hasattr(signal, name):
        delattr(signal, name)
os.O_BINARY = BINARY  # type: ignore[attr-defined]
os.supports_dir_fd.clear()
os.supports_fd.discard(os.utime)
os.open, os.stat, os.utime = opens, looks, times
os.rename = refused(os.rename, both=False, replaces=False)
os.replace = refused(os.replace, both=True, replaces=True)
os.unlink = refused(os.unlink, both=False, replaces=True)
os.remove = os.unlink
builtins.open = io.open = plainly
builtins.__import__ = imports
importlib.util.find_spec, importlib.import_module = finds, loads
