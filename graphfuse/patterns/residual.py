"""The sum: which Adds are residuals, and which operand broadcasts to which."""

from __future__ import annotations

from dataclasses import dataclass

from graphfuse.graph.shapes import broadcasts_to
from graphfuse.graph.tensors import FLOAT_TYPES, widens
from graphfuse.graph.view import GraphView, Node
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


@dataclass(frozen=True, slots=True)
class Source:
    """An Add that something reduced comes from, and what between forbids to fuse, if anything.

    `tensor` is what the norm is evaluated from: the sum, or the sum reshaped by `reshape`, which
    keeps the last axis.
    """

    add: Node
    tensor: str
    reshape: Node | None = None
    obstacle: Node | None = None
    reason: Reason | None = None


RESHAPING = frozenset(("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand"))


def sources(view: GraphView, name: str, reach: int = 8) -> list[Source]:
    """The Adds that a reduced tensor comes from, seen back through casts, products and powers.

    A reduction of x * x, of x^2 or of a float32 copy of x reduces something made of x alone.
    """
    found: dict[str, Source] = {}
    pending: list[tuple[str, int, Node | None, Reason | None]] = [(name, reach, None, None)]
    while pending:
        tensor, left, obstacle, reason = pending.pop()
        node = view.producer(tensor)
        if node is None or not node.standard or left == 0:
            continue
        if node.op_type == "Add" and len(node.inputs) == 2 and _may_be_float(view, tensor):
            if tensor not in found or obstacle is None:
                found[tensor] = Source(node, tensor, None, obstacle, reason)
        elif node.op_type in ("Identity", "Dropout", "Pow", "Neg"):
            pending.append((node.input(0), left - 1, obstacle, reason))
        elif node.op_type == "Cast":
            to = int(node.attributes.get("to", 0))
            source = view.type(node.input(0)).elem_type
            if widens(source, to) or not source:
                pending.append((node.input(0), left - 1, obstacle, reason))
            elif to in FLOAT_TYPES:
                pending.append((node.input(0), left - 1, node, Reason.SUM_NARROWED))
        elif node.op_type in ("Mul", "Div"):
            pending.extend((name, left - 1, obstacle, reason) for name in set(node.inputs))
        elif (add := _reshaped_sum(view, node)) is not None and obstacle is None:
            found[tensor] = Source(add, tensor, node)
        elif node.op_type in RESHAPING:
            pending.append((node.input(0), left - 1, node, Reason.SUM_RESHAPED))
    return sorted(found.values(), key=lambda source: source.add.index)


def _reshaped_sum(view: GraphView, node: Node) -> Node | None:
    """The Add whose sum a Reshape reads, if the last axis stays what it was."""
    add = view.producer(node.input(0))
    if node.op_type != "Reshape" or add is None or add.op_type != "Add" or len(add.inputs) != 2:
        return None
    before, after = view.type(node.input(0)), view.type(node.outputs[0])
    if not before.shape or not after.shape or before.elem_type not in FLOAT_TYPES:
        return None
    kept = isinstance(before.shape[-1], int) and before.shape[-1] == after.shape[-1]
    return add if kept and add.standard else None


def _may_be_float(view: GraphView, name: str) -> bool:
    elem_type = view.type(name).elem_type
    return elem_type in FLOAT_TYPES or elem_type == 0


def residual_sum(view: GraphView, add: Node) -> ResidualSum | Refusal:
    """What an Add adds, or why it is not a residual."""
    left, right = add.inputs
    constants = [view.constant(view.behind(name)[0]) is not None for name in (left, right)]
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


def _is_vector(view: GraphView, name: str) -> bool:
    shape = view.type(name).shape
    return shape is not None and all(dim == 1 for dim in shape[:-1])


def _shape_text(view: GraphView, name: str) -> str:
    shape = view.type(name).shape
    return "unknown shape" if shape is None else f"shape {list(shape)}"
