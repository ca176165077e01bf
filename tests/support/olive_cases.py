"""Workflows of Olive, run in one process: python -m tests.support.olive_cases FOLDER.

The process is a child of tests/integrations/test_olive.py. It prints a line of JSON for each case:
what was raised, and what GraphFuse logged.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.external_data_helper
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler, PyTorchModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.workflows import run

import graphfuse
from graphfuse.integrations.olive import GraphFuse, package_config
from tests.conftest import MODELS
from tests.support.graphs import model

TEMPLATE = json.loads(Path(__file__).parents[1].joinpath("integrations/workflow.json").read_text())


def workflow(folder: Path, source: dict[str, Any], **options: Any) -> Any:
    """Run GraphFuse alone on a model, in the folder."""
    config = copy.deepcopy(TEMPLATE)
    for name in ("evaluator", "evaluators", "data_configs"):
        del config[name]
    config["input_model"] = source
    config["passes"] = {"fuse": {"type": "GraphFuse", **options}}
    config["cache_dir"], config["output_dir"] = str(folder / "cache"), str(folder / "out")
    return run(config, package_config=package_config())


def file_model(path: Path, **more: Any) -> dict[str, Any]:
    return {"type": "OnnxModel", "config": {"model_path": str(path), **more}}


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("weights were loaded")


def external(folder: Path) -> None:
    (folder / "in").mkdir()
    path = folder / "in" / "model.onnx"
    proto = onnx.load(MODELS / "bert.onnx")
    onnx.save(proto, path, save_as_external_data=True, location="w", size_threshold=512)
    helper: Any = onnx.external_data_helper
    kept = helper.load_external_data_for_model
    helper.load_external_data_for_model = onnx.load_external_data_for_model = never
    try:
        source = file_model(path.parent, onnx_file_name="model.onnx")
        workflow(folder, source, level="none", min_fused=5, save_as_external_data=True)
    finally:
        helper.load_external_data_for_model = onnx.load_external_data_for_model = kept


def external_validated(folder: Path) -> None:
    (folder / "in").mkdir()
    path = folder / "in" / "model.onnx"
    proto = onnx.load(MODELS / "llama.onnx")
    onnx.save(proto, path, save_as_external_data=True, location="w", size_threshold=512)
    workflow(folder, file_model(path.parent, onnx_file_name="model.onnx"), min_fused=4)


def to_external(folder: Path) -> None:
    options = {"save_as_external_data": True, "external_data_name": "mine.data"}
    workflow(folder, file_model(MODELS / "bert.onnx"), **options)


def composite(folder: Path) -> None:
    """Two components, one with its weights in a file."""
    (folder / "in").mkdir()
    path = folder / "in" / "llama.onnx"
    proto = onnx.load(MODELS / "llama.onnx")
    onnx.save(proto, path, save_as_external_data=True, location="w", size_threshold=512)
    parts = [
        file_model(MODELS / "bert.onnx"),
        file_model(path.parent, onnx_file_name="llama.onnx"),
    ]
    config = {"model_components": parts, "model_component_names": ["bert", "llama"]}
    workflow(folder, {"type": "CompositeModel", "config": config}, min_fused=4)


def linked(folder: Path, **options: Any) -> None:
    """Weights as Olive leaves those of a component: they have a second name in its cache."""
    external(folder)
    (folder / "again").mkdir()
    (folder / "again" / "w").hardlink_to(folder / "out" / "w")
    source = file_model(folder / "out", onnx_file_name="model.onnx")
    workflow(folder / "again", source, level="none", min_fused=5, **options)


def linked_and_allowed(folder: Path) -> None:
    linked(folder, allow_links=True)


def unfusable(folder: Path) -> None:
    onnx.save(model("y = Add(a, b)"), folder / "plain.onnx")
    workflow(folder, file_model(folder / "plain.onnx"))


def too_few(folder: Path) -> None:
    workflow(folder, file_model(MODELS / "bert.onnx"), min_fused=6)


def wrong_level(folder: Path) -> None:
    workflow(folder, file_model(MODELS / "bert.onnx"), level="slow")


def wrong_number(folder: Path) -> None:
    workflow(folder, file_model(MODELS / "bert.onnx"), min_fused=-1)


def wrong_site(folder: Path) -> None:
    workflow(folder, file_model(MODELS / "bert.onnx"), include=["nothing"])


def chosen(folder: Path) -> None:
    """Options reach graphfuse: two sites, for CUDA, not run here."""
    options = {"include": ["s2", "s3"], "exclude": ["s3"], "ep": "cuda", "level": "none"}
    workflow(folder, file_model(MODELS / "llama.onnx"), runtime="1.32", **options)


def providers(folder: Path) -> dict[str, str]:
    """What nodes are for where nothing is said: by the accelerator's execution provider."""
    found: dict[str, str] = {}
    for device, provider in (("gpu", "CUDA"), ("npu", "QNN"), ("cpu", "CPU"), ("cpu", "")):
        name = f"{provider}ExecutionProvider" if provider else None
        accelerator = AcceleratorSpec(device, name)
        made = create_pass_from_dict(GraphFuse, {"level": "none"}, True, accelerator)
        made.run(ONNXModelHandler(str(MODELS / "llama.onnx")), str(folder / f"{provider}.onnx"))
        found[provider] = made.config.ep
    assert not GraphFuse.is_accelerator_agnostic(AcceleratorSpec("cpu"))
    return found


def settings(folder: Path) -> dict[str, Any]:
    """What the handler says of sessions, and the files that it names, go with the model."""
    (folder / "extra.npz").write_bytes(b"PK")
    (folder / "model.onnx").write_bytes((MODELS / "llama.onnx").read_bytes())
    wanted = {"session_options": {"intra_op_num_threads": 1}}
    source = ONNXModelHandler(
        str(folder),
        "model.onnx",
        inference_settings=wanted,
        constant_inputs_file_name="extra.npz",
        model_attributes={"mine": 3},
    )
    made = create_pass_from_dict(GraphFuse, {"level": "none"}, True)
    result = made.run(source, str(folder / "out"))
    assert Path(result.constant_inputs_path).parent == folder / "out"
    assert result.model_attributes == {"mine": 3}
    assert result.inference_settings == wanted
    return result.to_json()["config"]


def no_onnx(folder: Path) -> None:
    made = create_pass_from_dict(GraphFuse, {}, True)
    made.run(PyTorchModelHandler(model_loader=lambda _: None), str(folder / "out"))


def only_with_kernels(folder: Path, evaluator: str) -> dict[str, Any]:
    """The latency of a model that no session without graphfuse's kernels takes."""
    fused = graphfuse.fuse(MODELS / "bert.onnx").model
    del fused.functions[:]
    onnx.save(fused, folder / "model.onnx")
    config = copy.deepcopy(TEMPLATE)
    config["input_model"] = file_model(folder / "model.onnx")
    config["evaluators"]["fused"] |= {"type": evaluator, "user_script": None}
    config |= {"passes": {}, "cache_dir": str(folder / "c"), "output_dir": str(folder / "out")}
    run(config, package_config=package_config())
    return json.loads((folder / "out" / "input_model_metrics.json").read_text())


def our_evaluator(folder: Path) -> dict[str, Any]:
    return only_with_kernels(folder, "GraphFuseEvaluator")


def their_evaluator(folder: Path) -> dict[str, Any]:
    return only_with_kernels(folder, "OnnxEvaluator")


CASES: tuple[Callable[[Path], Any], ...] = (
    external,
    external_validated,
    to_external,
    composite,
    linked,
    linked_and_allowed,
    unfusable,
    too_few,
    wrong_level,
    wrong_number,
    wrong_site,
    chosen,
    providers,
    settings,
    no_onnx,
    our_evaluator,
    their_evaluator,
)


class Kept(logging.Handler):
    """What is logged, in words; errors with what raised them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append(
            record.getMessage() + (f" {type(error).__name__}: {error}" if error else "")
        )


def main() -> None:
    kept = Kept()
    logging.getLogger("olive").addHandler(kept)
    for case in CASES:
        folder = Path(sys.argv[1]) / case.__name__
        folder.mkdir(parents=True)
        kept.lines.clear()
        said: dict[str, Any] = {"case": case.__name__, "raised": "", "gave": None}
        try:
            said["gave"] = case(folder)
        except BaseException as error:
            said["raised"] = f"{type(error).__name__}: {error}"
        print("CASE " + json.dumps({**said, "log": kept.lines}, default=str), flush=True)


if __name__ == "__main__":
    main()
