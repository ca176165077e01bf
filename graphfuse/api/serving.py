"""The function that runs a model: session."""

from __future__ import annotations

from graphfuse.errors import GraphfuseError, OriginalModelError, in_one_line
from graphfuse.files.limits import Limits
from graphfuse.files.model_file import unchanged
from graphfuse.planning import faults, runtimes, targets
from graphfuse.records import arguments
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import (
    DRAWN,
    EVERY_SITE,
    AnyFeeds,
    Level,
    Selection,
    chosen,
    feeds_of,
)
from graphfuse.running import sessions
from graphfuse.steps.fusing import Fusing
from graphfuse.steps.judging import Asked
from graphfuse.steps.opening import ModelLike, as_model
from graphfuse.system import libraries, machine

DEFAULT_PROVIDERS = (sessions.CPU,)


def session(
    model: ModelLike,
    providers: sessions.Providers = DEFAULT_PROVIDERS,
    *,
    selection: Selection = EVERY_SITE,
    level: Level | str = Level.NONE,
    feeds: AnyFeeds = DRAWN,
    kernels: bool | None = None,
    options: libraries.SessionOptions | None = None,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> libraries.Session:
    """An onnxruntime.InferenceSession of a model that is fused in memory; no file is written.

    The nodes are those for the first of `providers`, in the installed onnxruntime. The session has
    the options that this version needs for them (`session_options`, `providers`), and graphfuse's
    kernels where the CPU comes first. External data is read from where it lies, by onnxruntime.

    Args:
        model: The path of an .onnx file, or an onnx.ModelProto, which is not changed. External data
            of a ModelProto is looked for in the working directory.
        providers: As for onnxruntime.InferenceSession: names, or (name, options) pairs, in the
            order of preference. Options that a version needs are added where they are not given.
        selection: Which sites, and in which form.
        level: How much is validated before (`Level`); a site that fails is put back.
        feeds: What a validation runs the models on.
        kernels: As for `session_options`.
        options: An onnxruntime.SessionOptions of your own, in place of `session_options`; then
            `kernels` is not looked at.
        limits: The budgets of what is admitted; None for those of `Limits()`.
        progress: Is told of each stage.

    Returns:
        The session, ready to run.

    Raises:
        UsageError: For providers that are none.
        ProviderError: When onnxruntime or a provider is missing, or cannot be started.
        OriginalModelError: When onnxruntime does not take the model.
        GraphfuseError: What `optimize` raises of models and validations.

    Example:
        >>> session = graphfuse.session("models/bert.onnx")
        >>> [output.name for output in session.get_outputs()]
        ['last_hidden_state', 'pooler_output']
    """
    wanted = sessions.with_needed(providers)
    if kernels is not None:
        arguments.flag("kernels", kernels)
    if options is not None:
        kind = libraries.onnxruntime().SessionOptions
        arguments.expect("options", options, kind, "give an onnxruntime.SessionOptions")
    asked, source = Asked(chosen(Level, level, "level")), as_model(model, limits=limits)
    target = targets.of_provider(wanted[0][0])
    strict = wanted[0][1].get(faults.STRICT_MODE) == "1"
    runtime = runtimes.runtime()
    fusing = Fusing(source, target, selection, runtime, strict, feeds_of(feeds), progress)
    with unchanged(source):
        result = fusing.result({})
        if asked.level != Level.NONE and result.changed:
            result = fusing.validated(asked, strict=False)
        progress.stage("loading into onnxruntime")
        if options is None:
            options = sessions.session_options(kernels, wanted)
        try:
            return sessions.of_model(result.proto, source.folder, wanted, options)
        except GraphfuseError:
            raise
        except Exception as error:
            # onnxruntime raises classes of its own.
            machine.check(error, "loading into onnxruntime")
            raise OriginalModelError(
                f"onnxruntime does not take the model: {in_one_line(error)}",
                "load the original in onnxruntime first",
            ) from error
