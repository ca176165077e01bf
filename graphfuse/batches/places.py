"""Where models lie: the disks of this machine, or a storage that fsspec knows (s3://, gs://, ...).

Both are asked the same few things, so that nothing else in this room knows which one it is.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from graphfuse.batches import stamps
from graphfuse.errors import GraphfuseError, ModelError, UsageError, WriteError
from graphfuse.files.copying import sha256, sync_folder
from graphfuse.records.batch_rows import Stamp
from graphfuse.system import libraries

URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
OWN_DISKS = "file://"
PIECE_OF_FILE = 2**22
"""Bytes that are copied at a time."""

MARKS = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created")
"""What storages have for a content, or for the time when it came: the first that is there."""


class Kind(StrEnum):
    """What is at a path."""

    FILE = "file"
    FOLDER = "folder"


class Place(Protocol):
    """Some storage. What it cannot do is a GraphfuseError; nothing else is raised."""

    def kind(self, path: str) -> Kind | None:
        """What is there, None for nothing."""
        ...

    def sizes(self, folder: str) -> Mapping[str, int]:
        """The files below a folder and their sizes in bytes; hidden ones are left out."""
        ...

    def matches(self, pattern: str) -> Sequence[str]:
        """What a pattern stands for, sorted."""
        ...

    def read(self, path: str) -> bytes:
        """A small file."""
        ...

    def stamp(self, path: str) -> Stamp:
        """What tells whether a file is as it was."""
        ...

    def digest(self, path: str) -> str:
        """The SHA-256 of a file, read as a whole."""
        ...

    def get(self, path: str, here: Path) -> None:
        """Copy a file to this machine."""
        ...

    def put(self, here: Path, path: str) -> None:
        """Copy a file of this machine there."""
        ...

    def move(self, path: str, target: str) -> None:
        """Give a file another name in the same folder; what has that name goes."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        ...


def is_url(text: str) -> bool:
    """Whether a text names a place that is no path."""
    return URL.match(text) is not None


def place_of(text: str) -> Place:
    """The storage that a path or URL is in. Raises UsageError for one that nothing here knows."""
    return RemotePlace(text) if is_url(text) else LocalPlace()


def plain(text: str) -> str:
    """A path as it stands, `file://` taken off; a URL as it is."""
    return text.removeprefix(OWN_DISKS) if text.startswith(OWN_DISKS) else text


def joined(folder: str, name: str) -> str:
    """A name below a folder, which is a path or URL."""
    if not is_url(folder):
        return str(Path(folder) / name)
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def parent(path: str) -> str:
    """The folder of a path or URL."""
    if not is_url(path):
        return str(Path(path).parent)
    # The root of a storage has no name.
    head, _, names = path.rpartition("://")
    return f"{head}://{names.rstrip('/').rpartition('/')[0]}"


class LocalPlace:
    """The disks of this machine."""

    def kind(self, path: str) -> Kind | None:
        """What is there, None for nothing."""
        if Path(path).is_dir():
            return Kind.FOLDER
        return Kind.FILE if os.path.lexists(path) else None

    def sizes(self, folder: str) -> Mapping[str, int]:
        """The files below a folder; links to folders are not followed."""
        with named(ModelError, folder, "read"):
            return dict(_below(folder, ""))

    def matches(self, pattern: str) -> Sequence[str]:
        """What a pattern stands for, sorted."""
        return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207

    def read(self, path: str) -> bytes:
        """A small file."""
        with named(UsageError, path, "read"):
            return Path(path).read_bytes()

    def stamp(self, path: str) -> Stamp:
        """Its size, and its hash or the time of its change."""
        return stamps.stamp(path)

    def digest(self, path: str) -> str:
        """The SHA-256 of a file."""
        with named(WriteError, path, "read"):
            return sha256(Path(path))

    def get(self, path: str, here: Path) -> None:
        """Copy a file."""
        with named(ModelError, path, "read"):
            shutil.copyfile(path, here)

    def put(self, here: Path, path: str) -> None:
        """Copy a file there, to the disk."""
        with named(WriteError, path, "written"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with here.open("rb") as source, Path(path).open("wb") as target:
                shutil.copyfileobj(source, target, PIECE_OF_FILE)
                target.flush()
                os.fsync(target.fileno())

    def move(self, path: str, target: str) -> None:
        """Rename a file."""
        with named(WriteError, target, "written"):
            Path(path).replace(target)
            sync_folder(Path(target).parent)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with named(WriteError, path, "removed"):
            Path(path).unlink(missing_ok=True)


class RemotePlace:
    """A storage that fsspec knows, found by a URL in it."""

    def __init__(self, url: str) -> None:
        """Find who knows it. Raises UsageError when a package for it is not installed."""
        fsspec = libraries.fsspec()
        protocol = url.partition("://")[0].rpartition("::")[2]
        try:
            self._files: Any = fsspec.url_to_fs(url, use_listings_cache=False)[0]
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"nothing here opens {protocol}:// ({error})",
                "install what fsspec needs for it, such as s3fs or gcsfs",
            ) from error
        self._protocol = url.partition("://")[0]

    def kind(self, path: str) -> Kind | None:
        """What is there, None for nothing."""
        with named(ModelError, path, "found"):
            try:
                found = self._files.info(path)
            except FileNotFoundError:
                return None
            return Kind.FOLDER if found["type"] == "directory" else Kind.FILE

    def sizes(self, folder: str) -> Mapping[str, int]:
        """The files below a folder; hidden ones, and names that lead out of it, are left out."""
        with named(ModelError, folder, "listed"):
            base = self._files._strip_protocol(folder).rstrip("/")
            found: Mapping[str, Any] = self._files.find(folder, detail=True)
            names = {
                name.removeprefix(base).lstrip("/"): info["size"] for name, info in found.items()
            }
            return {name: size or 0 for name, size in sorted(names.items()) if is_plain(name)}

    def matches(self, pattern: str) -> Sequence[str]:
        """What a pattern stands for, as URLs."""
        with named(ModelError, pattern, "listed"):
            return sorted(map(self._url, self._files.glob(pattern)))

    def read(self, path: str) -> bytes:
        """A small file."""
        with named(UsageError, path, "read"):
            return self._files.cat_file(path)

    def stamp(self, path: str) -> Stamp:
        """Its size, and what the storage says of its content."""
        with named(ModelError, path, "found"):
            try:
                found = self._files.info(path)
            except FileNotFoundError:
                return Stamp(path, -1, 0)
            mark = next((str(found[key]) for key in MARKS if found.get(key)), "")
            return Stamp(path, found["size"] or 0, 0, mark=mark)

    def digest(self, path: str) -> str:
        """The SHA-256 of a file, read back."""
        with named(WriteError, path, "read back"), self._files.open(path, "rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(PIECE_OF_FILE):
                digest.update(piece)
            return digest.hexdigest()

    def get(self, path: str, here: Path) -> None:
        """Copy a file to this machine."""
        with named(ModelError, path, "fetched"):
            self._files.get_file(path, str(here))

    def put(self, here: Path, path: str) -> None:
        """Copy a file of this machine there."""
        with named(WriteError, path, "written"):
            with contextlib.suppress(FileExistsError):
                self._files.makedirs(parent(path), exist_ok=True)
            self._files.put_file(str(here), path)

    def move(self, path: str, target: str) -> None:
        """Copy within the storage, then remove: an object has its content or none."""
        with named(WriteError, target, "written"):
            self._files.mv(path, target)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with named(WriteError, path, "removed"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(path)

    def lines(self, folder: str) -> Sequence[bytes]:
        """All small files of a folder, fetched at once."""
        with named(UsageError, folder, "read"):
            found = self._files.find(folder)
            return list(self._files.cat(found).values()) if found else []

    def tell(self, path: str, content: bytes) -> None:
        """Write a small file: all of it or nothing."""
        with named(WriteError, path, "written"):
            self._files.pipe_file(path, content)

    def _url(self, path: str) -> str:
        return path if is_url(path) else f"{self._protocol}://{path.lstrip('/')}"


def is_plain(name: str) -> bool:
    """Whether a name is one below its folder, of which no part is hidden."""
    return all(part and not part.startswith(".") for part in name.split("/"))


def _below(folder: str, inside: str) -> Iterable[tuple[str, int]]:
    with os.scandir(Path(folder) / inside) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder, f"{name}/")
        else:
            with contextlib.suppress(OSError):  # A link to nothing.
                yield name, entry.stat().st_size


@contextlib.contextmanager
def named(kind: type[GraphfuseError], path: str, what: str) -> Generator[None]:
    """Raise `kind` for whatever a storage says of a path; each has errors of its own."""
    try:
        yield
    except GraphfuseError:
        raise
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise kind(
            f"{path} cannot be {what} ({said})", "check the path, its rights and the connection"
        ) from error
