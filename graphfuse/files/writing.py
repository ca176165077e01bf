"""Writing files so that no crash loses one: drafts beside the target, then one rename.

The protocol: a temporary name beside the target, exclusive and locked; write, sync, read back;
weight files get their names first; the model's rename is the commit point; then its folder is
synced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BufferedRandom
from pathlib import Path

from graphfuse.errors import ChangedError, InternalError, UsageError
from graphfuse.files import leftovers
from graphfuse.files.access import Access, access_of, give
from graphfuse.files.copying import Opened, Writer, reflink, same_content, sync, sync_folder
from graphfuse.files.folder import Identity, identity
from graphfuse.files.wire import Piece, size_of
from graphfuse.records import HashedFile
from graphfuse.records.progress import SILENT, Progress
from graphfuse.system.descriptors import KEEPS_NAMES, MARKS_OPEN, MOVES_OPEN

UNABLE = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EINVAL)
"""What a system says that cannot rename without replacing, or has no hard links."""

NO_REPLACE = 1
"""RENAME_NOREPLACE of linux/fs.h."""
AT_HERE = -100
"""AT_FDCWD of fcntl.h: relative paths start where the process is."""


class Draft:
    """Files on their way to their names.

    Until `commit`, nothing is under a target's name; leaving the context without it removes the
    drafts, the weight files that had got their names, and the folders that were made for them.
    """

    def __init__(self, target: Path, force: bool, progress: Progress = SILENT) -> None:
        self.target = target
        self.force = force
        self.path = leftovers.temporary(target, leftovers.new_token())
        self._progress = progress
        self._model = HashedFile(str(target), 0, "")
        self.notes: list[str] = []
        self._data: dict[Path, tuple[Path, HashedFile]] = {}
        self._made: list[Path] = []
        self._named: dict[Path, BufferedRandom] = {}
        self._relied_on: dict[Path, Identity] = {}
        self._folders: list[Path] = []
        self._open: dict[Path, BufferedRandom] = {}

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was made and not committed, the last first, and folders that are empty."""
        with leftovers.undisturbed():
            for path, file in self._named.items():
                with contextlib.suppress(OSError):
                    inode = os.fstat(file.fileno()).st_ino
                    if not MOVES_OPEN:
                        file.close()
                    leftovers.discard(path, inode)
            if not MOVES_OPEN:
                self._close()
            for path in reversed(self._made):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            for folder in reversed(self._folders):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            self._close()

    def _close(self) -> None:
        for file in self._open.values():
            with contextlib.suppress(OSError):
                file.close()

    def write(self, pieces: Sequence[Piece], access: Access | None = None) -> None:
        """Write the model to its temporary name and to the disk, and read it back.

        It gets the access of the file that it replaces, and `access` where there is none.
        """
        with contextlib.suppress(OSError):
            access = access_of(self.target, exact=True)
        self._model = self._write(self.path, pieces, access)

    def add(
        self, pieces: Sequence[Piece], wanted: Path, by_content: bool, access: Access | None = None
    ) -> Path:
        """Write a weight file; gives its target: `wanted`, or a name with the content's hash.

        `by_content` says that it has to be the latter. A file of that name that has the same
        content is taken as it is.
        """
        path = self._temporary()
        written = self._write(path, pieces, access)
        for target in _names(wanted, by_content, written.sha256):
            if not target.exists():
                self._data[path] = (target, replace(written, path=str(target)))
                return target
            if self.relies_on(target, path):
                self._let_go(path)
                path.unlink()
                return target
        raise InternalError(f"no name for a copy of {wanted}")

    def relies_on(self, there: Path, same: Opened) -> bool:
        """Whether a file that is there has the content of another, and is there to stay.

        The model may then refer to it; before it gets its name, it is looked at once more.
        """
        before = there.stat()
        if not same_content(there, same) or not leftovers.can_rely_on(there, self.target.parent):
            return False
        now = there.stat()
        self._relied_on[there] = identity(now)
        if not leftovers.is_claimed(before):
            return identity(now) == identity(before)
        # Taking the mark off gave it another time, as writing to it would have.
        return same_content(there, same)

    def clone(self, source: int, target: Path, access: Access | None = None) -> bool:
        """Let a weight file share the blocks of an open one; whether the file system can."""
        path = self._temporary()
        file = self._create(path, access)
        if not reflink(source, file.fileno()):
            self._let_go(path)
            path.unlink()
            return False
        sync(file)
        self._data[path] = (target, HashedFile(str(target), path.stat().st_size, ""))
        return True

    def _temporary(self) -> Path:
        # All beside the model: the next run looks for leftovers in one folder.
        return leftovers.temporary(self.target, leftovers.new_token())

    def _create(self, path: Path, access: Access | None) -> BufferedRandom:
        """A new file that is this run's, as long as it lives."""
        mode = 0o666 if access is None else access.at_creation
        self._made.append(path)
        while True:
            file = open(  # noqa: SIM115
                path, "xb+", opener=lambda name, flags: os.open(name, flags, mode)
            )
            leftovers.lock(file.fileno(), wait=True)
            # Between the two another run may have taken it for a dead one's, and removed it.
            if os.fstat(file.fileno()).st_nlink:
                break
            file.close()
        self._open[path] = file
        lost = "" if access is None else give(file.fileno(), access)
        if lost:
            self.notes.append(f"{self.target} is replaced by a file of its own: {lost}")
        return file

    def _let_go(self, path: Path) -> None:
        """Close a file that is about to get another name, or none, where it cannot be open then."""
        if not MOVES_OPEN:
            self._open[path].close()

    def _write(self, path: Path, pieces: Sequence[Piece], access: Access | None) -> HashedFile:
        total, done = size_of(pieces), 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            self._progress.portion(self.target.name, done, total)

        file = self._create(path, access)
        writer = Writer(file, tell)
        writer.write(pieces)
        sync(file)
        digest = writer.digest.hexdigest()
        # Read by its descriptor: its owner may be another user by now.
        file.seek(0)
        back = hashlib.file_digest(file, "sha256").hexdigest()
        if os.fstat(file.fileno()).st_size != total or back != digest:
            raise InternalError(f"{path} does not hold what was written to it")
        return HashedFile(str(self.target), total, digest)

    def commit(self, check: Callable[[], object] = lambda: None) -> tuple[HashedFile, ...]:
        """Move every draft to its target, the model last: that is the commit point.

        `check` is called right before it. When it raises or a draft cannot be moved, new weight
        files that were moved before are removed again.
        """
        with leftovers.undisturbed():
            if self._data:
                self._name_data()
            self._check_relied_on()
            check()
            self._let_go(self.path)
            _move(self.path, self.target, replace=self.force)
            # From here on the new model is there, whatever else fails.
            named = list(self._named.items())
            self._named.clear()
            self._folders.clear()
            for path, file in named:
                with contextlib.suppress(OSError):
                    leftovers.release(file.fileno() if MARKS_OPEN else path)
            with contextlib.suppress(OSError):
                sync_folder(self.target.parent)
        return (self._model, *(written for _, written in self._data.values()))

    def _check_relied_on(self) -> None:
        """Raise ChangedError when a file that the model needs is not as it was."""
        for path, known in self._relied_on.items():
            try:
                now = identity(path.stat())
            except OSError as error:
                raise ChangedError(path, "vanished") from error
            if now != known:
                raise ChangedError(path)

    def _name_data(self) -> None:
        """Give the weight files their names, after a journal says which they are."""
        targets = {path: target for path, (target, _) in self._data.items()}
        parents = {parent for target in targets.values() for parent in target.parents}
        folders = sorted(parent for parent in parents if not parent.exists())
        name = self.path.name.removesuffix(leftovers.SUFFIX) + leftovers.JOURNAL
        file = self._create(self.path.with_name(name), None)
        for path in targets:
            leftovers.claim(self._open[path].fileno() if MARKS_OPEN else path)
        file.write(leftovers.journal_entry((self.path, self.target), targets, folders))
        sync(file)
        sync_folder(self.target.parent)
        for folder in folders:
            self._folders.append(folder)
            folder.mkdir()
        for path, target in targets.items():
            self._let_go(path)
            _move(path, target, replace=False)
            if not MOVES_OPEN:
                self._open[path] = target.open("rb+")
                leftovers.lock(self._open[path].fileno())
            self._named[target] = self._open[path]
            sync_folder(target.parent)


def _move(temporary: Path, target: Path, replace: bool) -> None:
    if replace:
        temporary.replace(target)
        return
    # None of these replaces what another run has put there meanwhile; the first leaves no moment
    # in which the file has two names, which other loaders refuse. Where neither can be had (FAT by
    # some drivers), the last look is a moment before the rename.
    for way in (_rename, _link):
        try:
            way(temporary, target)
        except FileExistsError as error:
            raise UsageError(f"{target} exists by now", "another run wrote it") from error
        except OSError as error:
            if error.errno not in UNABLE:
                raise
        else:
            return
    if target.exists():
        raise UsageError(f"{target} exists by now", "another run wrote it")
    temporary.replace(target)


def _rename(temporary: Path, target: Path) -> None:
    if KEEPS_NAMES:
        temporary.rename(target)
        return
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    names = os.fsencode(temporary), os.fsencode(target)
    if rename(AT_HERE, names[0], AT_HERE, names[1], NO_REPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _link(temporary: Path, target: Path) -> None:
    os.link(temporary, target)
    with contextlib.suppress(OSError):
        # The file has its name; the other one goes with the leftovers if it must.
        temporary.unlink()


def _names(wanted: Path, by_content: bool, digest: str) -> Iterator[Path]:
    """The names that a weight file may get, the best one first."""
    if not by_content:
        yield wanted
    for more in (digest[:16], f"{digest[:16]}-{leftovers.new_token()}"):
        yield wanted.with_name(f"{wanted.stem}-{more}{wanted.suffix}")
