"""The frozen records that the stages hand each other."""

from __future__ import annotations

from graphfuse.records.results import Cost, FuseResult, Fusion, HashedFile, Plan, Vector
from graphfuse.records.runs import (
    Activation,
    Change,
    Check,
    NotShown,
    Unpaired,
    ValidationReport,
)
from graphfuse.records.sites import (
    LAYER_NORM,
    MAIN,
    RMS_NORM,
    BiasAdd,
    Dim,
    Explanation,
    Expression,
    Factor,
    NearMiss,
    NodeRef,
    Parameter,
    Scan,
    ScopeRef,
    Site,
    TensorType,
)

__all__ = [
    "Activation",
    "BiasAdd",
    "Change",
    "Check",
    "Cost",
    "Dim",
    "Explanation",
    "Expression",
    "Factor",
    "FuseResult",
    "Fusion",
    "HashedFile",
    "LAYER_NORM",
    "MAIN",
    "NearMiss",
    "NodeRef",
    "NotShown",
    "Parameter",
    "Plan",
    "RMS_NORM",
    "Scan",
    "ScopeRef",
    "Site",
    "TensorType",
    "Unpaired",
    "ValidationReport",
    "Vector",
]
