"""Tensors of a model's main graph exposed as outputs, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import onnx
from onnx import helper

from graphfuse.files.model_file import Model
from graphfuse.types.shapes import UNKNOWN
from graphfuse.views.analyses import main_types

CHUNK = 16
"""Sites whose tensors are exposed in one session."""

Item = TypeVar("Item")


def exposed(model: Model, names: Iterable[str]) -> Model:
    """A model that yields some tensors of its main graph as well."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    there = {value.name for value in proto.graph.output}
    types = main_types(model)
    for name in names:
        if name not in there:
            elem_type = types.get(name, UNKNOWN).elem_type
            proto.graph.output.append(helper.make_tensor_value_info(name, elem_type, None))
            there.add(name)
    return model.edited(proto)


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items in groups, each small enough to be exposed in one session."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
