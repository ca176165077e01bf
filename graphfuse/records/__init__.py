"""The frozen records that the stages hand each other; each loads when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfuse.records.provenance import HashedFile
    from graphfuse.records.results import (
        Cost,
        FuseResult,
        Fusion,
        Plan,
        UnfuseResult,
        Vector,
    )
    from graphfuse.records.runs import (
        Certificate,
        CertificateVerdict,
        Change,
        Check,
        NotShown,
        Unpaired,
        ValidationReport,
    )
    from graphfuse.records.sites import (
        MAIN,
        BiasAdd,
        Dim,
        Explanation,
        Expression,
        Factor,
        Layout,
        NearMiss,
        NodeRef,
        NormKind,
        Parameter,
        Scan,
        ScopeRef,
        Site,
        TensorType,
    )

__all__ = [
    "BiasAdd",
    "Certificate",
    "CertificateVerdict",
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
    "Layout",
    "MAIN",
    "NearMiss",
    "NodeRef",
    "NormKind",
    "NotShown",
    "Parameter",
    "Plan",
    "Scan",
    "ScopeRef",
    "Site",
    "TensorType",
    "UnfuseResult",
    "Unpaired",
    "ValidationReport",
    "Vector",
]

_HOMES = {
    "provenance": ("HashedFile",),
    "results": ("Cost", "FuseResult", "Fusion", "Plan", "UnfuseResult", "Vector"),
    "runs": (
        "Certificate",
        "CertificateVerdict",
        "Change",
        "Check",
        "NotShown",
        "Unpaired",
        "ValidationReport",
    ),
    "sites": (
        "MAIN",
        "BiasAdd",
        "Dim",
        "Explanation",
        "Expression",
        "Factor",
        "Layout",
        "NearMiss",
        "NodeRef",
        "NormKind",
        "Parameter",
        "Scan",
        "ScopeRef",
        "Site",
        "TensorType",
    ),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"graphfuse.records.{home}"), name)
    raise AttributeError(f"module 'graphfuse.records' has no attribute {name!r}")
