"""A pass for Microsoft Olive, and an evaluator whose sessions have graphfuse's kernels.

    python -m graphfuse.integrations.olive > passes.json
    olive run --config workflow.json --package-config passes.json

The first command prints the passes of the installed Olive together with graphfuse's. One that
names GraphFuse alone is `olive.json`, beside this file.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import logging
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from graphfuse.errors import ProviderError, UsageError
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import external_locations
from graphfuse.integrations.wanted import Wanted
from graphfuse.planning import runtimes, targets
from graphfuse.records import FuseResult
from graphfuse.records.requests import Costs, Feeds, Level, Output, Selection
from graphfuse.running.sessions import provider_options, session_options
from graphfuse.steps.judging import Asked
from graphfuse.steps.opening import opened, write
from graphfuse.system import libraries


def _olive(name: str) -> Any:
    """A module of Olive; ProviderError naming the command that installs it."""
    try:
        return importlib.import_module(f"olive.{name}")
    except ImportError as error:
        missing = ProviderError(
            f"Olive cannot be imported ({error})",
            "install it with `pip install 'graphfuse[olive]'` (its package is olive-ai)",
        )
        if __name__ == "__main__":
            print(missing, file=sys.stderr)
            raise SystemExit(missing.exit_code) from error
        raise missing from error


_model: Any = _olive("model")
_passes: Any = _olive("passes")
_pass_config: Any = _olive("passes.pass_config")
_common: Any = _olive("passes.onnx.common")
_registry: Any = _olive("evaluator.registry").Registry
_evaluators: Any = _olive("evaluator.olive_evaluator")

CPU_TARGET = "cpu"

# A child of Olive's logger: its level and its handlers are those of the workflow.
_log = logging.getLogger("olive.graphfuse")

_PARAMETERS: Mapping[str, tuple[Any, Any, str]] = {
    "ep": (
        str,
        None,
        "Who runs the result: cpu, cuda, portable, the name of onnxruntime's provider, or several "
        "such as cpu,cuda. The accelerator's execution provider where nothing is said.",
    ),
    "runtime": (str, None, "The version of onnxruntime that runs the result; the installed one."),
    "strict_mode": (bool, False, "CUDA sessions will have the options of graphfuse.providers."),
    "level": (Level, Level.FAST, "How much is validated: none, sites, fast or full."),
    "strict": (bool, False, "A site that fails validation is an error, not put back."),
    "certify": (bool, False, "Each fused node needs a certificate as well."),
    "min_fused": (int, 0, "How many sites have to be fused, those that were before included."),
    "include": (list[str], [], "Ids of sites, or patterns of output names: only these are fused."),
    "exclude": (list[str], [], "The same, of sites that are not fused."),
    "costs": (Costs, Costs.TABLE, "How it is known that a node wins: table, autotune or none."),
    "fold_bias": (bool, None, "The fused node adds a bias that stands before the residual."),
    "input_shapes": (dict[str, list[int]], {}, "Shapes of inputs that the validation draws."),
    "symbols": (dict[str, int], {}, "Extents of all inputs by their symbols, for the validation."),
    "val_range": (dict[str, list[float]], {}, "The least and largest number to draw by input."),
    "seed": (int, 0, "The seed of what is drawn."),
    "allow_links": (bool, False, "Links to weight files are followed, wherever they lead."),
}
"""The pass's own parameters: type, default, description."""


class GraphFuse(_passes.Pass):
    """Fuses residual Adds with the norms that read them, validates, and writes the model.

    Weights in files are not loaded: the files are copied beside the fused model, sharing blocks
    where the file system can. Components of a composite model are fused one by one. What goes
    wrong is a GraphfuseError, in Olive's log; then nothing is written.
    """

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: Any) -> bool:
        """Whether one result serves all accelerators: no, nodes are made for a provider."""
        return False

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        defaults = {name: default for name, (_, default, _) in _PARAMETERS.items()}
        # Olive's cache goes by the configuration: another onnxruntime gives another plan.
        defaults["runtime"] = runtimes.runtime().name
        defaults["ep"] = _target_of(accelerator_spec)
        own = {
            name: _pass_config.PassConfigParam(
                type_=kind, default_value=defaults[name], description=text
            )
            for name, (kind, _, text) in _PARAMETERS.items()
        }
        return {**own, **_common.get_external_data_config()}

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> Any:
        if not isinstance(model, _model.ONNXModelHandler):
            raise UsageError(
                f"the pass GraphFuse was given a {type(model).__name__}, not an ONNX model",
                "put a pass that exports it, such as OnnxConversion, before",
            )
        source = Path(model.model_path)
        place = Path(_olive("model.utils").resolve_onnx_path(output_model_path, source.name))
        result = self._written(source, place, config)
        _tell(result)
        proto = result.proto
        if config.save_as_external_data and not _is_laid_out(proto, config):
            proto = _laid_out(place, config)
        return _handler(model, place, proto)

    def _written(self, source: Path, place: Path, config: Any) -> FuseResult:
        wanted = _wanted(config)
        output = Output(place, force=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        opening = opened(source, output, wanted.limits, wanted.progress)
        return write(wanted.fused(opening), opening, output, wanted.progress)


def _target_of(accelerator: Any) -> str:
    """The target of an accelerator; `portable` where there is none for its provider."""
    provider = accelerator.execution_provider
    return targets.of_provider(str(provider)).name if provider else CPU_TARGET


class _Told:
    """Stages of a run, in Olive's log."""

    def stage(self, name: str) -> None:
        """A part of the work begins."""
        _log.debug("GraphFuse: %s", name)

    def portion(self, what: str, done: int, total: int) -> None:
        """Bytes are nothing for a log."""


def _wanted(config: Any) -> Wanted:
    """What a pass's configuration asks for. Raises UsageError for what cannot be meant."""
    shapes = {name: tuple(shape) for name, shape in config.input_shapes.items()}
    ranges: dict[str, Any] = {name: tuple(pair) for name, pair in config.val_range.items()}
    symbols, seed = config.symbols, config.seed
    return Wanted(
        ep=config.ep,
        runtime=config.runtime,
        strict_mode=config.strict_mode,
        selection=Selection(
            include=config.include,
            exclude=config.exclude,
            costs=config.costs,
            fold_bias=config.fold_bias,
        ),
        asked=Asked(config.level, certify=config.certify),
        feeds=Feeds(input_shapes=shapes, symbols=symbols, val_range=ranges, seed=seed),
        strict=config.strict,
        min_fused=config.min_fused,
        limits=Limits(allow_links=config.allow_links),
        progress=_Told(),
    )


def _tell(result: FuseResult) -> None:
    """Say in Olive's log what came of a model."""
    _log.info("GraphFuse: %s", repr(result).strip("<>"))
    for reason, count in result.reasons().items():
        _log.info("GraphFuse: %d left: %s; %s", count, reason.sentence, reason.remedy)
    for miss in result.put_back:
        _log.warning("GraphFuse: site %s failed its validation and is as it was", miss.site)
    for note in result.notes:
        _log.info("GraphFuse: %s", note)


def _is_laid_out(proto: onnx.ModelProto, config: Any) -> bool:
    """Whether weights lie in files already, and no other layout is asked for."""
    asked = config.external_data_name or config.convert_attribute
    return bool(external_locations(proto)) and config.all_tensors_to_one_file and not asked


def _laid_out(place: Path, config: Any) -> onnx.ModelProto:
    """Write a model's weights as Olive's options say; they are loaded. Gives it without them."""
    proto = onnx.load(place)
    for name in (place.name, *external_locations(onnx.load(place, load_external_data=False))):
        (place.parent / name).unlink()
    options = {name: getattr(config, name) for name in _common.get_external_data_config()}
    _common.model_proto_to_file(proto, place, **options)
    return onnx.load(place, load_external_data=False)


def _handler(model: Any, place: Path, proto: onnx.ModelProto) -> Any:
    """The written model for Olive, with what the original's had beside its file."""
    files = [model.external_initializers_path, model.constant_inputs_path]
    for path in filter(None, files):
        shutil.copy2(path, place.parent / Path(path).name)
    in_folder = bool(external_locations(proto)) or any(files)
    if any(node.op_type == "EPContext" for node in proto.graph.node):
        in_folder |= _common.copy_context_bin_files(model.model_path, place.parent)
    return _model.ONNXModelHandler(
        model_path=str(place.parent if in_folder else place),
        onnx_file_name=place.name if in_folder else None,
        inference_settings=copy.deepcopy(model.inference_settings),
        use_ort_extensions=model.use_ort_extensions,
        external_initializers_file_name=model.external_initializers_file_name,
        constant_inputs_file_name=model.constant_inputs_file_name,
    )


@_registry.register()
class GraphFuseEvaluator(_evaluators.OnnxEvaluator):
    """Olive's evaluator of ONNX models, in sessions as `graphfuse.session_options` makes them.

    They run fused nodes with graphfuse's kernels; Olive's own run their functions. Models of other
    kinds are evaluated as Olive does.
    """

    def evaluate(
        self, model: Any, metrics: Any, device: Any = "cpu", execution_providers: Any = None
    ) -> Any:
        """The metrics of a model, as Olive's evaluators give them."""
        if isinstance(model, _model.ONNXModelHandler):
            held = copy.copy(model)
            held.__class__ = _InOurSessions
            return super().evaluate(held, metrics, device, execution_providers)
        usual = _registry.get(str(model.framework))()
        return usual.evaluate(model, metrics, device, execution_providers)


class _InOurSessions(_model.ONNXModelHandler):
    """A model whose sessions have the options, and the kernels, that fused nodes need."""

    def prepare_session(
        self,
        inference_settings: dict[str, Any] | None = None,
        device: Any = "cpu",
        execution_providers: Any = None,
        rank: int | None = None,
    ) -> Any:
        settings = self.merge_inference_settings(inference_settings, execution_providers)
        chosen = settings["execution_provider"] or self._get_default_execution_providers(device)
        names = [each if isinstance(each, str) else each[0] for each in chosen]
        needed = [provider_options(name) for name in names]
        if any(needed) and not settings["provider_options"] and names == list(chosen):
            settings = {**settings, "execution_provider": names, "provider_options": needed}
        with _made_by_us(names):
            return super().prepare_session(settings, device, names, rank)


@contextlib.contextmanager
def _made_by_us(providers: Sequence[str]) -> Generator[None, None, None]:
    """For the block, what Olive makes as onnxruntime.SessionOptions() are graphfuse's options.

    Olive has no other way in: it makes them inside of a function, and takes no library of
    operators but that of onnxruntime-extensions.
    """
    runtime: Any = libraries.onnxruntime()
    usual, ours = runtime.SessionOptions, session_options(None, tuple(providers))
    runtime.SessionOptions = lambda: ours
    try:
        yield
    finally:
        runtime.SessionOptions = usual


def package_config() -> dict[str, Any]:
    """The package configuration for Olive: its own passes and GraphFuse."""
    usual = _olive("package_config").OlivePackageConfig.get_default_config_path()
    found = json.loads(Path(usual).read_text("utf-8"))
    own = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    return {**found, "passes": {**found["passes"], **own["passes"]}}


if __name__ == "__main__":
    json.dump(package_config(), sys.stdout, indent=4)
    print()
