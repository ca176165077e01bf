"""graphfuse fuses residual Adds with the norms that read them, in ONNX models.

    import graphfuse
    scan = graphfuse.scan("model.onnx")                    # what is there, and what is left and why
    graphfuse.optimize("model.onnx", "fused.onnx")         # fuse, validate, write

Importing the package imports neither torch nor onnxruntime; names load when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfuse.errors import (
        GateError,
        GraphfuseError,
        InternalError,
        ModelError,
        OriginalModelError,
        ProviderError,
        UsageError,
        ValidationError,
        WriteError,
    )
    from graphfuse.files.limits import Limits
    from graphfuse.integrations.graphsurgeon import fuse_graph
    from graphfuse.integrations.pytorch import export
    from graphfuse.pipeline import activations, fuse, optimize, scan, validate
    from graphfuse.records import FuseResult, NearMiss, Scan, Site, UnfuseResult, ValidationReport
    from graphfuse.records.reasons import Reason
    from graphfuse.records.residual_stream import Reading
    from graphfuse.running.sessions import providers, session_options
    from graphfuse.unfusing import unfuse

__version__ = "0.1.0"

__all__ = [
    # the job
    "scan",
    "fuse",
    "unfuse",
    "validate",
    "optimize",
    "activations",
    "export",
    "fuse_graph",
    "session_options",
    "providers",
    # records
    "FuseResult",
    "Limits",
    "NearMiss",
    "Reading",
    "Reason",
    "Scan",
    "Site",
    "UnfuseResult",
    "ValidationReport",
    # errors
    "GraphfuseError",
    "GateError",
    "InternalError",
    "ModelError",
    "OriginalModelError",
    "ProviderError",
    "UsageError",
    "ValidationError",
    "WriteError",
]

_HOMES = {
    "pipeline": ("scan", "fuse", "validate", "optimize", "activations"),
    "integrations.pytorch": ("export",),
    "integrations.graphsurgeon": ("fuse_graph",),
    "records.residual_stream": ("Reading",),
    "unfusing": ("unfuse",),
    "running.sessions": ("session_options", "providers"),
    "records.reasons": ("Reason",),
    "files.limits": ("Limits",),
    "records": ("FuseResult", "NearMiss", "Scan", "Site", "UnfuseResult", "ValidationReport"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"graphfuse.{home}"), name)
    raise AttributeError(f"module 'graphfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
