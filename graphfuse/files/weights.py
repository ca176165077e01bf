"""Where the weights of a fused model go: they stay, are copied or cloned, or go into the model.

Nothing is ever appended to a file or put in place of one. Data that is new, or whose name is taken,
gets a name with its content's hash.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from graphfuse.errors import ModelError, UsageError, WriteError
from graphfuse.files.access import Access, access_of, common
from graphfuse.files.admission import tensor_bytes
from graphfuse.files.copying import check_space, same_content, stored_bytes
from graphfuse.files.folder import LocationError
from graphfuse.files.model_file import PROTO_LIMIT, Model, external_locations, serialize
from graphfuse.files.verbatim import respelt
from graphfuse.files.wire import TOKEN, Piece, Span, expanded, header, is_inline, size_of
from graphfuse.files.writing import Draft
from graphfuse.graph.tensors import external_entries, is_external, model_tensors
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import Output, Weights

ALIGNMENT = 4096
"""Of tensors in a data file: what a page is, so that they can be mapped."""

NEW_INLINE = 2**20
"""New weights of up to this many bytes are part of the model."""


def check_output(target: Output, model: Model) -> None:
    """Refuse an output that is an input, exists already, is no file, or has no folder to be in."""
    try:
        problem = _output_problem(target, model) or _data_problem(target, model)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        problem = (f"{target.path} cannot be written ({text})", "choose another output")
    if problem:
        raise UsageError(*problem)


def _output_problem(target: Output, model: Model) -> tuple[str, str] | None:
    output = target.path
    if not output.name:
        return f"{str(output)!r} names no file", "name a file for the fused model"
    if output.is_dir():
        return f"{output} is a folder", "name a file for the fused model"
    if _same(output, model.path) and not target.in_place:
        return f"{output} is an input of this run", "choose another output, or pass --in-place"
    if any(_same(output, model.folder / place) for place in model.external_files()):
        return f"{output} is an input of this run", "choose another output"
    if output.is_symlink() or (output.exists() and not output.is_file()):
        return f"{output} is a link or no regular file", "name the file itself"
    if output.exists() and not (target.force or target.in_place):
        return f"{output} exists", "choose another output, or pass --force"
    if not output.parent.is_dir():
        return f"the folder {output.parent} does not exist", "create it first"
    if not os.access(output.parent, os.W_OK):
        return f"the folder {output.parent} is not writable", "choose another output"
    return None


def _data_problem(target: Output, model: Model) -> tuple[str, str] | None:
    if _in_folder_of(model, target.path) or target.weights == Weights.EMBED:
        return None
    places = model.external_files()
    if places and target.weights == Weights.KEEP:
        return "weights can be kept in the model's own folder only", "pass --weights copy"
    for place in places:
        copy = target.path.parent / place
        if copy == target.path:
            return f"{copy} is the name of a weight file of the model", "choose another output"
        if copy.is_symlink() or (copy.exists() and not copy.is_file()):
            return f"the weight file {copy} is a link or no regular file", "remove it first"
        if copy.exists() and not target.force:
            size = copy.stat().st_size
            if size != model.files.status(place).st_size:
                return f"the weight file {copy} exists", "choose an empty folder, or pass --force"
    return None


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and one.exists() and other.exists() and one.samefile(other)


def _in_folder_of(model: Model, output: Path) -> bool:
    return output.parent.resolve() == model.folder.resolve()


@contextlib.contextmanager
def drafted(
    proto: onnx.ModelProto | None, model: Model, target: Output, progress: Progress = SILENT
) -> Generator[tuple[Draft, list[str]], None, None]:
    """Draft a model and its weights; the caller commits. Also gives what is to be said of it.

    `proto` is what became of `model`, None when nothing changed: it is then written as it is.
    """
    force = target.force or target.in_place
    try:
        with ExitStack() as stack, Draft(target.path, force, progress) as draft:
            layout = _Layout(model, target, draft, stack)
            layout.write(proto)
            yield draft, draft.notes
    except (OSError, LocationError) as error:
        text = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise WriteError(
            f"{target.path} cannot be written ({text})",
            "free space or choose another folder; what was there is unchanged",
        ) from error


@dataclass
class _Layout:
    """One output on its way: which data files it gets, and what is inline."""

    model: Model
    target: Output
    draft: Draft
    stack: ExitStack
    bodies: dict[int, tuple[Piece, ...]] = field(default_factory=dict[int, tuple[Piece, ...]])

    def write(self, proto: onnx.ModelProto | None) -> None:
        """Draft the data files, then the model that refers to them."""
        model, in_folder = self.model, _in_folder_of(self.model, self.target.path)
        embeds = self.target.weights == Weights.EMBED
        self._check_room()
        moved: dict[str, str] = {}
        if not embeds:
            moved = {place: self._placed(place, in_folder) for place in model.external_files()}
        renamed = any(place != name for place, name in moved.items())
        if proto is None and not renamed and not (embeds and model.external_files()):
            model.check_same()
            self.draft.write([Span(self._path_of_model, 0, model.identity[2])], self._access)
            return
        result = onnx.ModelProto()
        result.CopyFrom(model.proto if proto is None else proto)
        for tensor in _external(result) if renamed else ():
            _set(tensor, "location", moved[external_entries(tensor)["location"]])
        if embeds:
            self._embed(result)
        self._spill_new(result)
        self.bodies |= {key: (span,) for key, span in model.inline.items()}
        pieces = expanded(self._spelt(serialize(result)), self.bodies)
        if size_of(pieces) > PROTO_LIMIT:
            self._split(result, size_of(pieces), in_folder)
            pieces = [serialize(result)]
        if model.inline:
            model.check_same()
        self.draft.write(pieces, self._access)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the output."""
        return self.draft.notes

    @cached_property
    def _access(self) -> Access | None:
        """The access to what is made of the model and its weights; None for one in memory."""
        if self.model.path is None:
            return None
        files = self.model.files
        places = (files.real_path(place) for place in self.model.external_files())
        return common(access_of(path) for path in (self.model.path, *places))

    def _spelt(self, data: bytes) -> bytes:
        """A model's bytes; parts that nothing changed as their file has them.

        Of large files the inline tensors are spelt as they were, and nothing else is.
        """
        model = self.model
        if model.path is None or model.inline or self.bodies:
            return data
        model.check_same()
        original = model.path.read_bytes()
        # Nearly every file is as protobuf writes it.
        return data if serialize(model.proto) == original else respelt(data, original)

    @property
    def _path_of_model(self) -> Path:
        assert self.model.path is not None
        return self.model.path

    def _check_room(self) -> None:
        """Whether the disk has room, as far as that is known before."""
        needed = 0 if self.model.path is None else stored_bytes(self.model.path)
        if self.target.weights in (Weights.COPY, Weights.EMBED):
            # In the other ways blocks may be shared; what cannot be is checked when it is copied.
            files = self.model.files
            places = self.model.external_files()
            needed += sum(stored_bytes(files.real_path(place)) for place in places)
        check_space(self.target.path.parent, needed, "the fused model")

    def _placed(self, place: str, in_folder: bool) -> str:
        """Where a data file of the model is for the output: there, or copied."""
        files = self.model.files
        linked = files.is_linked(place)
        if in_folder and self.target.weights in ("auto", "keep") and not linked:
            return place
        descriptor = files.open(place)
        self.stack.callback(os.close, descriptor)
        folder = self.target.path.parent
        wanted = folder / place
        taken = in_folder
        if not in_folder and wanted.exists():
            if self.draft.relies_on(wanted, descriptor):
                self.notes.append(f"{wanted} is there already, with the same content")
                return place
            if not self.target.force and not same_content(descriptor, wanted):
                raise UsageError(
                    f"the weight file {wanted} exists", "choose an empty folder, or pass --force"
                )
            # Another content, or another run's that lives and may yet take it away.
            taken = True
        access = access_of(descriptor)
        shares = not taken and self.target.weights != "copy"
        if shares and self.draft.clone(descriptor, wanted, access):
            return place
        if self.target.weights == Weights.REFLINK:
            raise WriteError(
                f"{wanted} cannot share the blocks of the original", "pass --weights copy"
            )
        check_space(folder, stored_bytes(descriptor), str(wanted))
        whole = Span(files.path / place, 0, os.fstat(descriptor).st_size, descriptor)
        named = self.draft.add([whole], wanted, taken, access)
        if named != wanted:
            self.notes.append(f"the weights of {place} are copied to {named.name}")
        return named.relative_to(folder).as_posix()

    def _embed(self, proto: onnx.ModelProto) -> None:
        """Let external tensors be inline: they are expanded as those are that always were."""
        opened: dict[str, int] = {}
        for number, tensor in enumerate(_external(proto), start=1):
            entries = external_entries(tensor)
            place = entries["location"]
            if place not in opened:
                opened[place] = self.model.files.open(place)
                self.stack.callback(os.close, opened[place])
            path, offset = self.model.folder / place, int(entries.get("offset", "0"))
            span = Span(path, offset, tensor_bytes(tensor), opened[place])
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            body = tensor.SerializeToString()
            self.bodies[-number] = (body, header(9, span.length), span)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            _set(tensor, "offset", str(-number))
            _set(tensor, "checksum", TOKEN)

    def _spill_new(self, proto: onnx.ModelProto) -> None:
        """Put large new weights into a file of their own, where the others are in files too."""
        if not external_locations(proto):
            return
        known = {tensor.name for tensor in self.model.proto.graph.initializer}
        new = [t for t in proto.graph.initializer if t.name not in known]
        large = [t for t in new if len(t.raw_data) > NEW_INLINE]
        if large:
            place = self._data_file([(t, (t.raw_data,)) for t in large])
            self.notes.append(f"new weights are in {place}")

    def _split(self, proto: onnx.ModelProto, size: int, in_folder: bool) -> None:
        """Put the weights that were inline into a file: the model would be too large."""
        tensors = [tensor for tensor in model_tensors(proto) if is_inline(tensor)]
        why = f"{size:,} bytes are more than protobuf's 2 GiB"
        if self.target.weights == Weights.EMBED or not tensors:
            raise ModelError(f"the fused model cannot be one file: {why}", "pass --weights copy")
        if self.target.weights == Weights.KEEP and in_folder and not self.target.in_place:
            for tensor in tensors:
                _unset(tensor, "checksum")
            self.notes.append(
                f"{why}: the weights stay in {self._path_of_model.name}, which the fused model "
                "needs beside it"
            )
            return
        self.model.check_same()
        parts: list[tuple[onnx.TensorProto, tuple[Piece, ...]]] = []
        for tensor in tensors:
            entries = external_entries(tensor)
            offset, length = int(entries["offset"]), int(entries["length"])
            span = Span(self._path_of_model, offset, length)
            parts.append((tensor, (span,)))
        self.notes.append(f"{why}: the weights that were inline are in {self._data_file(parts)}")

    def _data_file(self, parts: list[tuple[onnx.TensorProto, tuple[Piece, ...]]]) -> str:
        """A new data file, named by content; the tensors then refer to it. Gives its name."""
        pieces: list[Piece] = []
        offset, places = 0, list[int]()
        for _, body in parts:
            padding = -offset % ALIGNMENT
            pieces += [bytes(padding), *body]
            places.append(offset + padding)
            offset += padding + size_of(body)
        output = self.target.path
        wanted = output.with_name(f"{output.stem}.onnx_data")
        target = self.draft.add(pieces, wanted, True, self._access)
        for (tensor, body), place in zip(parts, places, strict=True):
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entries = {"location": target.name, "offset": place, "length": size_of(body)}
            for key, value in entries.items():
                _set(tensor, key, str(value))
        return target.name


def _external(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in model_tensors(proto) if is_external(t) and not is_inline(t)]


def _set(tensor: onnx.TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def _unset(tensor: onnx.TensorProto, key: str) -> None:
    kept = [entry for entry in tensor.external_data if entry.key != key]
    copies = onnx.TensorProto(external_data=kept).external_data
    del tensor.external_data[:]
    tensor.external_data.extend(copies)


def has_external(model: onnx.ModelProto) -> bool:
    """Whether a model needs other files: one that does not has no place, and needs none."""
    return any(map(is_external, model_tensors(model)))


def without_links(model: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, Path]:
    """A model whose data files are links (the Hugging Face cache), as one that names the files.

    onnxruntime takes no link out of the folder for a model that it gets as bytes. Gives the model
    and the folder that its locations start from.
    """
    places = external_locations(model)
    if not any((folder / place).is_symlink() for place in places):
        return model, folder
    real = {place: os.path.realpath(folder / place) for place in places}
    holder = os.path.commonpath([str(Path(path).parent) for path in real.values()])
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in _external(copy):
        _set(
            tensor, "location", os.path.relpath(real[external_entries(tensor)["location"]], holder)
        )
    return copy, Path(holder)


def as_file(model: onnx.ModelProto, folder: Path, scratch: Path) -> Path | None:
    """A model that has external data as a file in `scratch`, with links to the data in `folder`.

    None for a model without external data, which needs no place.
    """
    tensors = [tensor for tensor in model_tensors(model) if is_external(tensor)]
    if not tensors:
        return None
    # Among them is the model's own file, where that holds weights that were left in it.
    for place in sorted({external_entries(tensor)["location"] for tensor in tensors}):
        link = scratch / place
        link.parent.mkdir(parents=True, exist_ok=True)
        data = (folder / place).resolve()
        try:
            link.symlink_to(data)
        except OSError:
            # Windows lets few users make symbolic links.
            link.hardlink_to(data)
    names = (f"{number}.onnx" for number in itertools.count())
    path = next(scratch / name for name in names if not os.path.lexists(scratch / name))
    path.write_bytes(serialize(model))
    return path
