"""Writing files so that no crash loses one: drafts beside the target, then one rename.

The protocol: a temporary name beside the target, exclusive and locked; write, sync, read back;
weight files get their names first; the model's rename is the commit point; then its folder is
synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from graphfuse.errors import InternalError, UsageError
from graphfuse.graph import leftovers
from graphfuse.graph.copying import Writer, reflink, sha256, sync, sync_folder
from graphfuse.graph.wire import Piece, size_of
from graphfuse.records import HashedFile

Tell = Callable[[str, int, int], object]
"""Is told what is written, how many bytes of it are done, and of how many."""

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
"""What a file system without hard links says."""


def say_nothing(_: str, __: int, ___: int) -> None:
    """Tell nobody."""


class Draft:
    """Files on their way to their names.

    Until `commit`, nothing is under a target's name; leaving the context without it removes the
    drafts, the weight files that had got their names, and the folders that were made for them.
    """

    def __init__(self, target: Path, force: bool, tell: Tell = say_nothing) -> None:
        self.target = target
        self.force = force
        self.path = leftovers.temporary(target, leftovers.new_token())
        self._tell = tell
        self._model = HashedFile(str(target), 0, "")
        self._data: dict[Path, tuple[Path, HashedFile]] = {}
        self._made: list[Path] = []
        self._folders: list[Path] = []
        self._open: list[IO[bytes]] = []

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was made and not committed, the last first, and folders that are empty."""
        with leftovers.undisturbed():
            for path in reversed(self._made):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            for folder in reversed(self._folders):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            for file in self._open:
                with contextlib.suppress(OSError):
                    file.close()

    def write(self, pieces: Sequence[Piece]) -> None:
        """Write the model to its temporary name and to the disk, and read it back."""
        self._model = self._write(self.path, pieces)

    def add(self, pieces: Sequence[Piece], name: Callable[[str], Path]) -> Path:
        """Write a weight file; `name` gives its target by its SHA-256. Gives that target.

        A target that is there already has this content, as its name says, and is taken as it is.
        """
        path = self._temporary()
        written = self._write(path, pieces)
        target = name(written.sha256)
        if target.exists():
            path.unlink()
        else:
            self._data[path] = (target, replace(written, path=str(target)))
        return target

    def clone(self, source: int, target: Path) -> bool:
        """Let a weight file share the blocks of an open one; whether the file system can."""
        path = self._temporary()
        file = self._create(path)
        if not reflink(source, file.fileno()):
            path.unlink()
            return False
        sync(file)
        self._data[path] = (target, HashedFile(str(target), path.stat().st_size, ""))
        return True

    def _temporary(self) -> Path:
        # All beside the model: the next run looks for leftovers in one folder.
        return leftovers.temporary(self.target, leftovers.new_token())

    def _create(self, path: Path) -> IO[bytes]:
        """A new file that is this run's, as long as it lives."""
        self._made.append(path)
        while True:
            file = path.open("xb+")
            self._open.append(file)
            leftovers.lock(file.fileno(), wait=True)
            # Between the two another run may have taken it for a dead one's, and removed it.
            if os.fstat(file.fileno()).st_nlink:
                return file

    def _write(self, path: Path, pieces: Sequence[Piece]) -> HashedFile:
        total, done = size_of(pieces), 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            self._tell(self.target.name, done, total)

        writer = Writer(self._create(path), tell)
        writer.write(pieces)
        sync(writer.file)
        digest = writer.digest.hexdigest()
        if path.stat().st_size != total or sha256(path) != digest:
            raise InternalError(f"{path} does not hold what was written to it")
        return HashedFile(str(self.target), total, digest)

    def commit(self) -> tuple[HashedFile, ...]:
        """Move every draft to its target, the model last: that is the commit point.

        When one cannot be moved, new weight files that were moved before are removed again.
        """
        with leftovers.undisturbed():
            if self._data:
                self._name_data()
            _move(self.path, self.target, replace=self.force)
            # From here on the new model is there, whatever else fails.
            targets = {target for target, _ in self._data.values()}
            self._made[:] = [path for path in self._made if path not in targets]
            self._folders.clear()
            with contextlib.suppress(OSError):
                sync_folder(self.target.parent)
        return (self._model, *(written for _, written in self._data.values()))

    def _name_data(self) -> None:
        """Give the weight files their names, after a journal says which they are."""
        targets = {path: target for path, (target, _) in self._data.items()}
        parents = {parent for target in targets.values() for parent in target.parents}
        folders = sorted(parent for parent in parents if not parent.exists())
        name = self.path.name.removesuffix(leftovers.SUFFIX) + leftovers.JOURNAL
        file = self._create(self.path.with_name(name))
        file.write(leftovers.journal_entry((self.path, self.target), targets, folders))
        sync(file)
        sync_folder(self.target.parent)
        for folder in folders:
            self._folders.append(folder)
            folder.mkdir()
        for path, target in targets.items():
            _move(path, target, replace=False)
            self._made.append(target)
            sync_folder(target.parent)


def _move(temporary: Path, target: Path, replace: bool) -> None:
    if replace:
        temporary.replace(target)
        return
    try:
        # Unlike a rename, a link does not replace what another run has put there meanwhile.
        os.link(temporary, target)
    except FileExistsError as error:
        raise UsageError(f"{target} exists by now", "another run wrote it") from error
    except OSError as error:
        if error.errno not in NO_LINKS or target.exists():
            raise
        temporary.replace(target)
        return
    with contextlib.suppress(OSError):
        # The file has its name; the other one goes with the leftovers if it must.
        temporary.unlink()
