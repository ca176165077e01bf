"""What other tools do to a fused file: each row of graphfuse/README.md is a test of this file.

KEPT: the fused nodes and their functions are there, graphfuse's kernels run them, and a session
without the kernels runs the functions. What a tool does to the original as well is not the file's.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnxruntime as ort
import pytest
from onnx import version_converter

import graphfuse
from graphfuse import kernels, ops
from graphfuse.running.random_feeds import random_feeds
from tests.conftest import MODELS, ROOT
from tests.support.graphs import needs_opset

README = ROOT / "graphfuse" / "README.md"
CPU = ["CPUExecutionProvider"]
NOT_REGISTERED = "is not a registered function/op"
Tool = Callable[[Path, Path], object]
"""Takes a model and a folder to write to; gives a model, or the path of one."""

pytestmark = pytest.mark.skipif(kernels.find() is None, reason="the kernels were not built")


@cache
def fused(name: str) -> onnx.ModelProto:
    needs_opset(18)
    return graphfuse.fuse(MODELS / f"{name}.onnx").model


def copy_of(name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(fused(name))
    return copy


def sites(name: str) -> int:
    return sum(node.domain == ops.DOMAIN for node in fused(name).graph.node)


@dataclass
class Outcome:
    """What a session made of a file."""

    error: str = ""
    distance: float = 0.0
    """The largest difference of an output to the original's."""
    ran: int = 0
    """The fused nodes that ran in graphfuse's kernels."""


def run(model: onnx.ModelProto | Path, name: str, registered: bool, folder: Path) -> Outcome:
    options = graphfuse.session_options(kernels=registered)
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        made = ort.InferenceSession(data, options, providers=CPU)
    except Exception as error:
        return Outcome(str(error))
    feeds, wanted = reference(name)
    # A prefix renames inputs; their order stays.
    given = zip((value.name for value in made.get_inputs()), feeds.values(), strict=True)
    outputs = made.run(None, dict(given))
    distance = max(
        float(np.abs(left.astype(np.float64) - right).max())
        for left, right in zip(outputs, wanted, strict=True)
        if left.size
    )
    events = json.loads(Path(made.end_profiling()).read_text())
    ran = {
        event["name"]
        for event in events
        if event.get("args", {}).get("op_name") in ops.OPERATORS and "kernel_time" in event["name"]
    }
    return Outcome("", distance, len(ran))


@cache
def reference(name: str) -> tuple[dict[str, Any], list[Any]]:
    original = onnx.load(MODELS / f"{name}.onnx")
    feeds = dict(random_feeds(original, 0))
    made = ort.InferenceSession(original.SerializeToString(), providers=CPU)
    return {value.name: feeds[value.name] for value in made.get_inputs()}, made.run(None, feeds)


@dataclass
class Both:
    """The file that a tool gives, in a session with the kernels and in one without."""

    model: onnx.ModelProto | Path
    bound: float
    sites: int
    with_kernels: Outcome
    without: Outcome

    def is_kept(self) -> None:
        self.needs_no_kernels()
        assert self.with_kernels.ran == self.sites

    def is_inlined(self) -> None:
        self.needs_no_kernels()
        assert self.with_kernels.ran == 0
        if isinstance(self.model, onnx.ModelProto):
            assert not [node for node in self.model.graph.node if node.domain == ops.DOMAIN]

    def needs_no_kernels(self) -> None:
        assert not self.with_kernels.error
        assert not self.without.error
        assert self.with_kernels.distance <= self.bound
        assert self.without.distance <= self.bound
        assert self.without.ran == 0

    def needs_kernels(self, says: str = NOT_REGISTERED) -> None:
        assert not self.with_kernels.error
        assert self.with_kernels.distance <= self.bound
        assert self.with_kernels.ran == self.sites
        assert says in self.without.error


def after(tool: Tool, folder: Path, name: str = "bert", rounds: bool = False) -> Both:
    """Give the fused file to a tool. Where it rounds, the original rounded by it is the bound."""
    path = folder / f"{name}.onnx"
    onnx.save(copy_of(name), path)
    model = given(tool, path, folder)
    bound = 1e-5
    if rounds:
        original = given(tool, MODELS / f"{name}.onnx", folder)
        plain = run(original, name, False, folder)
        assert not plain.error
        bound = 2 * plain.distance
    found = [run(model, name, registered, folder) for registered in (True, False)]
    return Both(model, bound, sites(name), *found)


def given(tool: Tool, path: Path, folder: Path) -> onnx.ModelProto | Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tools
        result = tool(path, folder)
    if isinstance(result, Path) and result.suffix == ".onnx":
        return onnx.load(result)
    assert isinstance(result, (onnx.ModelProto, Path))
    return result


def optimized(path: Path, folder: Path, registered: bool, suffix: str) -> Path:
    target = folder / f"optimized{suffix}"
    options = graphfuse.session_options(kernels=registered)
    options.log_severity_level = 4
    options.optimized_model_filepath = str(target)
    if suffix == ".ort":
        options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(path), options, providers=CPU)
    return target


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
def test_optimized_with_kernels_needs_the_kernels(suffix: str, tmp_path: Path) -> None:
    after(lambda path, at: optimized(path, at, True, suffix), tmp_path).needs_kernels()


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
def test_optimized_without_kernels_is_inlined(suffix: str, tmp_path: Path) -> None:
    after(lambda path, at: optimized(path, at, False, suffix), tmp_path).is_inlined()


def test_add_prefix_leaves_the_kernels_unused(tmp_path: Path) -> None:
    """It renames the functions, and the nodes with them: no kernel has such a name."""
    found = after(lambda path, _: onnx.compose.add_prefix(onnx.load(path), "p_"), tmp_path)
    found.needs_no_kernels()
    assert found.with_kernels.ran == 0


def test_add_prefix_without_functions_is_kept(tmp_path: Path) -> None:
    def prefixed(path: Path, _: Path) -> onnx.ModelProto:
        return onnx.compose.add_prefix(onnx.load(path), "p_", rename_functions=False)

    after(prefixed, tmp_path).is_kept()


def ahead(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[tuple[str, str]]]:
    """A model of one Identity that feeds the first input, and what merges the two."""
    first = model.graph.input[0]
    type_ = first.type
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["ahead_in"], ["ahead_out"])],
        "ahead",
        [onnx.helper.make_value_info("ahead_in", type_)],
        [onnx.helper.make_value_info("ahead_out", type_)],
    )
    imports = [opset for opset in model.opset_import if not opset.domain]
    made = onnx.helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
    return made, [("ahead_out", first.name)]


def test_merge_models_with_an_unfused_one_is_kept(tmp_path: Path) -> None:
    def merged(path: Path, _: Path) -> onnx.ModelProto:
        model = onnx.load(path)
        other, joined = ahead(model)
        return onnx.compose.merge_models(other, model, io_map=joined)

    after(merged, tmp_path).is_kept()


def twins() -> list[onnx.ModelProto]:
    return [
        onnx.compose.add_prefix(copy_of("bert"), prefix, rename_functions=False)
        for prefix in ("a_", "b_")
    ]


def test_merge_models_refuses_two_fused_ones() -> None:
    with pytest.raises(ValueError, match="overlapping local function names"):
        onnx.compose.merge_models(*twins(), io_map=[])


def test_merge_models_takes_two_fused_ones_with_one_set_of_functions(tmp_path: Path) -> None:
    left, right = twins()
    assert list(left.functions) == list(right.functions)
    del right.functions[:]
    merged = onnx.compose.merge_models(left, right, io_map=[])
    feeds, wanted = reference("bert")
    for registered in (True, False):
        options = graphfuse.session_options(kernels=registered)
        made = ort.InferenceSession(merged.SerializeToString(), options, providers=CPU)
        both = {f"{prefix}{name}": v for prefix in ("a_", "b_") for name, v in feeds.items()}
        for output, right_one in zip(made.run(None, both), [*wanted, *wanted], strict=True):
            np.testing.assert_allclose(output, right_one, atol=1e-5)


def test_version_converter_drops_the_functions(tmp_path: Path) -> None:
    def converted(path: Path, _: Path) -> onnx.ModelProto:
        return version_converter.convert_version(onnx.load(path), 19)

    found = after(converted, tmp_path)
    assert isinstance(found.model, onnx.ModelProto)
    assert not found.model.functions
    found.needs_kernels()


def test_version_converter_first_is_kept(tmp_path: Path) -> None:
    converted = version_converter.convert_version(onnx.load(MODELS / "bert.onnx"), 19)
    found = after(lambda *_: graphfuse.fuse(converted).model, tmp_path)
    found.is_kept()


@pytest.mark.parametrize("convert_version", [False, True])
def test_the_inliner_inlines(convert_version: bool, tmp_path: Path) -> None:
    def inlined(path: Path, _: Path) -> onnx.ModelProto:
        return onnx.inliner.inline_local_functions(onnx.load(path), convert_version)

    after(inlined, tmp_path).is_inlined()


def test_the_inliner_with_graphfuse_excluded_is_kept(tmp_path: Path) -> None:
    own = [(ops.DOMAIN, operator) for operator in ops.OPERATORS]

    def inlined(path: Path, _: Path) -> onnx.ModelProto:
        return onnx.inliner.inline_selected_functions(onnx.load(path), own, exclude=True)

    after(inlined, tmp_path).is_kept()


def test_shape_inference_is_kept(tmp_path: Path) -> None:
    """And it sees through the functions: the tensors behind a fused node have their types."""

    def inferred(path: Path, _: Path) -> onnx.ModelProto:
        model = onnx.load(path)
        del model.graph.value_info[:]
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)

    found = after(inferred, tmp_path)
    found.is_kept()
    assert isinstance(found.model, onnx.ModelProto)
    typed = {value.name for value in found.model.graph.value_info}
    typed |= {value.name for value in found.model.graph.output}
    nodes = [node for node in found.model.graph.node if node.domain == ops.DOMAIN]
    assert {node.output[0] for node in nodes} <= typed


def test_onnxsim_is_kept(tmp_path: Path) -> None:
    onnxsim = pytest.importorskip("onnxsim", reason="onnxsim is not installed")

    def simplified(path: Path, _: Path) -> onnx.ModelProto:
        model, checked = onnxsim.simplify(onnx.load(path))
        assert checked
        return model

    after(simplified, tmp_path).is_kept()


def pre_processed(path: Path, folder: Path, **options: bool) -> Path:
    pytest.importorskip("sympy")
    from onnxruntime.quantization import quant_pre_process

    target = folder / "pre-processed.onnx"
    quant_pre_process(str(path), str(target), **options)
    return target


def test_quant_pre_process_inlines(tmp_path: Path) -> None:
    """It saves what a session without the kernels optimizes."""
    after(pre_processed, tmp_path, "gpt2").is_inlined()


def test_quant_pre_process_without_optimization_is_kept(tmp_path: Path) -> None:
    def processed(path: Path, at: Path) -> Path:
        return pre_processed(path, at, skip_optimization=True)

    after(processed, tmp_path, "gpt2").is_kept()


def test_quantize_dynamic_is_kept(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    def quantized(path: Path, at: Path) -> Path:
        quantize_dynamic(str(path), str(at / "quantized.onnx"))
        return at / "quantized.onnx"

    after(quantized, tmp_path, rounds=True).is_kept()


def transformed(path: Path, folder: Path, level: int) -> Path:
    pytest.importorskip("torch")
    from onnxruntime.transformers import optimizer

    target = folder / "transformed.onnx"
    found = optimizer.optimize_model(str(path), "bert", 0, 0, opt_level=level)
    found.save_model_to_file(str(target))
    return target


def test_transformers_optimizer_is_kept(tmp_path: Path) -> None:
    after(lambda path, at: transformed(path, at, 0), tmp_path).is_kept()


def test_transformers_optimizer_with_a_level_inlines(tmp_path: Path) -> None:
    """A session without the kernels optimizes first."""
    after(lambda path, at: transformed(path, at, 1), tmp_path).is_inlined()


def to_float16(path: Path, _: Path, **options: Any) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(path), keep_io_types=True, **options)


def test_float16_from_opset_15_is_kept(tmp_path: Path) -> None:
    after(to_float16, tmp_path, rounds=True).is_kept()


def test_float16_below_opset_15_needs_the_kernels(tmp_path: Path) -> None:
    """ONNX has no CastLike there, so a function is made for the type that the model had."""
    after(to_float16, tmp_path, "gpt2", rounds=True).needs_kernels("ShapeInferenceError")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_float16_with_the_operators_blocked_is_kept(name: str, tmp_path: Path) -> None:
    """The fused nodes stay in float32, between casts."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    def converted(path: Path, at: Path) -> onnx.ModelProto:
        return to_float16(path, at, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *ops.OPERATORS])

    after(converted, tmp_path, name, rounds=True).is_kept()


def test_onnxconverter_float16_is_kept(tmp_path: Path) -> None:
    float16 = pytest.importorskip(
        "onnxconverter_common.float16", reason="onnxconverter-common is not installed"
    )

    def converted(path: Path, _: Path) -> onnx.ModelProto:
        return float16.convert_float_to_float16(onnx.load(path), keep_io_types=True)

    after(converted, tmp_path, "vit", rounds=True).is_kept()


def test_the_table_has_a_row_for_each_test_and_no_other() -> None:
    rows = set(re.findall(r"\| `(test_\w+)` \|$", README.read_text(), re.MULTILINE))
    here = {name for name in globals() if name.startswith("test_")}
    assert rows == here - {"test_the_table_has_a_row_for_each_test_and_no_other"}
