"""Loading a model without its weights.

Only the graph is read. External data stays on disk, and so do the weights of a large file that are
inline: a tensor's bytes are read one tensor at a time, when a number (an epsilon, say) is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from graphfuse.errors import ChangedError, ModelError, in_one_line
from graphfuse.files import wire
from graphfuse.files.admission import check, tensor_bytes
from graphfuse.files.folder import Folder, Identity, LocationError, identity, settled
from graphfuse.files.limits import Limits
from graphfuse.files.wire import FileSource, Shrinker, Span, is_inline
from graphfuse.graph.order import in_order
from graphfuse.graph.tensors import external_entries, is_external, model_tensors
from graphfuse.records.element_types import ElementType
from graphfuse.system.descriptors import LOOKING, READING

if TYPE_CHECKING:
    from numpy.typing import NDArray

Found = TypeVar("Found")

PROTO_LIMIT = 2**31 - 1
"""Protobuf cannot hold a message of 2 GiB or more."""

LARGE = 64 * 2**20
"""Of files from this size on, inline weights are left where they are."""

LEAST_INLINE = 64 * 2**10
"""Smaller raw data is parsed with the rest."""

PIECE = 2**20
"""How much of two files is compared at a time."""

AGAIN = "export or download the model again"


@dataclass(frozen=True)
class Model:
    """A ModelProto and where its data lies.

    `path` is None for a model that was handed over in memory; its external data, if any, is then
    looked for in `folder`. `inline` has the tensors that were left in the model's own file, by the
    offset of their data; `held` reads those that whoever handed the model over has in memory, by
    the number that stands in that place. `digest` is the file's SHA-256, empty when it was not read
    as a whole. `notes` say what of the model was put right in memory: nodes that were out of order.

    The proto of a model is not changed: an edit makes another model, and what is found of one is
    kept on it.
    """

    proto: onnx.ModelProto
    path: Path | None = None
    folder: Path = field(default_factory=Path)
    limits: Limits = field(default_factory=Limits)
    inline: Mapping[int, Span] = field(default_factory=dict[int, Span])
    identity: Identity = (0, 0, 0, 0, 0)
    digest: str = ""
    is_edited: bool = False
    notes: tuple[str, ...] = ()
    held: Mapping[int, Callable[[], NDArray[Any]]] = field(
        default_factory=dict[int, "Callable[[], NDArray[Any]]"]
    )

    @property
    def file(self) -> Path | None:
        """The file that holds this very model; None for one in memory, or edited since."""
        return None if self.is_edited else self.path

    def edited(self, proto: onnx.ModelProto) -> Model:
        """A model made of this one: its data lies where this one's does."""
        model = replace(self, proto=proto, is_edited=True)
        # What the gate saw of the data files: both models are of the same ones.
        model.__dict__["files"] = self.files
        return model

    def once(self, analysis: Callable[[Model], Found]) -> Found:
        """What an analysis finds of this model; it looks but once."""
        if analysis not in self._found:
            self._found[analysis] = analysis(self)
        return self._found[analysis]

    @cached_property
    def _found(self) -> dict[Callable[[Model], Any], Any]:
        return {}

    @cached_property
    def files(self) -> Folder:
        """The folder, as what external data may be in."""
        return Folder(self.folder, self.path, self.limits.allow_links)

    def read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """The values of one tensor, from its file when it is not in the proto."""
        try:
            if not is_external(tensor):
                return onnx.numpy_helper.to_array(tensor)
            return self._read_external(tensor)
        except (ValueError, KeyError, TypeError, OSError, LocationError) as error:
            text = in_one_line(error)
            raise ModelError(
                f"tensor {tensor.name!r} cannot be read ({type(error).__name__}: {text})",
                "export or fetch the model with its weight files again",
            ) from error

    def same_bytes(self, tensor: onnx.TensorProto, other: Model, its: onnx.TensorProto) -> bool:
        """Whether two tensors that lie in files have the same bytes; False when one does not.

        They are read piece by piece. Raises ModelError when a file cannot be read.
        """
        if not (is_external(tensor) and is_external(its)):
            return False
        left = tensor_bytes(tensor)
        if left != tensor_bytes(its):
            return False
        try:
            with self._opened(tensor) as one, other._opened(its) as two:
                while left > 0:
                    pieces = [file.read(min(left, PIECE)) for file in (one, two)]
                    if pieces[0] != pieces[1] or not pieces[0]:
                        return False
                    left -= len(pieces[0])
        except (ValueError, KeyError, OSError, LocationError):
            # Reading the values says what is wrong, and with which of them.
            return False
        return True

    def _opened(self, tensor: onnx.TensorProto) -> BinaryIO:
        """The file that a tensor's data is in, at its first byte."""
        entries = external_entries(tensor)
        if is_inline(tensor):
            descriptor = os.open(self.folder / entries["location"], READING)
            if identity(os.fstat(descriptor)) != self.identity:
                os.close(descriptor)
                raise ChangedError(self.path)
        else:
            descriptor = self.files.open(entries["location"])
        file = os.fdopen(descriptor, "rb")
        file.seek(int(entries.get("offset", "0")))
        return file

    def _read_external(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        entries = external_entries(tensor)
        if self.held and is_inline(tensor):
            return self.held[int(entries["offset"])]().reshape(tuple(tensor.dims))
        length = tensor_bytes(tensor)
        with self._opened(tensor) as file:
            data = file.read(length)
        if len(data) != length:
            raise ValueError(f"{entries['location']} has {len(data)} of its {length} bytes")
        if ElementType(tensor.data_type).bits < 8:
            return onnx.numpy_helper.to_array(
                onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(data, dtype).reshape(tuple(tensor.dims))

    def external_files(self) -> tuple[str, ...]:
        """The locations of external data that the model refers to, sorted."""
        return external_locations(self.proto)

    def check_same(self) -> None:
        """Raise ChangedError when a file of the model is another one than was loaded.

        No data is read. What a program changes in a file that it has mapped shows when the system
        writes it back, which may be later.
        """
        if self.path is not None:
            try:
                now = identity(self.path.stat())
            except OSError as error:
                raise ChangedError(self.path, "vanished") from error
            if now != self.identity:
                raise ChangedError(self.path)
        self.files.check_same()


def external_locations(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The locations of external data that a model refers to, sorted; its own file is none."""
    tensors = (t for t in model_tensors(proto) if is_external(t) and not is_inline(t))
    return tuple(sorted({external_entries(tensor)["location"] for tensor in tensors}))


def load(path: str | os.PathLike[str], limits: Limits | None = None) -> Model:
    """Read a model's graph and let it through the gate.

    Raises ModelError when the file is missing, is not an ONNX model, is over a budget of `limits`,
    or refers to data that is not in its own folder.
    """
    file = Path(path)
    limits = limits or Limits()
    with _readable(file) as descriptor:
        status = settled(lambda: os.fstat(descriptor))
        size, first = status.st_size, identity(status)
        data, inline = _graph_bytes(file, descriptor, size, limits)
    if len(data) > limits.proto_bytes:
        raise ModelError(
            f"{file} has {len(data)} bytes of protobuf, more than {limits.proto_bytes}",
            "raise --max-proto-gib if you trust the model, or save it with external data",
        )
    digest = "" if inline or len(data) != size else hashlib.sha256(data).hexdigest()
    proto = _parse(data, file)
    model = Model(proto, file, file.parent, limits, inline, first, digest)
    check(model.proto, model.files, limits)
    return _in_order(model)


@contextlib.contextmanager
def unchanged(*models: Model, at_end: bool = True) -> Generator[None, None, None]:
    """For what is found of models: raise ChangedError when a file of theirs changes in the block.

    What is found of data that changes is no finding, and its errors are none of the models'. With
    `at_end` False only errors are looked at.
    """
    try:
        yield
    except Exception:
        for model in models:
            model.check_same()
        raise
    for model in models if at_end else ():
        model.check_same()


def wrap(
    proto: onnx.ModelProto,
    folder: Path,
    limits: Limits | None = None,
    held: Mapping[int, Callable[[], NDArray[Any]]] | None = None,
) -> Model:
    """A model that was handed over in memory, through the gate; `held` as in Model."""
    limits = limits or Limits()
    model = Model(proto, None, folder, limits, held=held or {})
    check(proto, model.files, limits)
    return _in_order(model)


def _in_order(model: Model) -> Model:
    """The model with its nodes in topological order, which onnxruntime does not ask of a file.

    Everything downstream may then rely on it. The file, if any, still holds this very model.
    """
    proto, moved = in_order(model.proto)
    if not moved:
        return model
    said = (
        f"nodes of the model are out of order: {moved} {'was' if moved == 1 else 'were'} moved up, "
        "before what reads them, and the others keep their order"
    )
    found = replace(model, proto=proto, notes=(said,))
    found.__dict__["files"] = model.files
    return found


@contextlib.contextmanager
def _readable(file: Path) -> Generator[int, None, None]:
    """A descriptor of a regular file that holds something."""
    try:
        if file.is_dir():
            raise ModelError(f"{file} is a folder, not a model", "name the .onnx file in it")
        if not stat.S_ISREG(file.stat().st_mode):
            raise ModelError(f"{file} is not a regular file", "name an .onnx file")
        descriptor = os.open(file, LOOKING)
    except FileNotFoundError as error:
        raise ModelError(f"{file} does not exist", "check the path of the model") from error
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{file} cannot be read ({text})", "check its path and rights") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{file} is not a regular file", "name an .onnx file")
        if status.st_size == 0:
            raise ModelError(f"{file} is empty", AGAIN)
        yield descriptor
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror})", "check its disk") from error
    finally:
        os.close(descriptor)


def _graph_bytes(
    file: Path, descriptor: int, size: int, limits: Limits
) -> tuple[bytes, Mapping[int, Span]]:
    """The bytes to parse, and the tensors that were left out of them."""
    beyond = size > PROTO_LIMIT
    # onnxruntime does not follow a link out of the folder for data, only for the model.
    if size >= LARGE and (beyond or (is_utf8(Path(file.name)) and not file.is_symlink())):
        if not is_utf8(Path(file.name)):
            raise ModelError(
                f"{file} has more than 2 GiB and a name that is not UTF-8", "rename the file"
            )
        limit = min(limits.proto_bytes, PROTO_LIMIT)
        shrinker = Shrinker(FileSource(descriptor), file, LEAST_INLINE, limit)
        data = shrinker.shrunk(size)
        return data, shrinker.tensors
    with os.fdopen(os.dup(descriptor), "rb") as opened:
        return opened.read(), {}


def is_utf8(path: Path) -> bool:
    """Whether a name of the file system is UTF-8: protobuf and onnxruntime take no others."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(data: bytes, file: Path) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        why = wire.why_not(data)
        raise ModelError(f"{file} is not an ONNX model ({why})", AGAIN) from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{file} is not an ONNX model (it has no graph or no opset)", AGAIN)
    return proto


def serialize(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model, the same for the same model."""
    try:
        return proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError(
            "the fused model is larger than protobuf's 2 GiB",
            "save the model with external data, then fuse it",
        ) from error


def materialized(model: Model, proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the tensors inline that were left in the file of `model`.

    What is too large for protobuf is given back as it is.
    """
    pieces = wire.expanded(serialize(proto), {key: (span,) for key, span in model.inline.items()})
    if not model.inline or wire.size_of(pieces) > PROTO_LIMIT:
        return proto
    whole = bytearray()
    for piece in pieces:
        if isinstance(piece, bytes):
            whole += piece
            continue
        with piece.path.open("rb") as file:
            file.seek(piece.offset)
            whole += file.read(piece.length)
    model.check_same()
    return onnx.ModelProto.FromString(bytes(whole))
