"""Calls that run a session once, on memory that is bound beforehand."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from graphfuse.files.model_file import Model
from graphfuse.running import empty_inputs
from graphfuse.running.sessions import CPU, CUDA, plain_options, run, session, session_options
from graphfuse.speed.timing import Threads
from graphfuse.system import libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DEVICES = {CPU: "cpu", CUDA: "cuda", "TensorrtExecutionProvider": "cuda"}
"""Where each provider has its tensors; the host for those that are not named."""


class SessionKind(StrEnum):
    """Whose session a model runs in."""

    DEFAULT = "default"
    """onnxruntime's own, as it comes."""
    BEST = "best"
    """onnxruntime's own without those of its fusions that are slow in this version."""
    GRAPHFUSE = "graphfuse"
    """That of graphfuse.session_options(): the same, with graphfuse's kernels."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model and the session that it gets."""

    name: str
    model: Model
    kind: SessionKind

    @property
    def source(self) -> Path | onnx.ModelProto:
        """What onnxruntime loads: the file where there is one, as a user's session does.

        A file on which it would crash is no way to load it.
        """
        crashes = bool(empty_inputs.crashing(self.model.proto))
        return self.model.proto if self.model.file is None or crashes else self.model.file

    def options(self, provider: str, threads: Threads) -> libraries.SessionOptions:
        """The options that its session gets."""
        if self.kind == SessionKind.GRAPHFUSE:
            options = session_options(providers=(provider,))
        else:
            options = plain_options(best=self.kind == SessionKind.BEST)
        threads.apply(options)
        return options

    def session(
        self, provider: str, threads: Threads, options: libraries.SessionOptions | None = None
    ) -> libraries.Session:
        """A session at ORT_ENABLE_ALL."""
        options = options or self.options(provider, threads)
        return session(self.source, self.model.folder, provider, options=options)


def caller(
    made: libraries.Session, feeds: Mapping[str, Array], provider: str
) -> Callable[[], object]:
    """A call that runs a session once; inputs are on the provider's device, outputs stay there."""
    wanted = {argument.name: argument for argument in made.get_inputs()}
    outputs = made.get_outputs()
    tensors = [*wanted.values(), *outputs]
    if not all(argument.type.startswith("tensor(") for argument in tensors):
        # Sequences and optionals cannot be bound.
        return lambda: run(made, feeds)
    device = DEVICES.get(provider, "cpu")
    binding = made.io_binding()
    ort_value = libraries.onnxruntime().OrtValue
    kept: list[object] = []
    for name, array in feeds.items():
        if name in wanted:
            if wanted[name].type == "tensor(string)":
                return lambda: run(made, feeds)
            value = _value(ort_value, array, device)
            binding.bind_ortvalue_input(name, value)
            kept.append(value)
    for argument in outputs:
        binding.bind_output(argument.name, device)

    def call() -> object:
        made.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return kept

    return call


def _value(ort_value: Any, array: Array, device: str) -> Any:
    """A tensor on a device; types that numpy lacks are handed over by their number."""
    if array.dtype.isbuiltin == 1:
        return ort_value.ortvalue_from_numpy(array, device, 0)
    number = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return ort_value.ortvalue_from_numpy_with_onnx_type(array, number)


def environment() -> dict[str, str]:
    """What a figure depends on, for people: processor, cores, versions."""
    from graphfuse import __version__, kernels

    return {
        "machine": _processor(),
        "graphfuse": __version__,
        "onnxruntime": libraries.version_of("onnxruntime"),
        "kernels": kernels.why_not() or "registered",
        "python": platform.python_version(),
    }


def _processor() -> str:
    import os

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} processors"
