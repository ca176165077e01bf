"""The fused operators of domain `graphfuse`, version 1: names, inputs, function bodies.

    AddLayerNormalization(A, B, Scale, Bias) -> Y, Sum     Sum = A + B; Y = LayerNorm(Sum)
    AddRMSNormalization(A, B, Scale)         -> Y, Sum     Sum = A + B; Y = RMSNorm(Sum)
    AddBiasLayerNormalization(A, B, Scale, Bias, AddBias) -> Y, Sum    Sum = A + (B + AddBias)
    AddBiasRMSNormalization(A, B, Scale, AddBias)         -> Y, Sum    the same

Attributes: epsilon (float, 1e-5), axis (int, -1: the first normalised axis), stash_type (int, 1:
the type of the statistics, an onnx.TensorProto number). A and B broadcast by ONNX's rules; the
rewrite puts the larger one first wherever that can be proven. Scale and Bias have the shape of
the normalised axes, and the type of A or float32; AddBias has the last axis and the type of A.

Every model carries the functions that it uses, so it runs where no kernel is registered. Bodies
are written such that onnxruntime folds them to Add + LayerNormalization (or
SimplifiedLayerNormalization) again; below opset 17 (23 for RMSNormalization) in primitives. Its
SkipLayerNormFusion takes the two into one node, which is the faster one in some versions and the
slower one in others (runtimes.py): it looks for Add, so a body that is to be left alone has a Sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, helper

from graphfuse.records import NormKind
from graphfuse.records.element_types import ElementType

DOMAIN = "graphfuse"
VERSION = 1
MINIMUM_OPSET = 7
"""onnxruntime runs nothing older."""
NEGATIVE_AXES_OPSET = 11
"""Below it a reduction's axes are counted from the front, so a body serves one rank."""
MINIMUM_IR_VERSION = 8
"""The first IR version whose models may hold functions."""
SUM_OPSET = 8
"""Below it Sum does not broadcast."""
CASTLIKE_OPSET = 15
"""Below it a body of primitives cannot cast back to its operands' type, so it serves one type."""

OPERATOR = {NormKind.LAYER_NORM: "AddLayerNormalization", NormKind.RMS_NORM: "AddRMSNormalization"}
BIAS_OPERATOR = {
    NormKind.LAYER_NORM: "AddBiasLayerNormalization",
    NormKind.RMS_NORM: "AddBiasRMSNormalization",
}
OPERATORS = (*OPERATOR.values(), *BIAS_OPERATOR.values())
CONTRIB_DOMAIN = "com.microsoft"
CONTRIB_OPERATOR = {
    NormKind.LAYER_NORM: "SkipLayerNormalization",
    NormKind.RMS_NORM: "SkipSimplifiedLayerNormalization",
}
NORM_OPSET = {NormKind.LAYER_NORM: 17, NormKind.RMS_NORM: 23}
"""The opset from which ONNX has the norm as an operator."""

ATTRIBUTES = ("epsilon", "axis", "stash_type")


class BodyForm(StrEnum):
    """The forms of a function's body."""

    ADD = "Add"
    """One that onnxruntime's SkipLayerNormFusion takes."""
    SUM = "Sum"
    """One that it leaves alone, since it looks for Add."""
    APART = "apart"
    """One whose norm no fusion takes for a norm."""


def is_fused_node(domain: str, op_type: str) -> bool:
    """Whether a node is one of graphfuse's operators or onnxruntime's."""
    if domain == DOMAIN:
        return op_type in OPERATORS
    return domain == CONTRIB_DOMAIN and op_type in CONTRIB_OPERATOR.values()


def is_operator(function: FunctionProto) -> bool:
    """Whether a function has the name of one of graphfuse's operators: it is not looked into.

    Others of that domain are functions like any.
    """
    return function.domain == DOMAIN and function.name in OPERATORS


def stash_type(elem_type: int) -> int:
    """The type in which statistics are computed: float64 for float64, else float32."""
    return ElementType.DOUBLE if elem_type == ElementType.DOUBLE else ElementType.FLOAT


@dataclass(frozen=True, slots=True)
class Variant:
    """What a function's body may depend on, beside the operator and the opset.

    `parameter_type` is that of scale and bias. `axis` and `rank` matter where the axes of a
    reduction cannot come from an attribute. `contrib` asks for onnxruntime's fused operator inside,
    for a file that is to be fast on a GPU as well as on the CPU with graphfuse's kernels.
    """

    elem_type: int = ElementType.FLOAT
    parameter_type: int = ElementType.FLOAT
    axis: int = -1
    rank: int = 3
    contrib: bool = False
    form: BodyForm = BodyForm.ADD

    @property
    def mixed(self) -> bool:
        """Whether scale and bias have another type than the tensor."""
        return self.elem_type != self.parameter_type


def function(kind: NormKind, opset: int, variant: Variant, biased: bool = False) -> FunctionProto:
    """The model-local function of an operator at an opset; `biased` for the AddBias forms."""
    nodes: list[NodeProto] = []
    addend = "B"
    if biased:
        addend = "Biased"
        nodes.append(helper.make_node("Add", ["B", "AddBias"], [addend]))
    imports = [helper.make_opsetid("", opset)]
    if variant.contrib:
        nodes.append(_contrib_operator(kind, addend))
        imports.append(helper.make_opsetid(CONTRIB_DOMAIN, VERSION))
    else:
        nodes += _addition(addend, opset, variant.form)
        own = opset >= NORM_OPSET[kind] and variant.form != BodyForm.APART
        nodes += _norm_operator(kind, variant) if own else _primitives(kind, opset, variant)
    inputs = ["A", "B", "Scale"]
    inputs += ["Bias"] if kind == NormKind.LAYER_NORM else []
    inputs += ["AddBias"] if biased else []
    return helper.make_function(
        DOMAIN,
        (BIAS_OPERATOR if biased else OPERATOR)[kind],
        inputs,
        ["Y", "Sum"],
        nodes,
        imports,
        list(ATTRIBUTES),
    )


def _addition(addend: str, opset: int, form: BodyForm) -> list[NodeProto]:
    """Sum = A + addend; by another operator than Add where no fusion is to find it."""
    if form != BodyForm.SUM:
        return [helper.make_node("Add", ["A", addend], ["Sum"])]
    if opset >= SUM_OPSET:
        return [helper.make_node("Sum", ["A", addend], ["Sum"])]
    # A - (-B) is A + B, to the bit.
    return [
        helper.make_node("Neg", [addend], ["Negative"]),
        helper.make_node("Sub", ["A", "Negative"], ["Sum"]),
    ]


def _contrib_operator(kind: NormKind, addend: str) -> NodeProto:
    """onnxruntime's fused operator; its own bias slot is read wrongly by some providers."""
    inputs = ["A", addend, "Scale"] + (["Bias"] if kind == NormKind.LAYER_NORM else [])
    outputs = ["Y", "", "", "Sum"]
    node = helper.make_node(CONTRIB_OPERATOR[kind], inputs, outputs, domain=CONTRIB_DOMAIN)
    return _refer(node, "epsilon", "epsilon", AttributeProto.FLOAT)


def _norm_operator(kind: NormKind, variant: Variant) -> list[NodeProto]:
    # ONNX's norm has one type: beside a scale in float32 it runs in that.
    x, y = ("X", "Wide") if variant.mixed else ("Sum", "Y")
    if kind == NormKind.LAYER_NORM:
        node = helper.make_node("LayerNormalization", [x, "Scale", "Bias"], [y])
    else:
        node = helper.make_node("RMSNormalization", [x, "Scale"], [y])
    _refer(node, "epsilon", "epsilon", AttributeProto.FLOAT)
    _refer(node, "axis", "axis", AttributeProto.INT)
    _refer(node, "stash_type", "stash_type", AttributeProto.INT)
    if not variant.mixed:
        return [node]
    return [
        _to_stash_type("Sum", "X"),
        node,
        helper.make_node("CastLike", ["Wide", "A"], ["Y"]),
    ]


def _refer(node: NodeProto, name: str, to: str, kind: int) -> NodeProto:
    """Give a node an attribute whose value is that of the function's attribute `to`."""
    node.attribute.append(
        AttributeProto(name=name, ref_attr_name=to, type=kind)  # pyright: ignore[reportArgumentType]
    )
    return node


def _primitives(kind: NormKind, opset: int, variant: Variant) -> list[NodeProto]:
    """X = Sum in the stash type; Y = (X - mean) / sqrt(mean of squares + epsilon), cast back."""
    first = variant.axis if opset >= NEGATIVE_AXES_OPSET else variant.axis + variant.rank
    axes = list(range(first, first - variant.axis))
    nodes = [_to_stash_type("Sum", "X")]
    nodes += _epsilon(opset)
    squares = variant.form != BodyForm.APART
    nodes += [_number("Two32", 2.0), _to_stash_type("Two32", "Two")] if squares else []
    if opset >= 18:
        tensor = helper.make_tensor("", ElementType.INT64, [len(axes)], axes)
        nodes.append(helper.make_node("Constant", [], ["Axes"], value=tensor))
    deviation = "X"
    if kind == NormKind.LAYER_NORM:
        deviation = "Deviation"
        nodes.append(_mean("X", "Mean", opset, axes))
        nodes.append(helper.make_node("Sub", ["X", "Mean"], [deviation]))
    # onnxruntime's fusions take Pow for a part of a norm, and Mul of a tensor with itself for none.
    product, second = ("Pow", "Two") if squares else ("Mul", deviation)
    nodes.append(helper.make_node(product, [deviation, second], ["Square"]))
    nodes.append(_mean("Square", "Variance", opset, axes))
    nodes.append(helper.make_node("Add", ["Variance", "Epsilon"], ["UnderRoot"]))
    nodes.append(helper.make_node("Sqrt", ["UnderRoot"], ["Root"]))
    if variant.elem_type == ElementType.DOUBLE:
        # onnxruntime folds the form with Div, and in float64 loses its epsilon: that of a LayerNorm
        # before 1.30, that of an RMSNorm in 1.31.1 as well.
        nodes.append(helper.make_node("Reciprocal", ["Root"], ["Inverse"]))
        nodes.append(helper.make_node("Mul", [deviation, "Inverse"], ["Normal"]))
    else:
        nodes.append(helper.make_node("Div", [deviation, "Root"], ["Normal"]))
    return nodes + _scaled(kind, opset, variant)


def _scaled(kind: NormKind, opset: int, variant: Variant) -> list[NodeProto]:
    """Y = Normal * Scale + Bias, in the type of Scale; where that is another, cast to A's last."""
    last = "Wide" if variant.mixed else "Y"
    nodes = [_cast_back(opset, "Normal", "Typed", "Scale", variant.parameter_type)]
    if kind == NormKind.LAYER_NORM:
        nodes.append(helper.make_node("Mul", ["Typed", "Scale"], ["Scaled"]))
        nodes.append(helper.make_node("Add", ["Scaled", "Bias"], [last]))
    else:
        nodes.append(helper.make_node("Mul", ["Typed", "Scale"], [last]))
    if variant.mixed:
        nodes.append(_cast_back(opset, last, "Y", "A", variant.elem_type))
    return nodes


def _to_stash_type(source: str, target: str) -> NodeProto:
    node = helper.make_node("Cast", [source], [target])
    return _refer(node, "to", "stash_type", AttributeProto.INT)


def _cast_back(opset: int, source: str, target: str, like: str, elem_type: int) -> NodeProto:
    if opset >= CASTLIKE_OPSET:
        return helper.make_node("CastLike", [source, like], [target])
    return helper.make_node("Cast", [source], [target], to=elem_type)


def _epsilon(opset: int) -> list[NodeProto]:
    """The attribute epsilon as a tensor of the stash type."""
    if opset >= 12:
        constant = helper.make_node("Constant", [], ["Epsilon32"])
        _refer(constant, "value_float", "epsilon", AttributeProto.FLOAT)
        return [constant, _to_stash_type("Epsilon32", "Epsilon")]
    # Opset 11 has no constant from an attribute, but LeakyRelu(-1) is -alpha.
    leaky = helper.make_node("LeakyRelu", ["MinusOne"], ["MinusEpsilon"])
    return [
        _number("MinusOne", -1.0),
        _refer(leaky, "alpha", "epsilon", AttributeProto.FLOAT),
        helper.make_node("Neg", ["MinusEpsilon"], ["Epsilon32"]),
        _to_stash_type("Epsilon32", "Epsilon"),
    ]


def _number(name: str, value: float) -> NodeProto:
    tensor = helper.make_tensor("", ElementType.FLOAT, [], [value])
    return helper.make_node("Constant", [], [name], value=tensor)


def _mean(source: str, target: str, opset: int, axes: list[int]) -> NodeProto:
    if opset >= 18:
        return helper.make_node("ReduceMean", [source, "Axes"], [target], keepdims=1)
    return helper.make_node("ReduceMean", [source], [target], axes=axes, keepdims=1)


def find_function(model: onnx.ModelProto, name: str) -> FunctionProto | None:
    """The function that a model already has under an operator's name."""
    for function in model.functions:
        if function.domain == DOMAIN and function.name == name:
            return function
    return None
