"""Loading a model without its weights, and writing one so that no crash loses a file.

Only the protobuf is read. External data stays on disk: a tensor's bytes are read one tensor at a
time, when a number (an epsilon, say) is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import stat
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from graphfuse.errors import InternalError, ModelError, UsageError, WriteError
from graphfuse.graph.tensors import external_entries, is_external, model_tensors
from graphfuse.records import WrittenFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROTO_LIMIT = 2**31 - 1
"""Protobuf cannot hold a message of 2 GiB or more."""

KNOWN_ENTRIES = frozenset(("location", "offset", "length", "checksum"))


@dataclass(frozen=True)
class Model:
    """A ModelProto and where its external data lies.

    `path` is None for a model that was handed over in memory; its external data, if any, is then
    looked for in `folder`.
    """

    proto: onnx.ModelProto
    path: Path | None = None
    folder: Path = field(default_factory=Path)

    def read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """The values of one tensor, from its external file when it has one."""
        try:
            if not is_external(tensor):
                return onnx.numpy_helper.to_array(tensor)
            return self._read_external(tensor)
        except (ValueError, KeyError, TypeError, OSError) as error:
            text = " ".join(str(error).split())[:200]
            raise ModelError(
                f"tensor {tensor.name!r} cannot be read ({type(error).__name__}: {text})",
                "export or fetch the model with its weight files again",
            ) from error

    def _read_external(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        entries = external_entries(tensor)
        path = self.folder / entries["location"]
        length = tensor_bytes(tensor)
        with path.open("rb") as file:
            file.seek(int(entries.get("offset", "0")))
            data = file.read(length)
        if len(data) != length:
            raise ValueError(f"{path} has {len(data)} of its {length} bytes")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(data, dtype).reshape(tuple(tensor.dims))

    def external_files(self) -> tuple[str, ...]:
        """The locations of external data that the model refers to, sorted."""
        found = {
            external_entries(t)["location"] for t in model_tensors(self.proto) if is_external(t)
        }
        return tuple(sorted(found))


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """The number of bytes that a tensor's elements take in a file."""
    elements = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (elements + 1) // 2
    return elements * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model's protobuf and check where its external data points.

    Raises ModelError when the file is missing, is not an ONNX model, or refers to data outside
    its own folder.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if file.is_dir():
            raise ModelError(f"{file} is a folder, not a model", "name the .onnx file in it")
        if not file.is_file():
            raise ModelError(f"{file} is not a regular file", "name an .onnx file")
        if size == 0:
            raise ModelError(f"{file} is empty", "export or download the model again")
        if size > PROTO_LIMIT:
            raise ModelError(
                f"{file} has {size} bytes, more than protobuf's 2 GiB",
                "save the model with external data",
            )
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{file} does not exist", "check the path of the model") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror})", "check its rights") from error
    model = Model(_parse(data, file), file, file.parent)
    check_external_data(model)
    return model


def _parse(data: bytes, file: Path) -> onnx.ModelProto:
    remedy = "export or download the model again"
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{file} is not an ONNX model (protobuf cannot parse it)", remedy
        ) from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{file} is not an ONNX model (it has no graph or no opset)", remedy)
    return proto


def check_external_data(model: Model) -> None:
    """Refuse external data that lies outside the model's folder or does not hold the tensor."""
    for tensor in model_tensors(model.proto):
        if is_external(tensor):
            problem = _external_problem(tensor, model.folder)
            if problem:
                raise ModelError(
                    f"external data of tensor {tensor.name!r}: {problem}",
                    "get the model with its weight files from a source that you trust",
                )


def _external_problem(tensor: onnx.TensorProto, folder: Path) -> str:
    keys = [entry.key for entry in tensor.external_data]
    entries = external_entries(tensor)
    location = entries.get("location", "")
    if keys.count("location") != 1 or not location:
        return f"it has {keys.count('location')} locations, not one"
    unknown = set(keys) - KNOWN_ENTRIES
    if unknown:
        return f"unknown entry {min(unknown)!r}"
    if "\\" in location or any(ord(c) < 32 for c in location):
        return f"location {location!r} has a backslash or a control character"
    if (
        Path(location).is_absolute()
        or ".." in Path(location).parts
        or ":" in location.split("/")[0]
    ):
        return f"location {location!r} leaves the model's folder"
    numbers = {key: entries.get(key, "0") for key in ("offset", "length")}
    for key, text in numbers.items():
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            return f"{key} {text!r} is not a number"
    if any(dim < 0 for dim in tensor.dims):
        return f"negative extent in {list(tensor.dims)}"
    return _range_problem(tensor, folder, location, int(numbers["offset"]), entries.get("length"))


def _range_problem(
    tensor: onnx.TensorProto, folder: Path, location: str, offset: int, length: str | None
) -> str:
    path = folder
    for part in Path(location).parts:
        path = path / part
        if path.is_symlink():
            return f"{path} is a symbolic link"
    try:
        status = path.stat()
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is not a regular file"
    try:
        needed = tensor_bytes(tensor)
    except KeyError:
        return f"element type {tensor.data_type} is unknown"
    if length is not None and int(length) != needed:
        return f"length {length} where its shape needs {needed} bytes"
    if offset + needed > status.st_size:
        return f"bytes {offset} to {offset + needed} of {path}, which has {status.st_size}"
    return ""


def serialize(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model, the same for the same model."""
    try:
        return proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError(
            "the fused model is larger than protobuf's 2 GiB",
            "save the model with external data, then fuse it",
        ) from error


def check_output(output: Path, model: Model, force: bool) -> None:
    """Refuse an output that is an input, exists already, is no file, or has no folder to be in."""
    try:
        problem = _output_problem(output, model, force)
    except OSError as error:
        problem = (f"{output} cannot be written ({error.strerror})", "choose another output")
    if problem:
        raise UsageError(*problem)


def _output_problem(output: Path, model: Model, force: bool) -> tuple[str, str] | None:
    if not output.name:
        return f"{str(output)!r} names no file", "name a file for the fused model"
    sources = [model.path] if model.path else []
    sources += [model.folder / location for location in model.external_files()]
    if output.is_dir():
        return f"{output} is a folder", "name a file for the fused model"
    if any(source.exists() and output.exists() and source.samefile(output) for source in sources):
        return f"{output} is an input of this run", "choose another output"
    if output.is_symlink() or (output.exists() and not output.is_file()):
        return f"{output} is a link or no regular file", "name the file itself"
    if output.exists() and not force:
        return f"{output} exists", "choose another output, or pass --force"
    if not output.parent.is_dir():
        return f"the folder {output.parent} does not exist", "create it first"
    if not os.access(output.parent, os.W_OK):
        return f"the folder {output.parent} is not writable", "choose another output"
    for target in copied_data(model, output).values():
        if target == output:
            return f"{output} is the name of a weight file of the model", "choose another output"
        if target.is_symlink() or (target.exists() and not target.is_file()):
            return f"the weight file {target} is a link or no regular file", "remove it first"
        if target.exists() and not force:
            return f"the weight file {target} exists", "choose an empty folder, or pass --force"
    return None


def copied_data(model: Model, output: Path) -> dict[Path, Path]:
    """The weight files that have to be copied for an output: none in the model's own folder."""
    if output.parent.resolve() == model.folder.resolve():
        return {}
    return {model.folder / place: output.parent / place for place in model.external_files()}


class Draft:
    """Files on their way: written under temporary names beside their targets, then renamed.

    Until `commit`, the targets are untouched; leaving the context without it removes the drafts.
    """

    def __init__(self, target: Path, force: bool) -> None:
        self.target = target
        self.force = force
        self.path = self._temporary(target)
        self._data: list[tuple[Path, Path]] = []
        self._made: list[Path] = []
        self._folders: list[Path] = []

    @staticmethod
    def _temporary(target: Path) -> Path:
        return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.graphfuse-tmp")

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was made and not committed; folders go when nothing else is in them."""
        for path in self._made:
            path.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def write(self, data: bytes) -> None:
        """Write the model to its temporary name and to the disk."""
        with self._create(self.path) as file:
            file.write(data)
            _sync(file)

    def copy_data(self, source: Path, target: Path) -> None:
        """Copy a weight file to a temporary name beside `target`; reflinked where that works."""
        for folder in reversed((target.parent, *target.parent.parents)):
            if not folder.exists():
                folder.mkdir()
                self._folders.append(folder)
        temporary = self._temporary(target)
        free, size = shutil.disk_usage(target.parent).free, source.stat().st_size
        if size > free:
            raise WriteError(
                f"{source} ({size} bytes) does not fit into {target.parent} ({free} bytes free)",
                "write the fused model into the folder of the original: weights stay in place",
            )
        with source.open("rb") as reader, self._create(temporary) as writer:
            _copy(reader, writer)
            _sync(writer)
        self._data.append((temporary, target))

    def _create(self, path: Path) -> Any:
        self._made.append(path)
        return path.open("xb")

    def commit(self) -> tuple[WrittenFile, ...]:
        """Move every draft to its target, the model last: that is the commit point.

        When one cannot be moved, new weight files that were moved before are removed again.
        """
        written: list[WrittenFile] = []
        for temporary, target in (*self._data, (self.path, self.target)):
            written.append(WrittenFile(str(target), temporary.stat().st_size, sha256(temporary)))
            is_new = not target.exists()
            self._move(temporary, target)
            if is_new:
                self._made.append(target)
            _sync_folder(target.parent)
        self._made.clear()
        self._folders.clear()
        return tuple(reversed(written))

    def _move(self, temporary: Path, target: Path) -> None:
        if self.force:
            temporary.replace(target)
            return
        try:
            # Unlike a rename, a link does not replace what another run has put there meanwhile.
            os.link(temporary, target)
        except FileExistsError as error:
            raise UsageError(f"{target} exists by now", "another run wrote it") from error
        except OSError:
            # A file system without hard links.
            temporary.replace(target)
        else:
            temporary.unlink()


def _copy(reader: Any, writer: Any) -> None:
    try:
        while os.copy_file_range(reader.fileno(), writer.fileno(), 2**30):
            pass
    except OSError:
        # Other file systems, older kernels: start over by ordinary reads.
        reader.seek(0)
        writer.seek(0)
        writer.truncate()
        shutil.copyfileobj(reader, writer, 2**24)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def drafted(data: bytes, output: Path, model: Model, force: bool) -> Generator[Draft, None, None]:
    """Write a model under a temporary name beside `output`; the caller checks it and commits.

    External data is referenced in place when the output is in the model's folder, else copied.
    """
    try:
        yield from _draft(data, output, model, force)
    except OSError as error:
        raise WriteError(
            f"{output} cannot be written ({error.strerror or error})",
            "free space or choose another folder; what was there is unchanged",
        ) from error


def _draft(data: bytes, output: Path, model: Model, force: bool) -> Generator[Draft, None, None]:
    with Draft(output, force) as draft:
        for source, target in copied_data(model, output).items():
            draft.copy_data(source, target)
        draft.write(data)
        yield draft


def check_written(path: Path, expected: bytes) -> None:
    """Read back what was written: the bytes that reached the disk are those that were meant."""
    if path.read_bytes() != expected:
        raise InternalError(f"{path} does not hold what was written to it")
