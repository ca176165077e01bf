"""What killed runs leave behind, and how the next run knows that nobody needs it.

A run holds a lock on each of its temporary files; the kernel lets go of it when the run ends,
however it ends. So a temporary file that can be locked is nobody's. New weight files get their
names before the model gets its own: a journal says which, so that they go if the model never came.

Another run may find such a file and rely on it, before its model is there or after its maker died.
So it carries a mark, a time of change that no file has by chance, until its model is there: only
what is marked is ever removed, and who relies on a file takes the mark off, under its lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from graphfuse.errors import WriteError
from graphfuse.system.descriptors import (
    CHANGING,
    FOLDER,
    MARKS_OPEN,
    MOVES_OPEN,
    NO_FOLLOW,
    OPENS_FOLDERS,
    lock,
)

SUFFIX = ".graphfuse-tmp"
JOURNAL = ".graphfuse-journal"
HOLD = ".graphfuse-hold"
"""What is locked in a scratch folder where the folder itself cannot be opened."""

CLAIM = 315_619_200 * 10**9
"""When a weight file changed whose model has not come yet: on 2 January 1980, the first whole day
that every file system has. In nanoseconds."""

PATIENCE = 2.0
"""Seconds to wait for another run that is between giving its files their names and the end."""


def temporary(target: Path, token: str, suffix: str = SUFFIX) -> Path:
    """A hidden name beside a target, of at most 255 bytes."""
    name = os.fsencode(target.name)[:150].decode(errors="ignore")
    return target.with_name(f".{name}.{token}{suffix}")


def new_token() -> str:
    """What tells one run's files from another's."""
    return secrets.token_hex(8)


@contextlib.contextmanager
def scratch(target: Path) -> Generator[Path, None, None]:
    """A folder beside a target for what is no output yet; it is gone when the block ends.

    It is locked like a temporary file. Raises WriteError when it cannot be made.
    """
    path = temporary(target, new_token())
    try:
        # On Windows this mode is a list of its own, and the output would keep it.
        path.mkdir(0o700 if OPENS_FOLDERS else 0o777)
    except OSError as error:
        raise WriteError(
            f"{target} cannot be written ({error.strerror})",
            "free space or choose another folder; what was there is unchanged",
        ) from error
    descriptor = -1
    try:
        with contextlib.suppress(OSError):
            descriptor = _opened_folder(path, os.O_CREAT | os.O_EXCL)
            lock(descriptor)
        yield path
    finally:
        if descriptor >= 0 and not MOVES_OPEN:
            os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)
        if descriptor >= 0 and MOVES_OPEN:
            os.close(descriptor)


def _opened_folder(path: Path, flags: int = 0) -> int:
    """What is locked of a scratch folder, made with `flags` where it is a file in it."""
    if OPENS_FOLDERS:
        return os.open(path, FOLDER | NO_FOLLOW)
    return os.open(path / HOLD, CHANGING | flags, 0o600)


def remove(folder: Path) -> None:
    """Remove what killed runs left in a folder. What cannot be removed stays."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return
    # Journals first: they ask whether the model's temporary file is still there.
    for suffix in (JOURNAL, SUFFIX):
        for name in sorted(names):
            if name.startswith(".") and name.endswith(suffix):
                with contextlib.suppress(OSError, KeyError):
                    _remove_if_dead(folder / name, suffix)


def _remove_if_dead(path: Path, suffix: str) -> None:
    is_folder = suffix == SUFFIX and path.is_dir() and not path.is_symlink()
    descriptor = _opened_folder(path) if is_folder else os.open(path, CHANGING)
    with _dead(descriptor) as is_dead:
        if is_dead and suffix == JOURNAL:
            # One that was cut short was never synced: no file had got its name by then.
            with contextlib.suppress(ValueError):
                _undo(path, os.read(descriptor, 2**20))
        if is_dead and MOVES_OPEN:
            _remove(path)
    if is_dead and not MOVES_OPEN:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _dead(descriptor: int) -> Generator[bool, None, None]:
    """Whether nobody lives who made an open file; it is locked in the block, and closed then."""
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


def _undo(journal: Path, text: bytes) -> None:
    """Remove the weight files of a run whose model was never put in place."""
    document = json.loads(text)
    holder = journal.parent
    draft = journal.with_name(journal.name.removesuffix(JOURNAL) + SUFFIX)
    model, inode = document["model"]
    committed = not draft.exists() or _inode(holder / model) == inode
    if committed:
        for name, inode in document["files"]:
            if ".." not in Path(name).parts and _inode(holder / name) == inode:
                take_over(holder / name)
        return
    for name, inode in document["files"]:
        # Under that name may be somebody else's by now, or still.
        if ".." not in Path(name).parts and _inode(holder / name) == inode:
            with contextlib.suppress(OSError):
                _discard(holder / name, inode)
    for name in reversed(document["folders"]):
        with contextlib.suppress(OSError):
            (holder / name).rmdir()


def claim(file: int | Path) -> None:
    """Mark a file as its maker's alone. Where that cannot be, the file is never removed.

    It is open, but for systems that mark no open file.
    """
    with contextlib.suppress(OSError, TypeError, NotImplementedError):
        os.utime(file, ns=(os.stat(file).st_atime_ns, CLAIM))  # noqa: PTH116
        _sync(file)


def release(file: int | Path) -> None:
    """Take the mark off, for good: nobody removes the file from now on."""
    if is_claimed(os.stat(file)):  # noqa: PTH116
        os.utime(file)
        _sync(file)


def _sync(file: int | Path) -> None:
    if isinstance(file, int):
        os.fsync(file)


def is_claimed(status: os.stat_result) -> bool:
    """Whether a file carries the mark."""
    return status.st_mtime_ns == CLAIM


def discard(path: Path, inode: int) -> None:
    """Remove a file that the caller has locked, if it is still that one and still marked."""
    status = path.lstat()
    if status.st_ino == inode and is_claimed(status):
        path.unlink()


def _discard(path: Path, inode: int) -> None:
    """The same of a dead run's file. Who has it locked is about to rely on it."""
    with _dead(os.open(path, CHANGING)) as is_dead:
        if is_dead and MOVES_OPEN:
            discard(path, inode)
    if is_dead and not MOVES_OPEN:
        discard(path, inode)


def take_over(path: Path) -> bool:
    """Take the mark off a file whose maker is dead; False when he lives, or it is not there."""
    try:
        descriptor = os.open(path, CHANGING)
    except OSError:
        return False
    try:
        # Until it was locked, a run that cleans up could still remove it.
        if not lock(descriptor) or not os.path.samestat(os.fstat(descriptor), path.lstat()):
            return False
        release(descriptor if MARKS_OPEN else path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def can_rely_on(path: Path, folder: Path) -> bool:
    """Whether nobody will remove a weight file that is there; `folder` is the output's.

    Of a run that lives and is not done nobody knows how it ends: it is waited for, not for long.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if not is_claimed(path.stat()):
                return True
        except OSError:
            return False
        # A journal in this folder may say that its maker is dead, and its model not there.
        remove(folder)
        if take_over(path):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(PATIENCE / 50)


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except OSError:
        return -1


def journal_entry(
    model: tuple[Path, Path], files: Mapping[Path, Path], folders: Iterable[Path]
) -> bytes:
    """What a journal says: which names the temporary files get, and their inodes."""
    holder = model[1].parent

    def named(path: Path, target: Path) -> tuple[str, int]:
        return os.path.relpath(target, holder), _inode(path)

    document = {
        "model": named(*model),
        "files": [named(path, target) for path, target in files.items()],
        "folders": [os.path.relpath(path, holder) for path in folders],
    }
    return json.dumps(document).encode()


@contextlib.contextmanager
def undisturbed() -> Generator[None, None, None]:
    """Hold back the signals that end a run, while files get their names.

    Python's handlers run in the main thread whichever thread the signal reached, so they are
    exchanged; masking signals in one thread would not be enough.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)

    before: dict[int, Any] = {}
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not None:
                before[number] = signal.signal(number, remember)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
