"""The folder of an export: its models, what else is in it, and how another takes its name.

What an export has is found without leaving its folder: links are followed inside of it, in the
layout of the Hugging Face cache, and with `allow_links`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphfuse.errors import GraphfuseError, ModelError, UsageError, WriteError
from graphfuse.files import leftovers
from graphfuse.files.access import access_of
from graphfuse.files.copying import sync_folder
from graphfuse.files.wire import Piece, Span
from graphfuse.files.writing import AT_HERE, Draft
from graphfuse.records import HashedFile
from graphfuse.records.requests import Output
from graphfuse.system.descriptors import LOOKING, MOVES_OPEN

ENDING = ".onnx"
FUSED_MARK = "_graphfuse"
"""What a fused model's name has before its ending, as optimum names what it makes."""

MADE = re.compile(rf"{FUSED_MARK}({ENDING}|-[^/]*{ENDING}_data)$")
"""The end of what a run gives a name to: a fused model, a file with its weights."""

EXCHANGE = 2
"""RENAME_EXCHANGE of linux/fs.h."""


def fused_name(name: str) -> str:
    """The name of the fused model beside one."""
    return f"{name.removesuffix(ENDING)}{FUSED_MARK}{ENDING}"


@dataclass(frozen=True)
class Listing:
    """What a folder has, as paths inside it, sorted; `notes` say what was left, and why.

    `fused` are models that were fused before.
    """

    folder: Path
    models: tuple[str, ...]
    fused: tuple[str, ...]
    others: tuple[str, ...]
    notes: tuple[str, ...]

    def along(self, weights: Iterable[str]) -> tuple[str, ...]:
        """The files that a fused copy needs as well: all but `weights`, and those of models.

        Of a model that cannot be read nobody knows the weights: their names begin with its own.
        """
        gone = set(weights)
        begins = tuple(
            f"{name.removesuffix(ENDING)}{more}"
            for name in (*self.models, *self.fused)
            for more in (f"{ENDING}_data", f"{ENDING}.data")
        )
        return tuple(n for n in self.others if n not in gone and not n.startswith(begins))


def listed(folder: Path, allow_links: bool = False) -> Listing:
    """The models and other files of an export; hidden ones are no part of it.

    Raises ModelError when it cannot be read, or has no model.
    """
    notes: list[str] = []
    try:
        names = sorted(_names(folder, "", allow_links, notes))
    except OSError as error:
        raise ModelError(
            f"{error.filename or folder} cannot be read ({error.strerror})",
            "check the path and its rights",
        ) from error
    onnx = [name for name in names if name.endswith(ENDING)]
    models = [name for name in onnx if not name.endswith(FUSED_MARK + ENDING)]
    if not models:
        has = f"; {onnx[0]} is fused already" if onnx else ""
        left = f"; {notes[0]}" if notes else ""
        raise ModelError(
            f"the folder {folder} has no ONNX model{has}{left}",
            "name a folder that an exporter wrote, or an .onnx file",
        )
    others = tuple(name for name in names if name not in set(onnx))
    fused = tuple(name for name in onnx if name.endswith(FUSED_MARK + ENDING))
    return Listing(folder, tuple(models), fused, others, tuple(notes))


def _names(folder: Path, inside: str, allow_links: bool, notes: list[str]) -> Iterator[str]:
    with os.scandir(folder / inside) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _names(folder, f"{name}/", allow_links, notes)
        elif entry.is_symlink() and not (allow_links or _stays(folder, name)):
            notes.append(f"{name} is a link out of the folder, and left (--allow-links follows it)")
        elif not os.path.exists(folder / name):  # noqa: PTH110
            notes.append(f"{name} is a link to nothing, and left")
        elif not stat.S_ISREG((folder / name).stat().st_mode):
            notes.append(f"{name} is no regular file, and left")
        else:
            yield name


def _stays(folder: Path, name: str) -> bool:
    """Whether a link leads into its own folder, or to where the Hugging Face cache has files."""
    home, path = Path(os.path.realpath(folder)), Path(os.path.realpath(folder / name))
    if path.is_relative_to(home):
        return True
    return home.parent.name == "snapshots" and path.parent == home.parent.parent / "blobs"


def check_folder(output: Output, folder: Path) -> None:
    """Refuse a folder to write that is, has or lies in that of the models, or that is in use."""
    path = output.path
    here, there = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if here == there:
        problem = (f"{path} is the folder of the models", "pass --in-place, or another folder")
    elif there.is_relative_to(here):
        problem = (f"{path} is inside of the folder of the models", "name a folder outside of it")
    elif here.is_relative_to(there):
        problem = (f"{path} holds the folder of the models", "name a folder outside of it")
    elif path.is_symlink() or (path.exists() and not path.is_dir()):
        problem = (f"{path} is a link or a file", "name a folder that is not there yet")
    elif path.suffix == ENDING and not path.exists():
        problem = (f"{folder} is a folder, and {path} the name of a file", "name a folder")
    elif not path.parent.is_dir():
        problem = (f"the folder {path.parent} does not exist", "create it first")
    elif not os.access(path.parent, os.W_OK):
        problem = (f"the folder {path.parent} is not writable", "choose another output")
    elif not output.force and path.is_dir() and any(path.iterdir()):
        problem = (f"the folder {path} is not empty", "choose another, or pass --force")
    else:
        return
    raise UsageError(*problem)


def make_folders(target: Path, source: Path, names: Iterable[str]) -> None:
    """Make a folder, and in it those that files of these names need; for the same users."""
    inner = {parent for name in names for parent in Path(name).parents} - {Path()}
    for place in (Path(), *sorted(inner)):
        (target / place).mkdir((source / place).stat().st_mode & 0o777 | 0o700)


def write_file(
    target: Path, pieces: Sequence[Piece], like: Path, replace: bool = False
) -> HashedFile:
    """Write a file that may be read by those who may read another one."""
    with written(target), Draft(target, replace) as draft:
        draft.write(pieces, access_of(like))
        return draft.commit()[0]


def copy_file(source: Path, target: Path, replace: bool = False) -> HashedFile:
    """Copy a file, piece by piece. Raises ModelError when it cannot be read."""
    try:
        descriptor = os.open(source, LOOKING)
    except OSError as error:
        raise ModelError(
            f"{source} cannot be read ({error.strerror})", "check its rights, or leave it out"
        ) from error
    try:
        size = os.fstat(descriptor).st_size
        return write_file(target, [Span(source, 0, size, descriptor)], source, replace)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written(target: Path) -> Generator[None]:
    """Raise WriteError for what the system says while a file or folder is written."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{target} cannot be written ({error.strerror or error})",
            "free space or choose another folder; what was there is unchanged",
        ) from error


def place_folder(made: Path, target: Path, force: bool) -> None:
    """Give a folder that is complete its name, in one step.

    With `force` one that is there goes, if it has no file that the new one has not. Raises
    UsageError where it has, and WriteError when the system does not let it.
    """
    there = target.is_dir() and any(target.iterdir())
    if there and not force:
        raise UsageError(f"the folder {target} is not empty by now", "choose another")
    if there:
        lost = sorted(_files(target) - _files(made))
        if lost:
            raise UsageError(
                f"{target} has {lost[0]}, which --force would remove", "choose another folder"
            )
    with written(target), leftovers.undisturbed():
        for folder, _, _ in os.walk(made):
            sync_folder(Path(folder))
        if not there:
            if not MOVES_OPEN and target.is_dir():
                # No rename has the name of a folder there, not of an empty one either.
                target.rmdir()
            made.rename(target)
        elif not _exchanged(made, target):
            # A moment without either, where the system cannot do it in one step.
            old = made.with_name("old")
            target.rename(old)
            try:
                made.rename(target)
            except OSError:
                old.rename(target)
                raise
        sync_folder(target.parent)


def _files(folder: Path) -> set[str]:
    """What a folder holds that is a user's: a fused model and its weights are made again."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in found)
    return {name for name in names if not MADE.search(name)}


def _exchanged(one: Path, other: Path) -> bool:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return not rename(AT_HERE, os.fsencode(one), AT_HERE, os.fsencode(other), EXCHANGE)


def told_of(error: GraphfuseError, scratch: Path, target: Path) -> None:
    """Let an error name what is in a scratch folder as it was to be."""
    error.message = error.message.replace(str(scratch), str(target))
    error.args = (f"{error.message}; {error.remedy}" if error.remedy else error.message,)
