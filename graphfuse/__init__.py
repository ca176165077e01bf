"""graphfuse fuses residual Adds with the norms that read them, in ONNX models.

    import graphfuse
    graphfuse.scan("model.onnx")                      # what is there, and what is left and why
    graphfuse.optimize("model.onnx", "fused.onnx")    # fuse, validate, write
    graphfuse.session("model.onnx")                   # fuse in memory, and run it

Look:    scan, explain, activations
Change:  fuse, unfuse (in memory); optimize, unfuse_file (validated, and written);
         fuse_folder (each model of an export), fuse_batch (many, in processes of their own)
Compare: validate, bench
Run:     session; session_options, providers (for a session of your own)
Others:  export (from PyTorch), fuse_graph (of onnx-graphsurgeon), fuse (of onnx_ir too);
         graphfuse.integrations.onnx_ir and .olive have passes for their pipelines

What one asks for has a record: Feeds (what models are run on), Selection (which sites are fused),
Output (the file to write), Limits (what is admitted), BenchOptions. Results are records too. Every
error is a GraphfuseError, which says what is wrong and what to do next.

Importing the package imports neither torch nor onnxruntime; names load when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfuse.api.changing import fuse, optimize, unfuse, unfuse_file
    from graphfuse.api.looking import activations, explain, scan
    from graphfuse.api.serving import session
    from graphfuse.api.verdicts import bench, validate
    from graphfuse.api.whole_batches import fuse_batch
    from graphfuse.api.whole_folders import fuse_folder
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
    from graphfuse.records import (
        Explanation,
        FuseResult,
        NearMiss,
        Scan,
        Site,
        UnfuseResult,
        ValidationReport,
    )
    from graphfuse.records.folder_results import FolderResult
    from graphfuse.records.progress import Progress
    from graphfuse.records.reasons import Reason
    from graphfuse.records.requests import Feeds, Output, Selection
    from graphfuse.records.residual_stream import Reading
    from graphfuse.running.sessions import providers, session_options
    from graphfuse.speed.measurements import BenchOptions, BenchReport

__version__ = "0.1.0"

__all__ = [
    # the job
    "scan",
    "explain",
    "activations",
    "fuse",
    "unfuse",
    "optimize",
    "unfuse_file",
    "fuse_batch",
    "fuse_folder",
    "validate",
    "bench",
    "session",
    "session_options",
    "providers",
    "export",
    "fuse_graph",
    # what one asks for
    "BenchOptions",
    "Feeds",
    "Limits",
    "Output",
    "Progress",
    "Selection",
    # records
    "BenchReport",
    "Explanation",
    "FolderResult",
    "FuseResult",
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
    "api.looking": ("scan", "explain", "activations"),
    "api.changing": ("fuse", "unfuse", "optimize", "unfuse_file"),
    "api.whole_folders": ("fuse_folder",),
    "api.verdicts": ("validate", "bench"),
    "api.serving": ("session",),
    "api.whole_batches": ("fuse_batch",),
    "running.sessions": ("session_options", "providers"),
    "integrations.pytorch": ("export",),
    "integrations.graphsurgeon": ("fuse_graph",),
    "records.requests": ("Feeds", "Output", "Selection"),
    "records.folder_results": ("FolderResult",),
    "records.progress": ("Progress",),
    "records.residual_stream": ("Reading",),
    "records.reasons": ("Reason",),
    "files.limits": ("Limits",),
    "speed.measurements": ("BenchOptions", "BenchReport"),
    "records": (
        "Explanation",
        "FuseResult",
        "NearMiss",
        "Scan",
        "Site",
        "UnfuseResult",
        "ValidationReport",
    ),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"graphfuse.{home}"), name)
    raise AttributeError(f"module 'graphfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
