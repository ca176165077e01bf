"""The operands of a fused node that are not there yet: absent vectors, and expressions of weights.

An expression of small constants is computed here, and becomes one initializer. Of others (large
ones, what the model computes or is handed) it becomes a few nodes on the weights themselves, which
runtimes fold when they load the model. Arithmetic is in float64 and rounds once, to the type of the
norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from graphfuse.files.model_file import Model
from graphfuse.graph.nodes import constant_value
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.scopes import find
from graphfuse.graph.tensors import DEFAULT_DOMAINS, fresh_name, holds, value_names
from graphfuse.records import Expression, Factor, NormKind, Parameter, ScopeRef, Site, Vector
from graphfuse.records.element_types import FLOAT_TYPES, ElementType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Constant = Callable[[ScopeRef, str], NDArray[Any] | None]

LARGEST_FOLDED = 2**20
"""Elements of a scale or bias that is computed here; the constants that it is made of have no more.
A larger one would make the file grow by what it holds already."""

MARK = "graphfuse_"
"""Part of the name of every tensor that graphfuse adds."""


# Whether a Dropout drops is not looked at here.
SAME_NUMBERS = having(Trait.KEEPS | Trait.RESHAPES) - {"Dropout"}


class Constants:
    """The small constants of a model's graphs, read when they are asked for."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[ScopeRef, Mapping[str, TensorProto]] = {}

    def value(self, scope: ScopeRef, name: str) -> NDArray[Any] | None:
        """A constant as a graph sees it, its own or one of the graphs around it."""
        steps = scope.steps
        for count in range(len(steps), -1, -1):
            found = self._of(ScopeRef(scope.function, steps[:count])).get(name)
            if found is not None:
                small = found.data_type in FLOAT_TYPES and prod(found.dims) <= LARGEST_FOLDED
                return self._model.read(found) if small else None
        return None

    def _of(self, scope: ScopeRef) -> Mapping[str, TensorProto]:
        if scope not in self._known:
            graph = find(self._model.proto, scope)
            known: dict[str, TensorProto] = {}
            if isinstance(graph, GraphProto):
                known.update((tensor.name, tensor) for tensor in graph.initializer)
            for name in value_names(graph.input):
                # An input may override its initializer.
                known.pop(name, None)
            for node in graph.node:
                if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
                    held = constant_value(node)
                    known.update((n, held) for n in node.output[:1] if held is not None)
                elif node.op_type in SAME_NUMBERS and node.domain in DEFAULT_DOMAINS:
                    # The same numbers in the same order: their shape is a factor's to say.
                    held = known.get(node.input[0])
                    known.update((n, held) for n in node.output if held is not None)
            self._known[scope] = known
        return self._known[scope]


class Operands:
    """Names the operands of planned fusions, and collects what has to be added for them."""

    def __init__(self, taken: set[str], constant: Constant) -> None:
        """`taken` are the names of the model's tensors; what is named here is added to it.

        `constant` gives the value of a small constant, as a graph of the model has it, or None.
        """
        self._taken, self._constant = taken, constant
        self._vectors: dict[tuple[int, tuple[int, ...], bytes], Vector] = {}

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """The shared vectors asked for so far."""
        return tuple(self._vectors.values())

    def name(self, site: Site, role: str, parameter: Parameter, prelude: list[NodeProto]) -> str:
        """The tensor that a fused node reads as its scale or bias; adds to `prelude` on the way."""
        if isinstance(parameter, str):
            return parameter
        absent = 1.0 if role == "scale" else 0.0
        if parameter is None and site.scope.function is None:
            return self._vector(site, absent)
        expression = parameter or Expression(((absent, ()),))
        value = self._computed(site, expression)
        nodes = self._held(site, role, value) if value is not None else None
        if nodes is None:
            nodes = self._nodes(site, role, expression)
            # What the fusion takes away is shared by scale and bias: a fusion adds no nodes.
            share = len(site.interior) // (2 if site.kind == NormKind.LAYER_NORM else 1)
            if value is not None and len(nodes) > share:
                nodes = self._rounded(site, role, value)
        if isinstance(nodes, str):
            return nodes
        prelude.extend(nodes)
        return nodes[-1].output[0]

    def _held(self, site: Site, role: str, value: NDArray[Any]) -> str | list[NodeProto] | None:
        """A scale or bias that its type holds exactly, as one tensor; None for any other.

        What is rounded here would be another number in float64 than the model's: nodes compute it.
        """
        if not holds(site.parameter_type, value):
            return None
        first = float(value.flat[0])
        if site.scope.function is None and (value == first).all() and first in (0.0, 1.0):
            return self._vector(site, first)
        return self._tensor(site, role, value, site.parameter_type)

    def _rounded(self, site: Site, role: str, value: NDArray[Any]) -> list[NodeProto]:
        """A scale or bias held in float64, and the Cast that rounds it."""
        held = self._tensor(site, role, value, ElementType.DOUBLE)
        before = [] if isinstance(held, str) else held
        source = held if isinstance(held, str) else held[-1].output[0]
        name = self.fresh(f"{site.output}/{MARK}{role}/cast")
        return [*before, helper.make_node("Cast", [source], [name], name, to=site.parameter_type)]

    def _tensor(
        self, site: Site, role: str, value: NDArray[Any], elem_type: ElementType
    ) -> str | list[NodeProto]:
        """A value as an initializer, by name; as a Constant in a function, which holds none."""
        base = f"{site.output}/{MARK}{role}"
        held = numpy_helper.from_array(value.astype(helper.tensor_dtype_to_np_dtype(elem_type)))
        if site.scope.function is None:
            return self._vector(site, float(value.flat[0]), base, elem_type, held.raw_data)
        name = self.fresh(base)
        return [helper.make_node("Constant", [], [name], name, value=held)]

    def _vector(
        self,
        site: Site,
        value: float,
        base: str = "",
        elem_type: ElementType | None = None,
        data: bytes = b"",
    ) -> str:
        elem_type = elem_type or site.parameter_type
        key = (elem_type, site.extents, data or str(value).encode())
        if key not in self._vectors:
            size = "x".join(map(str, site.extents))
            name = self.fresh(base or f"{MARK}{'ones' if value else 'zeros'}_{size}")
            self._vectors[key] = Vector(name, elem_type, site.extents, value, data)
        return self._vectors[key].name

    def _computed(self, site: Site, expression: Expression) -> NDArray[Any] | None:
        """An expression of small constants, in float64 and the norm's shape; None of others."""
        if prod(site.extents) > LARGEST_FOLDED:
            return None
        names = {factor.tensor for _, factors in expression.terms for factor in factors}
        found = {name: self._constant(site.scope, name) for name in sorted(names)}
        known = {name: array for name, array in found.items() if array is not None}
        if len(known) < len(found):
            return None
        with np.errstate(all="ignore"):
            value = evaluated(expression, known)
        return np.ascontiguousarray(np.broadcast_to(value, site.extents))

    def fresh(self, base: str) -> str:
        """A name that no tensor has, and none will get."""
        return fresh_name(base, self._taken)

    def _nodes(self, site: Site, role: str, expression: Expression) -> list[NodeProto]:
        builder = _Builder(lambda step: self.fresh(f"{site.output}/{MARK}{role}/{step}"))
        last = builder.value(expression, site.parameter_type)
        # In several terms or factors one that is whole gives the result its extents.
        if not any(factor.is_whole for _, factors in expression.terms for factor in factors):
            builder.op("Expand", last, builder.integers("extent", *site.extents))
        return builder.nodes


def evaluated(expression: Expression, weights: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """An expression's value in float64."""
    total = np.zeros((), np.float64)
    for number, factors in expression.terms:
        product = np.asarray(number, np.float64)
        for factor in factors:
            part = weights[factor.tensor].reshape(factor.extents).astype(np.float64)
            product = product * (part if factor.exponent == 1 else part**factor.exponent)
        total = total + product
    return np.asarray(total)


class _Builder:
    """Emits the nodes of one expression."""

    def __init__(self, fresh: Callable[[str], str]) -> None:
        self._fresh = fresh
        self.nodes: list[NodeProto] = []

    def op(self, op_type: str, *inputs: str) -> str:
        name = self._fresh(op_type.lower())
        self.nodes.append(helper.make_node(op_type, inputs, [name], name))
        return name

    def cast(self, tensor: str, elem_type: int) -> str:
        name = self.op("Cast", tensor)
        self.nodes[-1].attribute.append(helper.make_attribute("to", elem_type))
        return name

    def integers(self, step: str, *values: int) -> str:
        return self._constant(step, ElementType.INT64, [len(values)], values)

    def number(self, value: float) -> str:
        return self._constant("number", ElementType.DOUBLE, [], [value])

    def _constant(self, step: str, elem_type: int, dims: list[int], values: Sequence[float]) -> str:
        name = self._fresh(step)
        tensor = helper.make_tensor("", elem_type, dims, values)
        self.nodes.append(helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def shaped(self, factor: Factor) -> str:
        """A weight without the axes that are not normalised: they have extent 1."""
        if factor.is_flat:
            return factor.tensor
        return self.op("Reshape", factor.tensor, self.integers("shape", *factor.extents))

    def value(self, expression: Expression, elem_type: int) -> str:
        """The expression in its type; a weight alone is not computed with."""
        terms = expression.terms
        if len(terms) == 1 and terms[0][0] == 1 and [f.exponent for f in terms[0][1]] == [1]:
            factor = terms[0][1][0]
            shaped = self.shaped(factor)
            return shaped if factor.elem_type == elem_type else self.cast(shaped, elem_type)
        products = [self._product(number, factors) for number, factors in terms]
        total = products[0]
        for product in products[1:]:
            total = self.op("Add", total, product)
        return self.cast(total, elem_type)

    def _product(self, number: float, factors: tuple[Factor, ...]) -> str:
        parts = [self.number(number)] if number != 1 or not factors else []
        for factor in factors:
            part = self.cast(self.shaped(factor), ElementType.DOUBLE)
            whole = factor.exponent == 1
            parts.append(part if whole else self.op("Pow", part, self.number(factor.exponent)))
        product = parts[0]
        for part in parts[1:]:
            product = self.op("Mul", product, part)
        return product
