"""The functions that only look at a model: scan, explain, activations."""

from __future__ import annotations

from dataclasses import replace

from graphfuse.files.limits import Limits
from graphfuse.files.model_file import unchanged
from graphfuse.records import Explanation, Scan, arguments
from graphfuse.records.progress import SILENT, Progress
from graphfuse.records.requests import DRAWN, AnyFeeds, feeds_of
from graphfuse.records.residual_stream import Reading
from graphfuse.running.feeding import feeding_of
from graphfuse.steps.opening import ModelLike, as_model, files_read
from graphfuse.steps.picturing import of_scan
from graphfuse.steps.scanning import look


def scan(model: ModelLike, *, pictures: bool = False, limits: Limits | None = None) -> Scan:
    """Find every residual Add that feeds a LayerNorm or an RMSNorm.

    Weights are not read, and nothing is run.

    Args:
        model: The path of an .onnx file, or an onnx.ModelProto.
        pictures: Whether to draw the graph around each distinct spelling and near miss as well.
        limits: The budgets of what is admitted; None for those of `Limits()`.

    Returns:
        The sites that can be fused, and the near misses, each with its reason.

    Raises:
        ModelError: For a file that is unreadable, unsafe, or over a budget.

    Example:
        >>> found = graphfuse.scan("models/bert.onnx")
        >>> print(len(found.sites), found.sites[0].kind, found.sites[0].layout)
        5 LayerNorm post-norm
    """
    arguments.flag("pictures", pictures)
    loaded = as_model(model, limits=limits)
    with unchanged(loaded):
        looked = look(loaded)
        drawn = of_scan(looked) if pictures else ()
        return replace(looked.shown, pictures=drawn, read=files_read(loaded))


def explain(model: ModelLike, site: str, *, limits: Limits | None = None) -> Explanation:
    """Say why a site is or is not fused: what was seen, beside the definition.

    Args:
        model: As for `scan`.
        site: An id of the scan (s1, m1), or the name of an output or an Add.
        limits: As for `scan`.

    Returns:
        The site or near miss, and both normal forms as text where arithmetic was seen.

    Raises:
        UsageError: When there is no such site.
        ModelError: As `scan` does.

    Example:
        >>> found = graphfuse.explain("models/bert.onnx", "s1")
        >>> found.seen == found.definition
        True
    """
    from graphfuse.recognition.explain import explain as explain_item

    arguments.expect("the site", site, str, "give an id of the scan, such as s1")
    return explain_item(scan(model, limits=limits), site)


def activations(
    model: ModelLike,
    *,
    feeds: AnyFeeds = DRAWN,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> tuple[Reading, ...]:
    """Run a model on the CPU and measure its residual stream.

    Args:
        model: As for `scan`.
        feeds: What it is run on; one feed is drawn where nothing is said.
        limits: As for `scan`.
        progress: Is told of each stage.

    Returns:
        A reading for each sum of the main graph, in order: those that norms read (the sites of
        `scan`), and those x + F(x) that none reads. A reading is of all feeds together.

    Raises:
        OriginalModelError: When the model does not run.
        UsageError: For feeds that the model does not take.
        ModelError: As `scan` does.
        ProviderError: When onnxruntime is missing.

    Example:
        >>> readings = graphfuse.activations("models/bert.onnx")
        >>> print(len(readings), readings[0].verdict)
        5 healthy
    """
    from graphfuse.stream.in_runs import read
    from graphfuse.stream.sums import stream
    from graphfuse.views.view import views

    arguments.told(progress)
    loaded = as_model(model, limits=limits)
    feeding = feeding_of(feeds_of(feeds))
    with unchanged(loaded):
        progress.stage("scanning")
        looked = look(loaded)
        sums = stream(views(looked.model)[0], looked.scan)
        progress.stage("running the model")
        return tuple(read(looked.model, sums, feeding))
