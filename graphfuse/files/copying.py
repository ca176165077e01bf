"""Copying bytes between files: blocks shared where that works, holes kept, hashed on the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from graphfuse.errors import ChangedError, WriteError
from graphfuse.files.wire import Piece, Span
from graphfuse.system.descriptors import OPENS_FOLDERS, READING, read_at

if TYPE_CHECKING:
    from hashlib import _Hash  # pyright: ignore[reportPrivateUsage]

CLONE = 0x40049409
"""FICLONE of linux/fs.h: share the blocks of another file."""

CHUNK = 8 * 2**20
ZEROS = bytes(2**20)

Opened = Path | int
"""A file by its path, or by a descriptor that stays open."""

CopyProgress = Callable[[int], object]
"""Is told how many more bytes were copied."""


def ignore(_: int) -> None:
    """Tell nobody."""


@contextlib.contextmanager
def opened(file: Opened) -> Generator[int, None, None]:
    """A descriptor to read a file with; of one that is open already, that one."""
    if isinstance(file, int):
        yield file
        return
    descriptor = os.open(file, READING)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reflink(source: int, target: int) -> bool:
    """Let an empty file share the blocks of another; whether the file system did."""
    try:
        import fcntl

        fcntl.ioctl(target, CLONE, source)
    except (ImportError, OSError):
        return False
    return True


@dataclass
class Writer:
    """Writes pieces to an open file, one after the other, and hashes them."""

    file: IO[bytes]
    tell: CopyProgress = ignore
    size: int = 0

    def __post_init__(self) -> None:
        """Nothing is written yet."""
        self.digest: _Hash = hashlib.sha256()

    def write(self, pieces: Iterable[Piece]) -> None:
        """Write bytes, and spans of other files; raises ChangedError when one is cut short."""
        for piece in pieces:
            if isinstance(piece, bytes):
                self.file.write(piece)
                self.digest.update(piece)
                self.size += len(piece)
                continue
            with opened(piece.path if piece.descriptor is None else piece.descriptor) as descriptor:
                self._span(descriptor, piece)

    def _span(self, descriptor: int, span: Span) -> None:
        for start, end, is_hole in _extents(descriptor, span.offset, span.offset + span.length):
            if is_hole:
                self._hole(end - start)
            else:
                self._data(descriptor, start, end, span.path)
            self.size += end - start

    def _hole(self, length: int) -> None:
        self.file.flush()
        self.file.seek(length, os.SEEK_CUR)
        self.file.truncate()
        for done in range(0, length, len(ZEROS)):
            self.digest.update(ZEROS[: length - done])
        self.tell(length)

    def _data(self, descriptor: int, start: int, end: int, path: Path) -> None:
        while start < end:
            chunk = read_at(descriptor, min(CHUNK, end - start), start)
            if not chunk:
                raise ChangedError(path, "became shorter")
            self.file.write(chunk)
            self.digest.update(chunk)
            start += len(chunk)
            self.tell(len(chunk))

    def pad(self, alignment: int) -> int:
        """Go on at a multiple of `alignment`, zeros between; gives that offset."""
        self.write([bytes(-self.size % alignment)])
        return self.size


def _extents(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The parts of a file that are data and those that are holes."""
    if not hasattr(os, "SEEK_DATA"):
        yield start, end, False
        return
    while start < end:
        try:
            data = min(os.lseek(descriptor, start, os.SEEK_DATA), end)
            stop = min(os.lseek(descriptor, data, os.SEEK_HOLE), end) if data < end else end
        except OSError as error:
            # ENXIO: nothing but a hole up to the end, if the file is as long as it should be.
            hole = error.errno == errno.ENXIO and os.fstat(descriptor).st_size >= end
            yield start, end, hole
            return
        if data > start:
            yield start, data, True
        if stop > data:
            yield data, stop, False
        start = stop


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise WriteError when a folder's file system has not enough room."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteError(
            f"{what} ({needed:,} bytes) does not fit into {folder} ({free:,} bytes free)",
            "write the fused model into the folder of the original: weights stay in place",
        )


def stored_bytes(file: Opened) -> int:
    """What a copy of a file takes on the disk: holes take nothing."""
    status = os.stat(file)  # noqa: PTH116
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)


def same_content(one: Opened, other: Opened) -> bool:
    """Whether two files hold the same bytes."""
    with opened(one) as first, opened(other) as second:
        size, done = os.fstat(first).st_size, 0
        if size != os.fstat(second).st_size:
            return False
        while done < size:
            chunks = [_whole(file, min(CHUNK, size - done), done) for file in (first, second)]
            if chunks[0] != chunks[1] or not chunks[0]:
                return False
            done += len(chunks[0])
    return True


def _whole(descriptor: int, count: int, offset: int) -> bytes:
    """As many bytes as a file has of `count`: one read may give fewer."""
    data = read_at(descriptor, count, offset)
    while data and len(data) < count:
        more = read_at(descriptor, count - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def sync(file: Any) -> None:
    """Bring a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where a system opens folders."""
    if not OPENS_FOLDERS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have nothing to sync in a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
