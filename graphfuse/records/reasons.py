"""The catalogue of reasons why an Add that feeds a norm is not fused.

One member per cause, each with the sentence that a user reads and what would change the verdict.
Tests assert the member, never the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """A cause for leaving a site: `sentence` explains it, `remedy` says what would help."""

    sentence: str
    remedy: str

    def __new__(cls, code: str, sentence: str, remedy: str) -> Reason:
        """Make a member whose value is its code."""
        member = object.__new__(cls)
        member._value_ = code
        member.sentence = sentence
        member.remedy = remedy
        return member

    # The norm is not the definition.
    EPSILON_OUTSIDE_ROOT = (
        "epsilon-outside-root",
        "epsilon is added to the square root, not under it",
        "write sqrt(variance + epsilon)",
    )
    EPSILON_NOT_CONSTANT = (
        "epsilon-not-constant",
        "epsilon is not one constant number: it is computed, an input overrides it, or the calls "
        "of a function give it differently",
        "make epsilon a constant of the model; inline a function whose calls differ",
    )
    EPSILON_NOT_POSITIVE = (
        "epsilon-not-positive",
        "epsilon is missing, or is no positive finite number, as a norm has it",
        "add a positive epsilon under the root",
    )
    EPSILON_PRECISION = (
        "epsilon-precision",
        "epsilon is out of float32's range, or the sum is float64 and epsilon is no float32 number",
        "choose an epsilon that a float attribute holds, such as 2^-17",
    )
    EXPONENT = (
        "exponent",
        "the deviation is not squared and divided by a square root",
        "a norm uses the exponents 2 and -1/2",
    )
    NOT_THE_DEFINITION = (
        "not-the-definition",
        "the algebra around the reduction is neither a LayerNorm nor an RMSNorm",
        "compare with scale * (x - mean(x)) / sqrt(variance + epsilon) + bias",
    )
    STATISTIC_CLAMPED = (
        "statistic-clamped",
        "the variance or its root is clamped, and the clamp may act: not a norm then",
        "add a positive epsilon under the root in its place, or clamp the variance at no more than "
        "the epsilon that is added",
    )
    NORM_QUANTIZED = (
        "norm-quantized",
        "the norm's own deviation, variance or root is rounded to integers (quantized): not a norm "
        "then",
        "leave the norm's nodes out of quantization: nodes_to_exclude of quantize_static, or "
        "quantize the fused model",
    )
    BATCH_STATISTICS = (
        "batch-statistics",
        "the norm is written as a BatchNormalization in training mode, with rows as its channels "
        "(Keras 2 does that)",
        "write it as mean, variance and root, or as LayerNormalization, before the export",
    )
    OTHER_AXES = (
        "other-axes",
        "the mean is not taken over the last axis alone",
        "where the axes are the last ones choose --ep cpu or --ep portable; else move the axis to "
        "the end of both operands, before the Add",
    )
    AXIS_NOT_PUT_BACK = (
        "axis-not-put-back",
        "a reduced axis is dropped and meets the full tensor without being put back",
        "reduce with keepdims=1",
    )
    PARAMETER_VARIES = (
        "parameter-varies",
        "scale or bias varies along an axis that is not normalised",
        "give the norm itself a scale of 1 or no bias, and multiply by this one, or add it, behind "
        "the norm",
    )
    PARAMETER_ENLARGES = (
        "parameter-enlarges",
        "scale or bias has more axes than the tensor, or enlarges it",
        "give it the shape of the last axis",
    )
    PARAMETER_TYPE = (
        "parameter-type",
        "scale or bias has another type than the sum",
        "convert the weights of the norm to the type of the sum",
    )
    PARAMETER_COMPUTED = (
        "parameter-computed",
        "an operand beside the norm is computed from activations, so it is no scale or bias",
        "give the norm itself a scale of 1 or no bias, and multiply by this operand, or add it, "
        "behind the norm",
    )
    PARAMETER_OF_SUM = (
        "parameter-of-sum",
        "scale or bias is computed from the sum, so the fused node would read its own result",
        "give the norm itself a scale of 1 or no bias, and multiply by this one, or add it, behind "
        "the norm",
    )
    FUNCTION_ATTRIBUTE = (
        "function-attribute",
        "an attribute of the norm is given by each call of the function that it is in",
        "inline the function before fusing",
    )
    NORM_UNKNOWN = (
        "norm-unknown",
        "an operator that is called a norm reads the sum, and no standard says what it computes",
        "export the norm in operators of ONNX, or add a function of that name to the model",
    )
    TOO_COMPLEX = (
        "too-complex",
        "the expression around the reduction has more terms, deeper ones or larger numbers than a "
        "norm has",
        "write the norm as scale * (x - mean(x)) / sqrt(variance + epsilon) + bias",
    )

    # Types and shapes.
    PRECISION_LOST = (
        "precision-lost",
        "a cast inside the norm is to a type that does not hold all values of the sum's",
        "keep the norm in the type of the sum or wider",
    )
    OUTPUT_TYPE = (
        "output-type",
        "the norm's output has another type than the sum",
        "cast back to the type of the sum",
    )
    ELEMENT_TYPE = (
        "element-type",
        "the sum is not float32, float16, bfloat16 or float64 where the target needs that",
        "choose --ep cpu or --ep portable, or convert the model to float32",
    )
    HIDDEN_SIZE = (
        "hidden-size",
        "the normalised extent is 0, or larger than 2^24",
        "nothing: no norm is meant",
    )
    UNKNOWN_SHAPE = (
        "unknown-shape",
        "a rank, a type or a normalised extent is not known, of the sum or of a tensor beside it",
        "say it in the model: the shapes of its inputs, normalised extents as numbers, and in "
        "value_info what an operator gives that ONNX does not know; inline functions first",
    )

    # The sum.
    VECTOR_OPERAND = (
        "vector-operand",
        "the Add only adds a vector (a bias), so it is not a residual",
        "nothing: there is no residual to fuse",
    )
    CONSTANT_SUM = (
        "constant-sum",
        "both operands of the Add are weights or constants, so it is no residual",
        "nothing: folding constants computes the sum, and the Add is gone",
    )
    SUM_RESHAPED = (
        "sum-reshaped",
        "the sum is reshaped or transposed before the norm reads it",
        "normalise the sum itself and reshape behind the norm; of rows that are taken apart or "
        "moved that is another norm",
    )
    SUM_NARROWED = (
        "sum-narrowed",
        "the sum is cast to a type that does not hold all its values before the norm reads it",
        "add in the type of the norm",
    )
    SUM_QUANTIZED = (
        "sum-quantized",
        "the sum is rounded to integers (quantized) before the norm reads it",
        "leave the Add and the norm out of quantization: nodes_to_exclude of quantize_static, or "
        "quantize the fused model",
    )
    SUM_SLICED = (
        "sum-sliced",
        "only a part of the sum is normalised",
        "take that part of both operands before the Add, where nothing else needs the sum",
    )
    SUM_JOINED = (
        "sum-joined",
        "the sum, or a part of it, is joined with other numbers before the norm reads it",
        "normalise before joining where whole rows are joined; the LayerNorm of [x, -x] is an "
        "RMSNorm of x, so write that; else nothing, as the norm is of something larger",
    )
    SUM_CLAMPED = (
        "sum-clamped",
        "the sum is clamped before the norm reads it",
        "nothing: the norm is of another value than the sum",
    )
    SUM_IN_SEQUENCE = (
        "sum-in-sequence",
        "the sum goes through a sequence or an optional before the norm reads it",
        "pass the tensor itself",
    )
    SUM_IN_OTHER_SCOPE = (
        "sum-in-other-scope",
        "the sum and the norm are in different graphs (a branch, a loop body, a function)",
        "inline functions, or move the Add to where its norm is",
    )
    SUM_OF_MANY = (
        "sum-of-many",
        "a Sum of more or fewer than two tensors is not an Add",
        "write the last addition as an Add; a Sum of one tensor adds nothing",
    )
    INTEGER_SUM = (
        "integer-sum",
        "the sum is computed in integers",
        "add in floating point",
    )
    INSIDE_A_NORM = (
        "inside-a-norm",
        "the Add is itself a part of a norm: of its deviation, or of a bias",
        "nothing: it adds no residual",
    )
    SUM_TAKEN = (
        "sum-taken",
        "an earlier norm already took this Add; this one reads its sum",
        "nothing: one Add fuses once",
    )

    # What else reads the pieces.
    STATISTICS_READ = (
        "statistics-read",
        "a second output of the norm (its mean, inverse deviation, a mask, another of its "
        "function) is read elsewhere",
        "the fused node does not yield it: drop that reader, or inline the function",
    )

    NORM_IN_FUNCTION = (
        "norm-in-function",
        "the norm is a part of a function that does more, so it cannot be taken out of the call",
        "inline the function before fusing",
    )

    # The target.
    TARGET_RANK = (
        "target-rank",
        "the target's operator does not take a tensor of this rank",
        "choose --ep cpu or --ep portable",
    )
    TARGET_BROADCAST = (
        "target-broadcast",
        "the target's operator cannot broadcast these operands, or it cannot be proven",
        "export with known shapes, or choose --ep cpu or --ep portable",
    )
    RUNTIME_FAULT = (
        "runtime-fault",
        "onnxruntime's kernel for the fused operator is wrong in the version that is to run it",
        "name a version that is right, as what was seen says, with --runtime, or choose --ep "
        "portable",
    )
    RUNTIME_PRECISION = (
        "runtime-precision",
        "the model computes the norm in a wider type than the sum's, and no source shows that the "
        "target's kernel does",
        "choose --ep portable",
    )
    OPSET = (
        "opset",
        "the model's opset is too low for the fused operator's function",
        "re-export the model at opset 17 or later",
    )
    MIXED_TYPES = (
        "mixed-types",
        "one function serves one type, axis and rank at this opset, and another site chose its own",
        "re-export the model at opset 23 or later, where one serves all",
    )
    NAME_TAKEN = (
        "name-taken",
        "the model already has another function under the fused operator's name",
        "give that function another name, or fuse the model before it is added",
    )
    PUT_BACK = (
        "put-back",
        "the fused node failed validation, so the site was put back as it was",
        "another onnxruntime where G1 failed at its bound of 8, else report it with the graph",
    )
    SLOWER = (
        "slower",
        "the fused node does not beat the nodes that it would replace",
        "nothing: the original is as fast; --no-costs fuses it all the same",
    )
    EXCLUDED = (
        "excluded",
        "left out by --include or --exclude",
        "change the selection",
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not done: the catalogue's reason and what was seen.

    What was seen is `seen` as text, with the `details` in its braces where there are any. It is
    printed only when someone reads it: most refusals are of no interest.
    """

    reason: Reason
    seen: object = ""
    details: tuple[object, ...] = ()

    @property
    def got(self) -> str:
        """What was seen, as text."""
        return str(self.seen).format(*self.details) if self.details else str(self.seen)


class RefusedError(Exception):
    """A refusal on its way to whoever asked: an expression without a normal form, say."""

    def __init__(self, reason: Reason, seen: object = "", *details: object) -> None:
        super().__init__(reason)
        self.refusal = Refusal(reason, seen, details)
