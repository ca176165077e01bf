"""The sum: which Adds are residuals, which operand broadcasts to which, and what lies behind."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.records import BiasAdd, Dim
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.records.reasons import Reason, Refusal
from graphfuse.types.shapes import broadcasts_to
from graphfuse.views.view import GraphView


@dataclass(frozen=True, slots=True)
class ResidualSum:
    """An Add of two activations: `b` broadcasts to `a` where `order_proven` is true."""

    add: Node
    a: str
    b: str
    b_shape: tuple[Dim, ...] | None
    order_proven: bool

    @property
    def sum(self) -> str:
        """The tensor that holds the sum."""
        return self.add.outputs[0]


@dataclass(frozen=True, slots=True)
class Source:
    """An Add that something reduced comes from, and what forbids to fuse it, if anything.

    `tensor` is what the norm is evaluated from: the sum, or the sum after `path`, nodes that move
    its rows about and keep its last axis. An `obstacle` stands between sum and norm; a `reason`
    without one lies in the Add itself.
    """

    add: Node
    tensor: str
    path: tuple[Node, ...] = ()
    obstacle: Node | None = None
    reason: Reason | None = None
    merged: int = 1
    """How many of the sum's last axes the path makes one: those that the norm is over."""

    @property
    def key(self) -> tuple[object, int]:
        """What tells Adds apart, those of outer graphs included."""
        return (self.add.scope, self.add.position)


RESHAPING = having(Trait.RESHAPES | Trait.PERMUTES | Trait.REPEATS)
QUANTIZING = having(Trait.QUANTIZES)
# A sum behind an activation function is a block of its own: a ResNet's, not a clamped stream.
CLAMPING = having(Trait.CLAMPS) - {"Relu", "Abs"}
QUANTIZED_SUM = ("com.microsoft", "QLinearAdd")
OBSTACLES = {
    **dict.fromkeys(QUANTIZING, Reason.SUM_QUANTIZED),
    **dict.fromkeys(CLAMPING, Reason.SUM_CLAMPED),
    **dict.fromkeys(having(Trait.JOINS), Reason.SUM_JOINED),
    **dict.fromkeys(RESHAPING, Reason.SUM_RESHAPED),
    **dict.fromkeys(having(Trait.PICKS), Reason.SUM_SLICED),
    **dict.fromkeys(having(Trait.SEQUENCES), Reason.SUM_IN_SEQUENCE),
}
KEEPING = having(Trait.KEEPS)
CASTING = having(Trait.CASTS)
# All inputs of these are factors; the second one of a CastLike is none.
PRODUCTS = having(Trait.MULTIPLIES | Trait.KEEPS | Trait.CASTS) - {"CastLike"}
LONGEST_PATH = 8


def is_sum(node: Node | None) -> bool:
    """Whether a node adds two tensors: an Add, or a Sum of two."""
    if node is None or not node.standard or len(node.inputs) != 2 or not node.outputs:
        return False
    return node.op_type in ("Add", "Sum") and all(node.inputs)


@dataclass(frozen=True, slots=True)
class _Step:
    """A tensor on the way back from a reduction, and what was met so far."""

    tensor: str
    left: int
    obstacle: Node | None = None
    reason: Reason | None = None
    casts: tuple[Node, ...] = ()


def sources(view: GraphView, name: str, reach: int = 16) -> list[Source]:
    """The Adds that a reduced tensor comes from, seen back through casts, products and powers.

    A reduction of x * x, of x^2 or of a float32 copy of x reduces something made of x alone.
    """
    found: dict[str, Source] = {}
    pending = [_Step(name, reach)]
    seen: dict[tuple[str, bool], int] = {}
    while pending:
        step = pending.pop()
        # A tensor is looked at again only from nearer: otherwise many paths were too many.
        key = (step.tensor, step.obstacle is None)
        if seen.get(key, -1) >= step.left:
            continue
        seen[key] = step.left
        home = view.home(step.tensor)
        node = home.producer(step.tensor)
        if node is None or step.left == 0:
            continue
        if (node.domain, node.op_type) == QUANTIZED_SUM and node.known:
            found[step.tensor] = Source(node, step.tensor, (), node, Reason.SUM_QUANTIZED)
        if not node.standard and not quantizes(node):
            continue
        if home is not view and step.obstacle is None:
            step = replace(step, reason=Reason.SUM_IN_OTHER_SCOPE)
        if is_sum(node) or node.op_type == "Sum":
            if step.tensor not in found or step.obstacle is None:
                found[step.tensor] = _source(home, node, step)
            pending.extend(_shifted(view, node, step) or _common(view, node, step))
        elif step.obstacle is None and (path := _path(home, node)) is not None:
            add = home.producer(path[0].input(0))
            assert add is not None, "a path starts behind a sum"
            merged = merged_axes(home, path[0])
            found[step.tensor] = Source(add, step.tensor, path, None, step.reason, merged)
        else:
            pending.extend(_behind(node, step))
            if node.op_type == "Sub":
                pending.extend(_shifted(view, node, step) or _common(view, node, step))
    return sorted(found.values(), key=lambda source: source.add.position)


def quantizes(node: Node) -> bool:
    """Whether a node quantizes or undoes that: onnxruntime's own, which took 16 bits first, too."""
    return (
        node.known
        and node.op_type in QUANTIZING
        and (node.standard or node.domain == "com.microsoft")
    )


def _shifted(view: GraphView, node: Node, step: _Step) -> list[_Step]:
    """Behind x + 1 or 0 - x: what is added to a whole row may not matter, or cancel."""
    others = [name for name in node.inputs if view.scalar(name) is None]
    return [_further(step, name) for name in others if len(others) < len(node.inputs)]


def _common(view: GraphView, node: Node, step: _Step) -> list[_Step]:
    """Behind x*x + 2*x, whose terms are made of one tensor: what they are made of."""
    first, *others = (_factors(view, name) for name in node.inputs)
    return [_further(step, name) for name in sorted(first.intersection(*others))]


def _factors(view: GraphView, name: str, reach: int = 6) -> set[str]:
    """The tensors that a product is made of, in a few steps, past numbers that are added."""
    found, pending = set[str](), [name]
    for _ in range(reach):
        nodes = [node for tensor in pending if (node := view.producer(tensor)) is not None]
        steps = [
            node
            for node in nodes
            if node.standard and (node.op_type in PRODUCTS or _is_shift(view, node))
        ]
        read = {name for node in steps for name in node.inputs}
        pending = [name for name in sorted(read) if view.scalar(name) is None][:16]
        found.update(pending)
    return found


def _is_shift(view: GraphView, node: Node) -> bool:
    numbers = (view.scalar(name) is not None for name in node.inputs)
    return node.op_type in ("Add", "Sub") and any(numbers)


def _further(step: _Step, tensor: str) -> _Step:
    return replace(step, tensor=tensor, left=step.left - 1)


def _behind(node: Node, step: _Step) -> list[_Step]:
    """Where to look on behind a node that is no sum, and what it puts in the way."""
    if node.op_type in (*KEEPING, "Pow", "Neg"):
        return [_further(step, node.input(0))]
    if node.op_type in ("Mul", "Div"):
        return [_further(step, name) for name in dict.fromkeys(node.inputs)]
    if node.op_type in CASTING:
        return [replace(_further(step, node.input(0)), casts=(*step.casts, node))]
    if node.op_type in OBSTACLES:
        # Of the way to where it is joined with others nothing more counts.
        joined = step.reason is Reason.SUM_JOINED
        blocked = step if joined else replace(step, obstacle=node, reason=OBSTACLES[node.op_type])
        # The others are a scale and a zero point.
        read = node.inputs[:1] if node.op_type in QUANTIZING else node.inputs
        return [_further(blocked, name) for name in read if name]
    return []


def _source(view: GraphView, node: Node, step: _Step) -> Source:
    elem_type = view.type(step.tensor).elem_type
    obstacle, reason = step.obstacle, step.reason
    if not is_sum(node):
        reason = reason or Reason.SUM_OF_MANY
    elif elem_type and elem_type not in FLOAT_TYPES:
        obstacle, reason = None, Reason.INTEGER_SUM
    elif node.in_call and obstacle is None:
        reason = Reason.SUM_IN_OTHER_SCOPE
    elif elem_type and obstacle is None:
        # A cast is narrow or wide beside the type of the sum: there and back loses nothing.
        narrow = [cast for cast in step.casts if not elem_type.widens(view.cast_type(cast))]
        unknown = [cast for cast in narrow if not view.cast_type(cast)]
        if narrow:
            # A CastLike whose second operand has no known type may well lose nothing.
            obstacle, reason = narrow[-1], Reason.SUM_NARROWED
        if unknown and len(unknown) == len(narrow):
            obstacle, reason = unknown[-1], Reason.UNKNOWN_SHAPE
    return Source(node, step.tensor, (), obstacle, reason)


def _path(view: GraphView, last: Node) -> tuple[Node, ...] | None:
    """The nodes from an Add to `last` that only move the rows of its sum, in order."""
    path: list[Node] = []
    node: Node | None = last
    while node is not None and len(path) < LONGEST_PATH and not is_sum(node):
        if not node.standard or node.in_call:
            return None
        if not _keeps_rows(view, node):
            # Only the sum's own axes may be merged: what moved rows before that had others.
            first = is_sum(view.producer(node.input(0)))
            if not first or merged_axes(view, node) == 1:
                return None
        path.insert(0, node)
        node = view.producer(node.input(0))
    moved = any(step.op_type not in KEEPING for step in path)
    return tuple(path) if moved and is_sum(node) else None


def _keeps_rows(view: GraphView, node: Node) -> bool:
    """Whether every row of the output, along the last axis, is a row of the input."""
    if node.op_type in KEEPING:
        training = node.op_type == "Dropout" and node.input(2)
        return not training or view.scalar(node.input(2)) == 0
    before, after = view.type(node.input(0)), view.type(node.outputs[0])
    if node.op_type not in RESHAPING or not before.shape or not after.shape:
        return False
    if node.op_type == "Transpose":
        order = list(node.attributes.get("perm", ()))
        return bool(order) and order[-1] == len(order) - 1
    kept = isinstance(before.shape[-1], int) and before.shape[-1] == after.shape[-1]
    return kept and before.elem_type in FLOAT_TYPES


def merged_axes(view: GraphView, node: Node) -> int:
    """How many last axes a Flatten or Reshape makes one; 1 where it keeps the last, or others.

    Rows of several axes are flattened so in the body of ONNX's LayerNormalization.
    """
    before, after = view.type(node.input(0)), view.type(node.outputs[0])
    if node.op_type not in ("Flatten", "Reshape") or not before.shape or not after.shape:
        return 1
    if before.elem_type not in FLOAT_TYPES or before.shape[-1] == after.shape[-1]:
        return 1
    extent = 1
    for count, dim in enumerate(reversed(before.shape), 1):
        if not isinstance(dim, int):
            return 1
        extent *= dim
        if extent == after.shape[-1] and extent > 0:
            return count
    return 1


def residual_sum(view: GraphView, add: Node) -> ResidualSum | Refusal:
    """What an Add adds, or why it is not a residual."""
    if (add.domain, add.op_type) == QUANTIZED_SUM:
        adds_weight = any(view.is_weight(add.input(position)) for position in (0, 3))
        reason = Reason.VECTOR_OPERAND if adds_weight else Reason.SUM_OF_MANY
        return Refusal(reason, "a sum of quantized tensors")
    if not is_sum(add):
        return Refusal(Reason.SUM_OF_MANY, f"{len(add.inputs)} operands")
    left, right = add.inputs
    constants = [view.constant(view.behind(name)[0]) is not None for name in (left, right)]
    if all(constants) or view.is_weight(add.outputs[0]):
        return Refusal(Reason.CONSTANT_SUM, f"{left} + {right}")
    for name, is_constant in zip((left, right), constants, strict=True):
        if (is_constant or view.is_weight(name)) and _is_vector(view, name):
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


def bias_add(view: GraphView, residual: ResidualSum) -> BiasAdd | None:
    """A bias vector that is added to one operand, if the sum is all that reads the result."""
    shape, elem_type = view.type(residual.sum).shape, view.type(residual.sum).elem_type
    for operand in (residual.b, residual.a):
        add = view.producer(operand)
        if add is None or add.in_call or not is_sum(add) or operand in view.outputs:
            continue
        if len(view.readers(operand)) != 1 or view.type(operand).shape != shape or not shape:
            continue
        for vector, other in (add.inputs, add.inputs[::-1]):
            kind = view.type(vector)
            fits = kind.shape == shape[-1:] and kind.elem_type == elem_type
            whole = view.type(other).shape == shape and residual.a != residual.b
            if fits and whole and view.is_weight(vector) and not view.is_weight(other):
                return BiasAdd(add.ref, vector, other, operand, _is_product(view, other))
    return None


def _is_product(view: GraphView, name: str) -> bool:
    """Whether a tensor is a MatMul of an activation with a weight that is not quantized."""
    node = view.producer(name)
    if node is None or node.in_call or not node.standard or node.op_type != "MatMul":
        return False
    weight = view.producer(node.input(1))
    quantized = weight is not None and weight.op_type == "DequantizeLinear"
    alone = len(view.readers(name)) == 1 and name not in view.outputs
    return alone and view.is_weight(node.input(1)) and not quantized


def addends(view: GraphView, residual: ResidualSum) -> tuple[str, ...]:
    """The activations that are summed: those of a sum inside the sum, when nothing else reads it.

    A parallel block adds x + attention + feed-forward, in two Adds.
    """
    found: list[str] = []
    for operand in (residual.a, residual.b):
        add = view.producer(operand)
        inner = residual_sum(view, add) if add is not None and is_sum(add) else None
        alone = len(view.readers(operand)) == 1 and operand not in view.outputs
        if isinstance(inner, ResidualSum) and alone:
            found.extend((inner.a, inner.b))
        else:
            found.append(operand)
    return tuple(found)
