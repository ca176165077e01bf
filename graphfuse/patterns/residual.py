"""The sum: which Adds are residuals, and which operand broadcasts to which."""

from __future__ import annotations

from dataclasses import dataclass

from graphfuse.graph.shapes import broadcasts_to
from graphfuse.graph.tensors import widens
from graphfuse.graph.view import KEEPS_SCALAR, GraphView, Node
from graphfuse.patterns.algebra import Refusal
from graphfuse.reasons import Reason
from graphfuse.records import Dim


@dataclass(frozen=True, slots=True)
class ResidualSum:
    """An Add of two activations: `b` broadcasts to `a` where `order_proven` is true."""

    add: Node
    a: str
    b: str
    b_shape: tuple[Dim, ...] | None
    order_proven: bool

    @property
    def total(self) -> str:
        """The tensor that holds the sum."""
        return self.add.outputs[0]


def sources(view: GraphView, name: str, reach: int = 8) -> list[Node]:
    """The Adds that a reduced tensor comes from, seen back through casts, products and powers.

    A reduction of x * x, of x^2 or of a float32 copy of x reduces something made of x alone.
    """
    found: dict[int, Node] = {}
    pending = [(name, reach)]
    while pending:
        tensor, left = pending.pop()
        node = view.producer(tensor)
        if node is None or not node.standard or left == 0:
            continue
        if node.op_type == "Add" and view.is_float(tensor):
            found[node.index] = node
        elif node.op_type in ("Identity", "Dropout", "Pow") or _widening_cast(view, node):
            pending.append((node.input(0), left - 1))
        elif node.op_type == "Mul":
            pending.extend((operand, left - 1) for operand in set(node.inputs))
    return [found[index] for index in sorted(found)]


def _widening_cast(view: GraphView, node: Node) -> bool:
    if node.op_type != "Cast":
        return False
    return widens(view.type(node.input(0)).elem_type, int(node.attributes["to"]))


def residual_sum(view: GraphView, add: Node) -> ResidualSum | Refusal:
    """What an Add adds, or why it is not a residual."""
    left, right = add.inputs
    constants = [_is_constant(view, name) for name in (left, right)]
    if all(constants):
        return Refusal(Reason.CONSTANT_SUM, f"{left} + {right}")
    for name, is_constant in zip((left, right), constants, strict=True):
        if is_constant and _is_vector(view, name):
            return Refusal(Reason.VECTOR_OPERAND, f"{name} of {_shape_text(view, name)}")
    left_shape, right_shape = view.type(left).shape, view.type(right).shape
    if left_shape is not None and right_shape is not None:
        if broadcasts_to(right_shape, left_shape):
            return ResidualSum(add, left, right, right_shape, order_proven=True)
        if broadcasts_to(left_shape, right_shape):
            return ResidualSum(add, right, left, left_shape, order_proven=True)
    return ResidualSum(add, left, right, right_shape, order_proven=False)


def _is_constant(view: GraphView, name: str) -> bool:
    node = view.producer(name)
    while node is not None and node.standard and node.op_type in KEEPS_SCALAR:
        name = node.input(0)
        node = view.producer(name)
    return view.constant(name) is not None


def _is_vector(view: GraphView, name: str) -> bool:
    shape = view.type(name).shape
    return shape is not None and all(dim == 1 for dim in shape[:-1])


def _shape_text(view: GraphView, name: str) -> str:
    shape = view.type(name).shape
    return "unknown shape" if shape is None else f"shape {list(shape)}"
