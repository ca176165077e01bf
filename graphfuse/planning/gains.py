"""What a model gains beside nodes when a plan is carried out: functions, operator sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from graphfuse import ops
from graphfuse.records import Fusion, Plan


def with_gains(model: onnx.ModelProto, plan: Plan) -> Plan:
    """A plan with what the model itself gains by its fusions."""
    if not plan.fusions:
        return plan
    needed = (plan.fusions[0].domain, ops.VERSION)
    within = {fusion.site.scope.function for fusion in plan.fusions}
    edited = sorted(index for index in within if index is not None)
    lacking = [index for index in edited if _lacks(model.functions[index], needed[0])]
    lowest = 4 if plan.vectors else 0
    if any(fusion.body is not None for fusion in plan.fusions):
        lowest = ops.MINIMUM_IR_VERSION
    return replace(
        plan,
        functions=_added_functions(model, plan.fusions),
        imports=(needed,) if _lacks(model, needed[0]) else (),
        function_imports=tuple((index, needed) for index in lacking),
        ir_version=lowest,
    )


def _lacks(holder: onnx.ModelProto | onnx.FunctionProto, domain: str) -> bool:
    return all(entry.domain != domain for entry in holder.opset_import)


def _added_functions(
    model: onnx.ModelProto, fusions: Sequence[Fusion]
) -> tuple[tuple[int, onnx.FunctionProto], ...]:
    """The functions that fused nodes need and the model lacks, each with its place in the result.

    Ours stand first, in the order of the operators: so what is added later stands where it would
    have stood at once, and callees stand before callers, as onnx.reference wants it.
    """
    needed = {fusion.op_type: fusion.body for fusion in fusions}
    first = list[str]()
    for function in model.functions:
        if function.domain != ops.DOMAIN or function.name not in ops.OPERATORS:
            break
        first.append(function.name)
    new = {
        name: body
        for name, body in needed.items()
        if body is not None and ops.find_function(model, name) is None
    }
    order = sorted([*first, *new], key=ops.OPERATORS.index)
    return tuple((at, new[name]) for at, name in enumerate(order) if name in new)
