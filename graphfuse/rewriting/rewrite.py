"""A plan carried out on a copy of a model, and shown to have changed nothing else."""

from __future__ import annotations

import onnx

from graphfuse.errors import InternalError
from graphfuse.records import Plan
from graphfuse.rewriting.edit import edit
from graphfuse.rewriting.proof import problem


def rewrite(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Apply a plan to a copy of a model. A plan without fusions gives an equal copy.

    Raises InternalError, and changes nothing, when the result is not provably the same model
    outside the planned edits.
    """
    result = edit(model, plan)
    found = problem(model, result, plan) if plan.fusions else ""
    if found:
        raise InternalError(found)
    return result
