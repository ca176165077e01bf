"""Sessions of onnxruntime on one execution provider, with graphfuse's kernels or without."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse import ops
from graphfuse.errors import ProviderError, UsageError
from graphfuse.files.model_file import is_utf8, serialize
from graphfuse.files.weights import as_file, has_external, without_links
from graphfuse.graph.bodies import strange
from graphfuse.kernels import register, why_not
from graphfuse.planning import faults, runtimes, targets
from graphfuse.running import empty_inputs
from graphfuse.system import libraries, machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BFLOAT16 = "tensor(bfloat16)"
FOLDER_KEY = "session.model_external_initializers_file_folder_path"
FOLDER_SINCE = (1, 21)
"""1.20 has the key, and yet looks for the data of a model in memory where the process is."""
NO_FALLBACK_KEY = "session.disable_cpu_ep_fallback"
DISABLED_KEY = "optimization.disable_specified_optimizers"

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
EXTRAS = {CPU: "cpu", CUDA: "cuda"}
"""The extra of graphfuse that brings an onnxruntime with the provider."""

OPTIMIZATION_LEVELS = (
    "ORT_DISABLE_ALL",
    "ORT_ENABLE_BASIC",
    "ORT_ENABLE_EXTENDED",
    "ORT_ENABLE_ALL",
)
"""onnxruntime's levels of optimization, from none to all."""

Providers = str | Sequence[str | tuple[str, Any]]


NO_OPERATOR = "NoSuchOperator"


def session_options(
    kernels: bool | None = None, providers: Providers = (CPU,)
) -> libraries.SessionOptions:
    """An onnxruntime.SessionOptions for a session that runs fused models on `providers`.

    Where the CPU comes first, graphfuse's kernels are registered (in a session that a GPU comes
    first in, they would draw its fused nodes to the CPU), and those of onnxruntime's own fusions
    are off that make a slower node in the installed version (runtimes.py): from 1.30 on
    SkipLayerNormFusion, which takes an Add and LayerNormalization that were left, and functions
    without a kernel. Without kernels fused nodes run through their functions. Off on every provider
    is FuseFp16InitializerToFp32NodeTransformer where it crashes the process on float16 models.

    Options of the providers themselves are not a part of it: onnxruntime takes them with their
    names, so pass `graphfuse.providers("cuda")` as the session's `providers`.

    Args:
        kernels: True registers them whatever the providers are; False registers none; None
            registers what there is.
        providers: As for onnxruntime.InferenceSession, names or (name, options) pairs.

    Returns:
        The options, which may be changed before the session is made.

    Raises:
        ProviderError: When onnxruntime is missing, or `kernels` is True and they were not built, or
            onnxruntime cannot load them.
        UsageError: When no provider is named.

    Example:
        >>> import onnxruntime
        >>> graphfuse.optimize("models/bert.onnx", "fused.onnx", level="none").changed
        True
        >>> session = onnxruntime.InferenceSession("fused.onnx", graphfuse.session_options())
    """
    slow = runtimes.runtime().slow_fusions if _first(providers) == CPU else ()
    options = _options((*_crashing(), *slow))
    if kernels is None:
        kernels = has_kernels(providers)
    if kernels:
        register(options)
    return options


def provider_options(provider: str, version: faults.AnyVersion | None = None) -> dict[str, str]:
    """The options that an execution provider needs to be right in a version of onnxruntime.

    For CUDA before 1.27 that is strict mode: without it SkipLayerNormalization and
    SkipSimplifiedLayerNormalization sum in float16 (microsoft/onnxruntime#29034), those that
    onnxruntime's optimiser makes of a model included. It takes no skip that broadcasts, and plans
    for these versions have none. Empty for all others.

    version: that of onnxruntime, such as '1.24.4' or (1, 24); None is the installed one.
    """
    if version is None:
        version = libraries.onnxruntime().__version__
    return {faults.STRICT_MODE: "1"} if faults.needs_strict_mode(provider, version) else {}


def providers(
    ep: str | Sequence[str], version: faults.AnyVersion | None = None
) -> list[tuple[str, dict[str, str]]]:
    """What to pass as an InferenceSession's `providers`, with the options that they need.

    Args:
        ep: Targets as `fuse` takes them ("cuda", "cuda,cpu", "auto"), in the order of preference.
        version: That of onnxruntime, such as "1.24.4" or (1, 24); None is the installed one.

    Returns:
        Names of execution providers, each with its options.

    Raises:
        UsageError: For an unknown target.

    Example:
        >>> graphfuse.providers("cuda,cpu", "1.24")  # doctest: +NORMALIZE_WHITESPACE
        [('CUDAExecutionProvider', {'enable_skip_layer_norm_strict_mode': '1'}),
         ('CPUExecutionProvider', {})]
    """
    names = dict.fromkeys(targets.target(ep).providers.values())
    return [(name, provider_options(name, version)) for name in names]


def with_needed(providers: Providers) -> list[tuple[str, dict[str, Any]]]:
    """Providers as (name, options) pairs, with the options that the installed version needs.

    Names may be targets', such as `cpu`: they are the execution provider's then.

    Raises UsageError when none is named, and ProviderError when onnxruntime lacks one.
    """
    _first(providers)
    given = (providers,) if isinstance(providers, str) else providers
    known = {name: row.provider for name, row in targets.TARGETS.items()}
    pairs: list[tuple[str, dict[str, Any]]] = [
        (known.get(each, each), {}) if isinstance(each, str) else (each[0], dict(each[1]))
        for each in given
    ]
    for name, _ in pairs:
        require_provider(name, otherwise="name one that it has")
    return [(name, {**provider_options(name), **options}) for name, options in pairs]


def _options(disabled: Sequence[str]) -> libraries.SessionOptions:
    """onnxruntime's defaults without some optimisers.

    InferenceSession's argument `disabled_optimizers` would replace these, so nothing here uses it.
    """
    options: libraries.SessionOptions = libraries.onnxruntime().SessionOptions()
    options.add_session_config_entry(DISABLED_KEY, ";".join(disabled))
    return options


def has_kernels(providers: Providers) -> bool:
    """Whether sessions on these providers run fused nodes with graphfuse's own kernels."""
    return _first(providers) == CPU and not why_not()


def takes_kernels(model: onnx.ModelProto | bytes | Path, provider: str) -> bool:
    """Whether a session of a model is to have graphfuse's kernels, on what is known of it."""
    return has_kernels(provider) and not (isinstance(model, onnx.ModelProto) and strange(model))


def runs_kernels(model: onnx.ModelProto, provider: str) -> bool:
    """Whether graphfuse's kernels make a difference to a model: it has nodes of ours as well."""
    own = any(entry.domain == ops.DOMAIN for entry in model.opset_import)
    return own and takes_kernels(model, provider)


def _first(providers: Providers) -> str:
    if not providers:
        raise UsageError(
            "no execution provider is named", f"name the session's, such as providers=[{CPU!r}]"
        )
    first = providers if isinstance(providers, str) else providers[0]
    return first if isinstance(first, str) else first[0]


def release() -> runtimes.Version:
    """The minor version of the onnxruntime that is imported, such as (1, 20)."""
    return runtimes.parse_version(libraries.onnxruntime().__version__)


def require_provider(
    provider: str,
    since: tuple[int, int] = (0, 0),
    otherwise: str = "skip the run with `fuse --validate none`",
) -> None:
    """Raise ProviderError when onnxruntime lacks a provider, or is older than `since`."""
    runtime = libraries.onnxruntime()
    if release() < since:
        raise ProviderError(
            f"onnxruntime {runtime.__version__} is too old for the fused nodes on {provider}",
            f"install {since[0]}.{since[1]} or later",
        )
    available = runtime.get_available_providers()
    if provider not in available:
        extra = EXTRAS.get(provider)
        build = f"`graphfuse[{extra}]`" if extra else "a build of onnxruntime that has it"
        raise ProviderError(
            f"onnxruntime {runtime.__version__} has no {provider} (it has {', '.join(available)})",
            f"install {build} on a machine for it, or {otherwise}",
        )
    if provider == CUDA:
        libraries.load_cuda_libraries()


def plain_options(best: bool = False) -> libraries.SessionOptions:
    """What a session without graphfuse has: onnxruntime's defaults, but for what crashes.

    `best` gives what can be had on the CPU without graphfuse: its slow fusions off as well.
    """
    return _options((*_crashing(), *(runtimes.runtime().slow_fusions if best else ())))


def _crashing() -> tuple[str, ...]:
    """Off in every run: they crash the process on some models, fused or not."""
    return faults.off(libraries.onnxruntime().__version__)


@cache
def is_operator(domain: str, op_type: str, version: int) -> bool:
    """Whether onnxruntime has an operator of a name in a version of its domain.

    A model's own function of that name is then never called. Asked is a session of one node, and
    one of a name that nobody has: where both are refused in the same words, there is none.
    """
    asked, nothing = (_refusal(domain, name, version) for name in (op_type, NO_OPERATOR))
    return asked != nothing.replace(NO_OPERATOR, op_type)


def _refusal(domain: str, op_type: str, version: int) -> str:
    """What onnxruntime says of a model of one node that reads one tensor; '' where it takes it."""
    graph = onnx.GraphProto(name="node")
    graph.node.append(onnx.NodeProto(op_type=op_type, domain=domain, input=["x"], output=["y"]))
    graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None))
    graph.output.add(name="y")
    model = onnx.ModelProto(ir_version=8, graph=graph)
    model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid("", 17))
    try:
        session(model, Path(), kernels=False)
    except Exception as error:
        # onnxruntime raises classes of its own.
        machine.check(error, f"asking onnxruntime for {domain}::{op_type}")
        return str(error)
    return ""


def session(
    model: onnx.ModelProto | bytes | Path,
    folder: Path,
    provider: str = CPU,
    optimize: bool | str = True,
    kernels: bool | None = None,
    options: libraries.SessionOptions | None = None,
    fallback: bool = True,
) -> libraries.Session:
    """A session on one execution provider; external data is looked for in `folder`.

    `kernels` is that of `session_options`, but that None registers none for a model with a function
    of its own under the name of one of them: they would run in its place. All else is onnxruntime's
    default, so that both models of a validation are optimised alike; `optimize` may be the name of
    a level. `options` stand in their
    place. Without `fallback` no node may be given to the CPU in place of the provider. Raises
    ProviderError when
    onnxruntime lists the provider and cannot start it: it would go on with the CPU.
    """
    runtime = libraries.onnxruntime()
    if provider == CUDA:
        libraries.load_cuda_libraries()
    if options is None:
        options = plain_options()
        if takes_kernels(model, provider) if kernels is None else kernels:
            register(options)
    options.log_severity_level = 4
    if not fallback and provider != CPU:
        options.add_session_config_entry(NO_FALLBACK_KEY, "1")
    level = optimize if isinstance(optimize, str) else OPTIMIZATION_LEVELS[-1 if optimize else 0]
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    given = [(provider, provider_options(provider, runtime.__version__))]
    return of_model(model, folder, given, options)


def of_model(
    model: onnx.ModelProto | bytes | Path,
    folder: Path,
    providers: Sequence[tuple[str, Mapping[str, Any]]],
    options: libraries.SessionOptions,
) -> libraries.Session:
    """A session with these very options; external data is looked for in `folder`.

    Raises ProviderError when onnxruntime lists the first provider and cannot start it.
    """
    runtime, first = libraries.onnxruntime(), providers[0][0]
    if isinstance(model, onnx.ModelProto):
        model, folder = without_links(empty_inputs.without(model), folder)
    if isinstance(model, Path) and not is_utf8(model):
        model = model.read_bytes()
    if not isinstance(model, onnx.ModelProto) or has_external(model):
        # As bytes: the folder's name need not be UTF-8 either.
        options.add_session_config_entry(FOLDER_KEY, os.fsencode(folder.resolve()))
    data: object = serialize(model) if isinstance(model, onnx.ModelProto) else model
    with contextlib.ExitStack() as stack:
        if isinstance(model, onnx.ModelProto) and release() < FOLDER_SINCE:
            # On Windows what the session has mapped stays there.
            made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            scratch = stack.enter_context(made)
            data = as_file(model, folder, Path(scratch)) or data
        created: libraries.Session = runtime.InferenceSession(
            data, options, providers=list(providers)
        )
    if first not in created.get_providers():
        raise ProviderError(
            f"onnxruntime {runtime.__version__} lists {first} and cannot start it: "
            f"the session has {', '.join(created.get_providers())} only",
            "check the driver and the provider's libraries; onnxruntime logs what it misses",
        )
    return created


def run(
    session: libraries.Session, feeds: Mapping[str, Array], limit: float | None = None
) -> dict[str, Array]:
    """Run a session and give its outputs by name. Feeds that the session does not take are left.

    Raises TimeoutError when the run does not end within `limit` seconds.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    wanted = {argument.name for argument in (*inputs, *session.get_overridable_initializers())}
    names = [argument.name for argument in outputs]
    given = {k: v for k, v in feeds.items() if k in wanted}
    if any(argument.type == BFLOAT16 for argument in (*inputs, *outputs)):
        return _run_values(session, names, given)
    if limit is None:
        return dict(zip(names, session.run(names, given), strict=True))
    options = libraries.onnxruntime().RunOptions()
    timer = threading.Timer(limit, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return dict(zip(names, session.run(names, given, options), strict=True))
    except Exception as error:
        if options.terminate:
            raise TimeoutError(f"it did not end within {limit:g} seconds") from error
        raise
    finally:
        timer.cancel()


def _run_values(
    session: libraries.Session, names: Sequence[str], feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """The same where numpy lacks a type: tensors go in by number, and come out as bytes."""
    values = libraries.onnxruntime().OrtValue
    given = {
        name: values.ortvalue_from_numpy_with_onnx_type(
            np.ascontiguousarray(array), onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        )
        for name, array in feeds.items()
    }
    results = session.run_with_ort_values(names, given)
    return {name: _array(result) for name, result in zip(names, results, strict=True)}


def _array(value: Any) -> Array:
    if value.data_type() != BFLOAT16:
        return value.numpy()
    shape = value.shape()
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    return np.array(bits, np.uint16).view(dtype).reshape(shape)
