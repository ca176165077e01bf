"""Nodes one at a time in float64, each by the most exact means there is.

In this order: graphfuse's own formulas (operators.py) for norms and fused operators, onnxruntime
where it has a float64 kernel, then operators.py, contrib.py and onnx.reference. onnx.reference
leaves out attributes and inputs of some operators without a word (clip of an LSTM), so what it
gives is compared with onnxruntime's float32 kernel and taken only where the two agree. All else
runs in onnxruntime in float32: it is computed alike in both models that are compared, so what is
around it can still be judged.

Every node is a session of its own, kept by what the node is: a model has few distinct ones, and
between two nodes everything can be looked at, rounded or dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphfuse.errors import ValidationError, in_one_line
from graphfuse.graph.tensors import DEFAULT_DOMAINS, upcast
from graphfuse.system import libraries, machine
from graphfuse.validation.contrib import CONTRIB_OPERATORS, has_rounded_constants
from graphfuse.validation.formulas import EXACT_OPERATORS, OWN_OPERATORS
from graphfuse.validation.tolerance import compare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

NUMPY, RUNTIME, REFERENCE, SINGLE = (
    "numpy",
    "onnxruntime",
    "onnx.reference",
    "onnxruntime in float32",
)
"""What evaluates a node."""

EXACT = frozenset((cls.op_domain, cls.__name__) for cls in EXACT_OPERATORS)
FORMULAS = [*OWN_OPERATORS, *CONTRIB_OPERATORS]
OWN_FORMULAS = frozenset((cls.op_domain, cls.__name__) for cls in FORMULAS)

UNSEEDED = frozenset(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"))
"""Operators whose results differ from run to run."""

NARROW = (np.dtype(np.float32), np.dtype(np.float16))

NARROW_AGREE = 1e-3
"""Relative L2 distance of what means the same, where a float32 kernel had to do."""

CONSTANTS_AGREE = 1e-6
"""The same where one formula has a constant in float64, and the other its float32."""

TRUSTED = 1e-5
"""How far a float32 kernel may be from onnx.reference, relative in L2, if both compute the same.
Attributes that onnx.reference ignores make differences of 1e-2 and more where they do anything."""

TINY = 1e-30
"""Below that, what float32 holds and what it computes on the way runs out of digits."""

TIES = 1e-3
"""The share of integers that may differ: rounding decides where a number is half-way."""

THREADED = frozenset(("MatMul", "Gemm", "Einsum"))
"""Operators worth more than one thread: a pool for each of hundreds of sessions is not."""


class UnsupportedModelError(ValidationError):
    """The model holds an operator that cannot be evaluated."""


Kernel = Callable[[Sequence["Array | None"]], "list[Array]"]
"""One node, ready to run. Absent inputs are None."""


class NodeEvaluator:
    """Evaluates nodes of one model; tells by what."""

    def __init__(self, opset_import: Sequence[onnx.OperatorSetIdProto]) -> None:
        versions = {entry.domain: entry.version for entry in opset_import}
        self._opsets = tuple(sorted(versions.items()))
        self.used: dict[str, set[str]] = {}
        """The operators that each means has evaluated."""
        self.ignored: dict[str, None] = {}
        """Attributes that operators do not have, in words: nothing reads them."""
        self.narrow_runs = 0
        """How many runs give no more digits than float32 has, for want of anything better."""
        self._slack = 0.0

    def run(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> list[Array]:
        """The outputs that a node without subgraphs names. Raises UnsupportedModelError."""
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            return [upcast(numpy_helper.to_array(node.attribute[0].t))]
        stray = _stray(node, self._opsets)
        if stray:
            named = f"{node.op_type} {node.name or node.output[0]!r}"
            self.ignored.update((f"{each!r} of {named}", None) for each in stray)
        canonical = _canonical(node, stray)
        types = tuple(None if array is None else element_type(array) for array in inputs)
        means = _means(canonical, self._opsets, types)
        problems: list[str] = []
        for meant, kernel in means:
            try:
                with np.errstate(all="ignore"):
                    outputs = kernel(inputs)
                    by = meant
                    if by == REFERENCE:
                        by, outputs = _checked(node, means[-1], inputs, outputs)
            except Exception as error:
                # onnxruntime and onnx.reference raise classes of their own for what they lack.
                machine.check(error, f"evaluating {node.op_type} in float64")
                problems.append(f"{meant}: {in_one_line(error, 160)}")
                continue
            # A type that an operator fixes, whatever it reads, is as good as float32 at best.
            narrow = any(getattr(array, "dtype", None) in NARROW for array in outputs)
            by = SINGLE if narrow else by
            slack = NARROW_AGREE if by == SINGLE else 0.0
            slack = slack or (CONSTANTS_AGREE if has_rounded_constants(node) else 0.0)
            self.narrow_runs += slack > 0
            self._slack = max(self._slack, slack)
            self.used.setdefault(by, set()).add(node.op_type)
            return [upcast(array) if hasattr(array, "dtype") else array for array in outputs]
        raise unsupported(node, problems)

    def slack(self) -> float:
        """How far what ran since the last call may be from the same in other nodes."""
        slack, self._slack = self._slack, 0.0
        return slack


def _checked(
    node: onnx.NodeProto,
    narrow: tuple[str, Kernel],
    inputs: Sequence[Array | None],
    outputs: list[Array],
) -> tuple[str, list[Array]]:
    """What onnx.reference gave, or onnxruntime in float32 where that computes something else."""
    means, kernel = narrow
    if means != SINGLE:
        return REFERENCE, outputs
    try:
        others = kernel(inputs)
        alike = len(outputs) == len(others) and all(map(_near, others, outputs))
    except Exception as error:
        # onnxruntime lacks the operator, or numpy the type: there is nothing to compare with.
        machine.check(error, f"evaluating {node.op_type} in float32")
        return REFERENCE, outputs
    return (REFERENCE, outputs) if alike else (SINGLE, others)


def _near(narrow: Array, exact: Array) -> bool:
    """Whether a float32 kernel computes what onnx.reference does, but for rounding."""
    if not isinstance(exact, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        return True
    if narrow.shape != exact.shape:
        return False
    if exact.dtype.kind != "f":
        return int((narrow != exact).sum()) <= max(1, TIES * exact.size)
    there = np.isfinite(exact) & np.isfinite(narrow)
    if np.abs(exact[there]).max(initial=0.0) < TINY:
        return True
    return compare(narrow[there], exact[there]) <= TRUSTED


def unsupported(node: onnx.NodeProto, problems: Sequence[str]) -> UnsupportedModelError:
    """The error for a node that nothing evaluates."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    why = f" ({'; '.join(problems)})" if problems else ""
    return UnsupportedModelError(
        f"{kind} {node.name or node.output[0]!r} cannot be evaluated in float64{why}",
        "`--validate sites` checks the fused nodes alone",
    )


def element_type(array: Array) -> int:
    """The element type; 0 for what is no tensor, such as a sequence."""
    if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        return 0
    return helper.np_dtype_to_tensor_dtype(array.dtype) if array.dtype.kind in "biuf" else 0


def _stray(node: onnx.NodeProto, opsets: Sequence[tuple[str, int]]) -> list[str]:
    """The attributes of a node that its operator does not have; onnxruntime ignores some such."""
    if not node.attribute:
        return []
    known = _attributes(node.domain, node.op_type, dict(opsets).get(node.domain, 0))
    return [each.name for each in node.attribute if known is not None and each.name not in known]


@lru_cache(maxsize=512)
def _attributes(domain: str, op_type: str, opset: int) -> frozenset[str] | None:
    """The attributes that an operator has; None where that is not known."""
    for operator in OWN_OPERATORS:
        if (operator.op_domain, operator.__name__) == (domain, op_type):
            run: Any = getattr(operator, "_run")  # noqa: B009
            found = inspect.signature(run).parameters
            takes_all = any(each.kind is each.VAR_KEYWORD for each in found.values())
            return None if takes_all else frozenset(found)
    if domain not in DEFAULT_DOMAINS or not onnx.defs.has(op_type):
        return None
    try:
        return frozenset(onnx.defs.get_schema(op_type, opset).attributes)
    except onnx.defs.SchemaError:
        return None


def _canonical(node: onnx.NodeProto, stray: Collection[str]) -> bytes:
    """A node without its names: what is equal of it is evaluated alike."""
    copy = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    copy.input.extend(f"i{n}" if name else "" for n, name in enumerate(node.input))
    copy.output.extend(f"o{n}" if name else "" for n, name in enumerate(node.output))
    copy.attribute.extend(each for each in node.attribute if each.name not in stray)
    return copy.SerializeToString(deterministic=True)


@lru_cache(maxsize=1024)
def _means(
    canonical: bytes, opsets: tuple[tuple[str, int], ...], types: tuple[int | None, ...]
) -> list[tuple[str, Kernel]]:
    """What can evaluate a node, in the order of trust."""
    node = onnx.NodeProto.FromString(canonical)
    key = (node.domain, node.op_type)
    means: list[tuple[str, Kernel]] = []
    if key in EXACT:
        return [(NUMPY, _Reference(node, opsets))]
    if node.op_type not in UNSEEDED and node.domain in DEFAULT_DOMAINS:
        session = _session(node, opsets, types, {})
        if session is not None:
            means.append((RUNTIME, session))
    if node.domain in DEFAULT_DOMAINS or key in OWN_FORMULAS:
        try:
            means.append((NUMPY if key in OWN_FORMULAS else REFERENCE, _Reference(node, opsets)))
        except Exception as error:
            # Whatever an operator's loader raises where there is no such operator.
            machine.check(error, f"preparing {node.op_type} in float64")
    if node.op_type not in UNSEEDED:
        means.append((SINGLE, _Narrow(node, opsets, types)))
    return means


class _Reference:
    """A node in numpy: by operators.py, or by onnx.reference."""

    def __init__(self, node: onnx.NodeProto, opsets: tuple[tuple[str, int], ...]) -> None:
        self._names = list(node.input)
        model = _one_node(node, opsets, [(name, 0) for name in node.input if name])
        self._evaluator = ReferenceEvaluator(model, new_ops=FORMULAS)

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array]:
        feeds = dict(zip(self._names, inputs, strict=True))
        feeds = {name: array for name, array in feeds.items() if name and array is not None}
        return _run_reference(self._evaluator, feeds)


def _run_reference(evaluator: ReferenceEvaluator, feeds: dict[str, Array]) -> list[Array]:
    outputs: Any = evaluator.run(None, feeds)  # pyright: ignore[reportUnknownMemberType]
    # numpy's scalars become arrays; sequences stay lists.
    return [np.asarray(array) if hasattr(array, "dtype") else array for array in outputs]


class _Runtime:
    """A node in onnxruntime, with other types where `narrow` names them."""

    def __init__(
        self, session: libraries.Session, node: onnx.NodeProto, narrow: dict[int, int]
    ) -> None:
        self._session, self._narrow = session, bool(narrow)
        self._names = list(node.input)
        self._outputs = [name for name in node.output if name]

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array]:
        feeds: dict[str, Array] = {}
        for name, array in zip(self._names, inputs, strict=True):
            if name and array is not None:
                lower = self._narrow and array.dtype == np.float64
                feeds[name] = array.astype(np.float32) if lower else np.asarray(array)
        return self._session.run(self._outputs, feeds)


class _Narrow:
    """A node in onnxruntime in float32; the session is made when it is needed."""

    def __init__(
        self,
        node: onnx.NodeProto,
        opsets: tuple[tuple[str, int], ...],
        types: tuple[int | None, ...],
    ) -> None:
        self._node, self._opsets, self._types = node, opsets, types

    @cached_property
    def _kernel(self) -> Kernel | None:
        narrow: dict[int, int] = {TensorProto.DOUBLE: TensorProto.FLOAT}
        return _session(self._node, self._opsets, self._types, narrow)

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array]:
        if self._kernel is None:
            raise NotImplementedError("no kernel for these types")
        return self._kernel(inputs)


def _session(
    node: onnx.NodeProto,
    opsets: tuple[tuple[str, int], ...],
    types: tuple[int | None, ...],
    narrow: dict[int, int],
) -> Kernel | None:
    """A session of one node, or None where onnxruntime has no kernel for these types."""
    inputs = {
        name: narrow.get(elem_type, elem_type)
        for name, elem_type in zip(node.input, types, strict=True)
        if name and elem_type
    }
    versions = [helper.make_opsetid(domain, version) for domain, version in opsets]
    session = session_of(node, versions, inputs)
    return None if session is None else _Runtime(session, node, narrow)


def session_of(
    node: onnx.NodeProto, opset_import: Iterable[onnx.OperatorSetIdProto], types: Mapping[str, int]
) -> libraries.Session | None:
    """A session of one node that reads tensors of these types; None where a kernel is missing."""
    opsets = [(entry.domain, entry.version) for entry in opset_import]
    model = _one_node(node, opsets, list(types.items()))
    runtime = libraries.onnxruntime()
    options: libraries.SessionOptions = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 0 if node.op_type in THREADED else 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # onnxruntime raises classes of its own where it has no kernel.
        machine.check(error, f"making a session of one {node.op_type}")
        return None


def _one_node(
    node: onnx.NodeProto, opsets: Sequence[tuple[str, int]], inputs: Sequence[tuple[str, int]]
) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=10)
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)
    model.graph.name = "node"
    model.graph.node.append(node)
    for name, elem_type in inputs:
        model.graph.input.append(helper.make_tensor_value_info(name, elem_type, None))
    for name in node.output:
        if name:
            model.graph.output.add(name=name)
    return model
