"""A norm as the model spells it, in one line of arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.translate import Region
from graphfuse.views.view import GraphView

LONGEST_LINE = 200
"""Characters of a line; what is longer is cut."""

# How tightly an operator binds: operands that bind less get parentheses.
SUM_BINDING, PRODUCT, POWER, ATOM = range(4)

Text = tuple[str, int]


def written(view: GraphView, region: Region, output: str, names: Mapping[str, str]) -> str:
    """The arithmetic from x to an output; casts and reshapes are left out.

    `names` says what to call a weight: scale, bias.
    """
    texts: dict[str, Text] = {name: (text, ATOM) for name, text in names.items()}
    texts[region.candidate.tensor] = ("x", ATOM)
    for name in region.values:
        node = view.producer(name)
        if name not in texts and node is not None:
            texts[name] = _text(view, node, texts)
        if name == output:
            break
    return texts[output][0]


def _text(view: GraphView, node: Node, texts: Mapping[str, Text]) -> Text:
    operands = [texts.get(name) or _opaque(view, name) for name in node.inputs if name]
    write = WRITERS.get(node.op_type)
    if write is not None:
        text = write(operands)
    elif len(operands) == 1 or node.op_type in UNWRITTEN:
        text = operands[0]
    else:
        text = (f"{node.op_type}({', '.join(t for t, _ in operands)})", ATOM)
    return (
        text[0] if len(text[0]) <= LONGEST_LINE else text[0][: LONGEST_LINE - 3] + "...",
        text[1],
    )


def _opaque(view: GraphView, name: str) -> Text:
    number = view.scalar(name)
    if number is not None:
        return (f"{number:.6g}", ATOM if number >= 0 else SUM_BINDING)
    return (name.rsplit("/", maxsplit=1)[-1] or name, ATOM)


def _within(text: Text, binding: int) -> str:
    return text[0] if text[1] >= binding else f"({text[0]})"


def _several(function: str) -> Callable[[list[Text]], Text]:
    return lambda operands: (f"{function}({', '.join(text for text, _ in operands)})", ATOM)


def _infix(sign: str, binding: int, right: int) -> Callable[[list[Text]], Text]:
    def write(operands: list[Text]) -> Text:
        first, *others = operands
        parts = [_within(first, binding), *(_within(other, right) for other in others)]
        return (sign.join(parts), binding)

    return write


def _call(function: str) -> Callable[[list[Text]], Text]:
    return lambda operands: (f"{function}({operands[0][0]})", ATOM)


UNWRITTEN = having(Trait.KEEPS | Trait.RESHAPES | Trait.REPEATS | Trait.CASTS)
"""Of these the text has the operand alone: what they change is no arithmetic."""

WRITERS: Mapping[str, Callable[[list[Text]], Text]] = {
    "Add": _infix(" + ", SUM_BINDING, SUM_BINDING),
    "Sum": _infix(" + ", SUM_BINDING, SUM_BINDING),
    "Sub": _infix(" - ", SUM_BINDING, PRODUCT),
    "Mul": _infix("*", PRODUCT, PRODUCT),
    "Div": _infix("/", PRODUCT, POWER),
    "Pow": _infix("^", POWER, ATOM),
    "Neg": lambda operands: (f"-{_within(operands[0], POWER)}", SUM_BINDING),
    "Sqrt": _call("sqrt"),
    "Max": _several("max"),
    "Min": _several("min"),
    "Clip": _several("clip"),
    "Relu": _call("relu"),
    "Abs": _call("abs"),
    "Reciprocal": lambda operands: (f"1/{_within(operands[0], POWER)}", PRODUCT),
    "ReduceMean": _call("mean"),
    "ReduceSum": _call("sum"),
    "ReduceSumSquare": lambda operands: (f"sum({_within(operands[0], ATOM)}^2)", ATOM),
    "ReduceL2": _call("norm"),
}
