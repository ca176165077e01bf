"""Sessions of onnxruntime on one execution provider, with graphfuse's kernels or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from graphfuse import foreign
from graphfuse.errors import ProviderError, UsageError
from graphfuse.graph.model_file import serialize
from graphfuse.graph.weights import without_links
from graphfuse.kernels import register, why_not

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CRASHING = ("FuseFp16InitializerToFp32NodeTransformer",)
"""Off in every run: in onnxruntime 1.31.1 it crashes the process on some float16 models."""

FOLDER_KEY = "session.model_external_initializers_file_folder_path"


CPU = "CPUExecutionProvider"

Providers = str | Sequence[str | tuple[str, Any]]


def session_options(
    kernels: bool | None = None, providers: Providers = (CPU,)
) -> foreign.SessionOptions:
    """An onnxruntime.SessionOptions for a session that runs fused models on `providers`.

    graphfuse's CPU kernels are registered when the CPU comes first; where a GPU does, they would
    draw its fused nodes to the CPU. Without them fused nodes run through their functions.

    providers: as for onnxruntime.InferenceSession, names or (name, options) pairs.
    kernels: True registers them whatever the providers are, and raises ProviderError when they were
    not built or onnxruntime cannot load them; False registers none; None registers what there is.
    """
    options: foreign.SessionOptions = foreign.onnxruntime().SessionOptions()
    if kernels is None:
        kernels = has_kernels(providers)
    if kernels:
        register(options)
    return options


def has_kernels(providers: Providers) -> bool:
    """Whether sessions on these providers run fused nodes with graphfuse's own kernels."""
    if not providers:
        raise UsageError(
            "no execution provider is named", f"name the session's, such as providers=[{CPU!r}]"
        )
    first = providers if isinstance(providers, str) else providers[0]
    name = first if isinstance(first, str) else first[0]
    return name == CPU and not why_not()


def require_provider(provider: str) -> None:
    """Raise ProviderError when onnxruntime does not have an execution provider."""
    runtime = foreign.onnxruntime()
    available = runtime.get_available_providers()
    if provider not in available:
        extra = "cuda" if "CUDA" in provider else "cpu"
        raise ProviderError(
            f"onnxruntime {runtime.__version__} has no {provider} (it has {', '.join(available)})",
            f"install `graphfuse[{extra}]` on a machine that has one, "
            "or skip the run with `fuse --validate none`",
        )


def session(
    model: onnx.ModelProto | bytes,
    folder: Path,
    provider: str = CPU,
    optimize: bool = True,
    kernels: bool | None = None,
) -> foreign.Session:
    """A session on one execution provider; external data is looked for in `folder`.

    `kernels` is that of `session_options`.
    """
    runtime = foreign.onnxruntime()
    options = session_options(kernels, (provider,))
    options.log_severity_level = 4
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if isinstance(model, onnx.ModelProto):
        model, folder = without_links(model, folder)
    options.add_session_config_entry(FOLDER_KEY, str(folder.resolve()))
    data = serialize(model) if isinstance(model, onnx.ModelProto) else model
    created: foreign.Session = runtime.InferenceSession(
        data, options, providers=[provider], disabled_optimizers=list(CRASHING)
    )
    return created


def run(session: foreign.Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a session and give its outputs by name. Feeds that the session does not take are left."""
    wanted = {argument.name for argument in session.get_inputs()}
    names = [argument.name for argument in session.get_outputs()]
    values = session.run(names, {k: v for k, v in feeds.items() if k in wanted})
    return dict(zip(names, values, strict=True))
