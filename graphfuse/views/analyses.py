"""What is found of a model as a whole, once: its graphs, and the types of their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from graphfuse.files.model_file import Model
from graphfuse.graph.scopes import Scope, scopes
from graphfuse.records import MAIN, TensorType
from graphfuse.types.inference import infer_types
from graphfuse.types.scope_types import TypesByScope, infer_scopes


def scopes_of(model: Model) -> list[Scope]:
    """Every graph of a model, outer ones before inner ones, callers before what they call."""
    return model.once(_scopes)


def types_of(model: Model) -> TypesByScope:
    """The inferred types of the tensors of every graph, by the graph and the tensor's name."""
    return model.once(_types)


def main_types(model: Model) -> Mapping[str, TensorType]:
    """The inferred types of the main graph's tensors, with calls as they stand there."""
    return model.once(_main_types)


def _scopes(model: Model) -> list[Scope]:
    return scopes(model.proto)


def _types(model: Model) -> TypesByScope:
    return infer_scopes(model.proto, scopes_of(model))


def _main_types(model: Model) -> Mapping[str, TensorType]:
    # Where no call is seen through, inference has looked at the main graph as it stands.
    if any(scope.calls for scope in scopes_of(model)[0].tree()):
        return infer_types(model.proto)
    return types_of(model)[MAIN]
