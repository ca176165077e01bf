"""Names of the graphs of a model that an edit does not change."""

from __future__ import annotations

from typing import cast

from graphfuse.graph.scopes import Scope
from graphfuse.records import ScopeRef

ScopeKey = tuple[object, ...]


def scope_keys(found: list[Scope]) -> dict[ScopeRef, ScopeKey]:
    """A name for each graph that an edit does not change: by what the node around it computes."""
    keys: dict[ScopeRef, ScopeKey] = {}
    for scope in found:
        function = scope.ref.function
        if scope.parent is None and function is not None:
            definition = scope.functions[function]
            keys[scope.ref] = ("function", definition.domain, definition.name, definition.overload)
        elif scope.parent is None:
            keys[scope.ref] = ("main",)
        else:
            index, name, number = scope.ref.steps[-1]
            outputs = tuple(scope.parent.graph.node[index].output)
            keys[scope.ref] = (*keys[scope.parent.ref], outputs, name, number)
    return keys


def scope_text(key: ScopeKey) -> str:
    """A graph in words; '' for the main graph."""
    if key[0] == "function":
        domain, name, _ = key[1:4]
        words = [f"function {domain}::{name}"]
        rest = key[4:]
    else:
        words, rest = [], key[1:]
    for outputs, attribute, number in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        names = ", ".join(map(str, cast("tuple[str, ...]", outputs)))
        words.append(f"{attribute} {number} of {names}" if number else f"{attribute} of {names}")
    return ", ".join(words)
