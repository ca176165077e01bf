"""The operands of a fused node that are not there yet: absent vectors, and expressions of weights.

An expression becomes a few nodes on the weights themselves. So no weight is read or rewritten, and
runtimes fold the nodes when they load the model. Arithmetic is in float64 and rounds once, to the
type of the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto, TensorProto, helper

from graphfuse.graph.tensors import fresh_name
from graphfuse.records import Expression, Factor, Parameter, Site, Vector

MARK = "graphfuse_"
"""Part of the name of every tensor that graphfuse adds."""


class Operands:
    """Names the operands of planned fusions, and collects what has to be added for them."""

    def __init__(self, taken: set[str]) -> None:
        """`taken` are the names of the model's tensors; what is named here is added to it."""
        self._taken = taken
        self._vectors: dict[tuple[int, tuple[int, ...], float], Vector] = {}

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
        # A function holds no initializers: there the vector is computed.
        nodes = self._nodes(site, role, parameter or Expression(((absent, ()),)))
        prelude.extend(nodes)
        return nodes[-1].output[0]

    def _vector(self, site: Site, value: float) -> str:
        key = (site.parameter_type, site.extents, value)
        if key not in self._vectors:
            size = "x".join(map(str, site.extents))
            name = self.fresh(f"{MARK}{'ones' if value else 'zeros'}_{size}")
            self._vectors[key] = Vector(name, site.parameter_type, site.extents, value)
        return self._vectors[key].name

    def fresh(self, base: str) -> str:
        """A name that no tensor has, and none will get."""
        return fresh_name(base, self._taken)

    def _nodes(self, site: Site, role: str, expression: Expression) -> list[NodeProto]:
        builder = _Builder(lambda step: self.fresh(f"{site.output}/{MARK}{role}/{step}"))
        last = builder.value(expression, site.parameter_type)
        builder.op("Expand", last, builder.integers("extent", *site.extents))
        return builder.nodes


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
        return self._constant(step, TensorProto.INT64, [len(values)], values)

    def number(self, value: float) -> str:
        return self._constant("number", TensorProto.DOUBLE, [], [value])

    def _constant(self, step: str, elem_type: int, dims: list[int], values: Sequence[float]) -> str:
        name = self._fresh(step)
        tensor = helper.make_tensor("", elem_type, dims, values)
        self.nodes.append(helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def shaped(self, factor: Factor) -> str:
        """A weight without the axes that are not normalised: they have extent 1."""
        return self.op("Reshape", factor.tensor, self.integers("shape", *factor.extents))

    def value(self, expression: Expression, elem_type: int) -> str:
        """The expression in its type; a weight alone is not computed with."""
        terms = expression.terms
        if len(terms) == 1 and terms[0][0] == 1 and [f.exponent for f in terms[0][1]] == [1]:
            return self.cast(self.shaped(terms[0][1][0]), elem_type)
        products = [self._product(number, factors) for number, factors in terms]
        total = products[0]
        for product in products[1:]:
            total = self.op("Add", total, product)
        return self.cast(total, elem_type)

    def _product(self, number: float, factors: tuple[Factor, ...]) -> str:
        parts = [self.number(number)] if number != 1 or not factors else []
        for factor in factors:
            part = self.cast(self.shaped(factor), TensorProto.DOUBLE)
            whole = factor.exponent == 1
            parts.append(part if whole else self.op("Pow", part, self.number(factor.exponent)))
        product = parts[0]
        for part in parts[1:]:
            product = self.op("Mul", product, part)
        return product
