"""An onnx_ir.Model as a ModelProto, its weights where they are.

Large tensors, and all that lie in files, are left out: the ModelProto has a number in their place,
by which they are read when somebody asks for their values. The model is not changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from graphfuse.errors import ModelError, ProviderError, UsageError, in_one_line
from graphfuse.files.admission import tensor_bytes
from graphfuse.files.model_file import LEAST_INLINE
from graphfuse.files.weights import ALIGNMENT
from graphfuse.files.wire import TOKEN, is_inline
from graphfuse.graph.tensors import external_entries, is_external, model_tensors
from graphfuse.records.element_types import ElementType
from graphfuse.system import machine

try:
    import onnx_ir as ir
except ImportError as missing:
    raise ProviderError(
        f"onnx_ir cannot be imported ({missing})", "install it with `pip install 'graphfuse[ir]'`"
    ) from missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLACE = "memory"
"""The location of what is held; no file is opened by that name."""

DATA = "weights"
"""The file of the weights, where a model is run."""


@dataclass(frozen=True)
class Exported:
    """A model's protobuf, and the tensors that it has numbers for."""

    proto: onnx.ModelProto
    tensors: Sequence[Any]

    @property
    def readers(self) -> Mapping[int, Callable[[], NDArray[Any]]]:
        """What reads the tensors that were left out, by their numbers."""
        return {number: partial(_values, tensor) for number, tensor in enumerate(self.tensors)}

    def written(self, folder: Path) -> onnx.ModelProto:
        """The model with the tensors that were left out in a file of a folder.

        One tensor at a time is in memory.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        place = 0
        with (folder / DATA).open("wb") as file:
            for tensor in filter(is_inline, model_tensors(proto)):
                data = _bytes(self.tensors[_number(tensor)])
                file.write(bytes(place - file.tell()))
                file.write(data)
                _point(tensor, location=DATA, offset=place, length=len(data))
                # A tensor without elements has a place of its own as well.
                place += max(len(data), 1) + -max(len(data), 1) % ALIGNMENT
            file.write(bytes(place - file.tell()))
        return proto

    def numbered(self, proto: onnx.ModelProto, written: onnx.ModelProto) -> onnx.ModelProto:
        """What became of a model that was written, with numbers for its tensors again."""
        pairs = zip(model_tensors(written), model_tensors(self.proto), strict=True)
        numbers = {_place(one): _number(other) for one, other in pairs if is_inline(other)}
        for tensor in filter(is_external, model_tensors(proto)):
            _point(tensor, location=PLACE, offset=numbers[_place(tensor)], checksum=TOKEN)
        return proto

    def complete(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """A model with the values of all its tensors."""
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for tensor in filter(is_inline, model_tensors(copy)):
            data = _bytes(self.tensors[_number(tensor)])
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = data
        return copy


def exported(model: ir.Model) -> Exported:
    """The protobuf of a model, without its large tensors.

    Raises UsageError for one that ONNX cannot say: its names are not unique, or it is incomplete.
    """
    _check_names(model)
    holding = _Holding()
    try:
        with holding.placeholders(model):
            proto = ir.serde.serialize_model(model)
    except UsageError:
        raise
    except Exception as error:
        # onnx_ir and protobuf raise anything on a model that is incomplete, and a name that is no
        # UTF-8 is the model's.
        if not _is_name(error):
            machine.check(error, "exporting the onnx_ir.Model")
        text = in_one_line(error)
        raise UsageError(
            f"the onnx_ir.Model cannot be serialized ({type(error).__name__}: {text})",
            "call onnx_ir.to_proto on it alone first",
        ) from error
    for tensor in filter(is_external, model_tensors(proto)):
        entries = external_entries(tensor)
        if entries["location"] == TOKEN:
            _point(tensor, location=PLACE, offset=int(entries["offset"]), checksum=TOKEN)
    return Exported(proto, tuple(holding.tensors))


def _is_name(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, UnicodeError):
        error = error.__cause__
    return error is not None


class _Holding:
    """The tensors that are left out of a protobuf."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []

    @contextlib.contextmanager
    def placeholders(self, model: ir.Model) -> Generator[None, None, None]:
        """For the block, a model whose large tensors are none; afterwards it is as it was."""
        values: list[tuple[ir.Value, Any]] = []
        attributes: list[tuple[ir.Node, ir.Attr]] = []
        try:
            for graph in _graphs(model):
                for value in graph.initializers.values():
                    held = self._placeholder(value.const_value, value)
                    if held is not None:
                        values.append((value, value.const_value))
                        value.const_value = held
                for node in graph:
                    for attribute in _tensors(node):
                        held = self._placeholder(attribute.as_tensor(), None)
                        if held is not None:
                            attributes.append((node, attribute))
                            node.attributes[attribute.name] = ir.AttrTensor(
                                attribute.name, held, doc_string=attribute.doc_string
                            )
            yield
        finally:
            for value, tensor in values:
                value.const_value = tensor
            for node, attribute in attributes:
                node.attributes[attribute.name] = attribute

    def _placeholder(self, tensor: Any, value: ir.Value | None) -> ir.ExternalTensor | None:
        """What stands for a tensor while the model is serialized; None for a small one."""
        if tensor is not None and not _is_held(tensor):
            return None
        # Of an initializer without values, shape and type can be enough.
        said: Any = value if tensor is None else tensor
        shape, dtype, name = said.shape, said.dtype, said.name
        if shape is None or dtype is None or not shape.is_static():
            raise UsageError(
                f"initializer {name!r} has no value, and no shape and type either",
                "give it a const_value, or its shape and dtype",
            )
        self.tensors.append(tensor)
        return ir.ExternalTensor(
            TOKEN,
            len(self.tensors) - 1,
            None,
            dtype,
            shape=ir.Shape(shape.numpy()),
            name=(value.name if value is not None else name) or "",
            doc_string=getattr(tensor, "doc_string", None),
            metadata_props=dict(getattr(tensor, "metadata_props", None) or {}),
        )


def _is_held(tensor: Any) -> bool:
    """Whether a tensor is left out of the protobuf: it is large, or in a file."""
    if isinstance(tensor, ir.ExternalTensor):
        return True
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes > LEAST_INLINE


def _graphs(model: ir.Model) -> Iterable[ir.Graph]:
    """Every graph of a model, bodies and functions included."""
    pending = [model.graph, *(function.graph for function in model.functions.values())]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph:
            pending += bodies(node)


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs in a node's attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def _tensors(node: ir.Node) -> list[ir.Attr]:
    every = list(node.attributes.values())
    return [each for each in every if each.type == ir.AttributeType.TENSOR and not each.is_ref()]


def _check_names(model: ir.Model) -> None:
    """Raise UsageError where values that are two have one name: ONNX knows names alone."""
    pending = [(function.graph, dict[str, ir.Value]()) for function in model.functions.values()]
    pending.append((model.graph, {}))
    while pending:
        graph, outer = pending.pop()
        own: dict[str, ir.Value] = {}
        made = (value for node in graph for value in node.outputs if value.name)
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            if not value.name:
                raise _misnamed(f"an input of graph {graph.name!r} has no name")
            if own.setdefault(value.name, value) is not value:
                raise _misnamed(f"two values are named {value.name!r}")
        known = {**outer, **own}
        reads = (value for node in graph for value in node.inputs if value is not None)
        for value in (*reads, *graph.outputs):
            found = known.get(value.name or "")
            if found is None:
                raise UsageError(
                    f"graph {graph.name!r} reads {value.name!r}, which is in no graph around it",
                    "connect its readers to a value of the model, or make it an input",
                )
            if found is not value:
                raise _misnamed(f"two values are named {value.name!r}")
        pending += [(body, known) for node in graph for body in bodies(node)]


def _misnamed(what: str) -> UsageError:
    return UsageError(
        f"{what} in the onnx_ir.Model", "run onnx_ir.passes.common.NameFixPass on it first"
    )


def _number(tensor: onnx.TensorProto) -> int:
    return int(external_entries(tensor)["offset"])


def _place(tensor: onnx.TensorProto) -> int:
    return int(external_entries(tensor).get("offset", "0"))


def _point(tensor: onnx.TensorProto, **entries: str | int) -> None:
    """Let a tensor's external data be these entries."""
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def _values(tensor: Any) -> NDArray[Any]:
    """The values of a tensor; ValueError for one that has none."""
    if tensor is None:
        raise ValueError("it has no const_value")
    if ElementType(tensor.dtype.value).bits < 8:
        proto = onnx.TensorProto(data_type=tensor.dtype.value, dims=tensor.shape.numpy())
        proto.raw_data = _bytes(tensor)
        return onnx.numpy_helper.to_array(proto)
    try:
        return tensor.numpy()
    except OSError:
        # Of the file that the tensor is in.
        raise
    except Exception as error:
        # A tensor is anything that can be asked for its array.
        machine.check(error, f"reading tensor {tensor.name!r}")
        raise ValueError(in_one_line(error)) from error


def _bytes(tensor: Any) -> bytes:
    """The bytes of a tensor. Raises ModelError for one that has none."""
    name = getattr(tensor, "name", None)
    try:
        data = bytes(tensor.tobytes())
        proto = onnx.TensorProto(data_type=tensor.dtype.value, dims=tensor.shape.numpy())
        if len(data) != tensor_bytes(proto):
            raise ValueError(f"it has {len(data)} bytes where its shape needs others")
    except Exception as error:
        if not isinstance(error, OSError):
            machine.check(error, f"reading tensor {name!r}")
        raise ModelError(
            f"tensor {name!r} cannot be read ({type(error).__name__}: {in_one_line(error)})",
            "give the initializer a const_value that can be read",
        ) from error
    return data
