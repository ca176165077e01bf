"""The one door to libraries without types: onnxruntime, mpmath.

They are imported when they are first needed, so that `import graphfuse` stays light. What graphfuse
uses of them is written down here as protocols; nothing else in the package imports them.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from graphfuse.errors import ProviderError, in_one_line
from graphfuse.system import machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class SessionOptions(Protocol):
    """onnxruntime.SessionOptions."""

    graph_optimization_level: Any
    intra_op_num_threads: int
    enable_cpu_mem_arena: bool
    enable_profiling: bool
    profile_file_prefix: str
    optimized_model_filepath: str
    log_severity_level: int

    def add_session_config_entry(self, key: str, value: str | bytes) -> None: ...
    def get_session_config_entry(self, key: str) -> str: ...
    def register_custom_ops_library(self, path: str) -> None: ...


class NodeArg(Protocol):
    """onnxruntime.NodeArg: an input or output of a session."""

    name: str
    type: str
    shape: list[int | str | None]


class Session(Protocol):
    """onnxruntime.InferenceSession."""

    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Mapping[str, Array],
        run_options: Any = None,
    ) -> list[Array]: ...
    def run_with_ort_values(
        self, output_names: Sequence[str], feeds: Mapping[str, Any]
    ) -> list[Any]: ...
    def run_with_iobinding(self, binding: Any) -> None: ...
    def io_binding(self) -> Any: ...
    def end_profiling(self) -> str: ...
    def get_providers(self) -> list[str]: ...
    def get_inputs(self) -> list[NodeArg]: ...
    def get_outputs(self) -> list[NodeArg]: ...
    def get_overridable_initializers(self) -> list[NodeArg]: ...


class OnnxRuntime(Protocol):
    """The module onnxruntime."""

    __version__: str
    GraphOptimizationLevel: Any
    SessionOptions: Any
    InferenceSession: Any
    OrtValue: Any
    RunOptions: Any

    def get_available_providers(self) -> list[str]: ...


def onnxruntime() -> OnnxRuntime:
    """The module onnxruntime; ProviderError naming the extras when it is not installed."""
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        machine.check(error, "importing onnxruntime")
        raise ProviderError(
            f"onnxruntime cannot be imported ({error})",
            "install it with `pip install 'graphfuse[cpu]'`, "
            "or `pip install 'graphfuse[cuda]'` for NVIDIA GPUs",
        ) from error
    if not hasattr(module, "InferenceSession"):
        # Two wheels (onnxruntime, onnxruntime-gpu) share one folder; removing one breaks the other.
        raise ProviderError(
            "onnxruntime is installed but broken (it has no InferenceSession)",
            "uninstall onnxruntime and onnxruntime-gpu, then install one of them again",
        )
    return cast(OnnxRuntime, module)


def available_providers() -> list[str]:
    """The execution providers that onnxruntime has here, in its order of preference."""
    return onnxruntime().get_available_providers()


class MpMath(Protocol):
    """The module mpmath."""

    __version__: str
    MPContext: Any


def mpmath() -> MpMath:
    """The module mpmath; ProviderError naming the extra when it is not installed."""
    try:
        return cast(MpMath, importlib.import_module("mpmath"))
    except ImportError as error:
        raise ProviderError(
            f"a certificate needs mpmath, which cannot be imported ({in_one_line(error)})",
            "install it with `pip install 'graphfuse[certify]'`",
        ) from error


def transformers() -> Any:
    """The module transformers; ProviderError naming the extra when it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        machine.check(error, "importing transformers")
        raise ProviderError(
            f"a folder of Hugging Face needs transformers, which cannot be imported "
            f"({in_one_line(error)})",
            "install it with `pip install 'graphfuse[transformers]'`",
        ) from error


def fsspec() -> Any:
    """The module fsspec; ProviderError naming the extra when it is not installed."""
    return _for_many("fsspec", "a URL", "remote")


def ray() -> Any:
    """The module ray; ProviderError naming the extra when it is not installed."""
    return _for_many("ray", "--ray", "ray")


def _for_many(name: str, wants: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProviderError(
            f"{wants} needs {name}, which cannot be imported ({in_one_line(error)})",
            f"install it with `pip install 'graphfuse[{extra}]'`",
        ) from error


def load_cuda_libraries() -> None:
    """Load CUDA's and cuDNN's libraries where pip put them, for onnxruntime's CUDA provider.

    Without it they are found only in the system's folders, or when torch was imported before. What
    is missing shows when the session is made.
    """
    preload: Any = getattr(onnxruntime(), "preload_dlls", None)
    if preload is not None:
        # It prints one line for each library that it does not find; the session's error is enough.
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


NOT_INSTALLED = "not installed"


def version_of(package: str) -> str:
    """The version of an installed package, and which of its names; or that there is none."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("onnxruntime", "onnxruntime-gpu") if package == "onnxruntime" else (package,)
    for name in names:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        # None where the file that says it cannot be read.
        if found:
            return f"{found} ({name})" if name == "onnxruntime-gpu" else found
    return NOT_INSTALLED
