"""What `help(graphfuse)` says: each function in full, with an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
import shutil
from pathlib import Path

import pytest

import graphfuse
from graphfuse.errors import IN_PYTHON
from tests.conftest import MODELS, Shell

FUNCTIONS = [name for name in graphfuse.__all__ if inspect.isfunction(getattr(graphfuse, name))]
REQUESTS = ("Feeds", "Selection", "Output", "Limits", "BenchOptions")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_is_explained(name: str) -> None:
    function = getattr(graphfuse, name)
    text = inspect.getdoc(function) or ""
    sections = re.split(r"^(Args|Returns|Raises|Example):\n", text, flags=re.M)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert set(found) >= {"Returns", "Raises", "Example"}, name
    parameters = list(inspect.signature(function).parameters)
    explained = re.findall(r"^    (\w+): ", found.get("Args", ""), re.M)
    assert explained == parameters, name


@pytest.mark.parametrize("name", REQUESTS)
def test_each_field_of_a_request_is_explained(name: str) -> None:
    record = getattr(graphfuse, name)
    text = (inspect.getdoc(record) or "").partition("Args:\n")[2]
    explained = re.findall(r"^    (\w+): ", text.partition("Raises:")[0], re.M)
    assert explained == list(inspect.signature(record).parameters), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "export":
        pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for each in ("bert.onnx", "gpt2.onnx"):
        shutil.copy(MODELS / each, tmp_path / "models" / each)
    examples = doctest.DocTestFinder().find(
        getattr(graphfuse, name), name, module=False, globs={"graphfuse": graphfuse}
    )
    assert sum(len(example.examples) for example in examples) > 0
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for example in examples:
        runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_every_function_is_in_the_overview() -> None:
    assert all(re.search(rf"\b{name}\b", graphfuse.__doc__ or "") for name in FUNCTIONS)


def test_results_print_on_a_line(tmp_path: Path) -> None:
    """A page of records in a notebook says nothing."""
    path = MODELS / "bert.onnx"
    result = graphfuse.optimize(path, tmp_path / "fused.onnx", level="fast")
    for found in (graphfuse.scan(path), result, result.validation, graphfuse.unfuse(path)):
        assert len(repr(found)) < 160, repr(found)
        assert type(found).__name__ in repr(found)


def test_what_an_error_calls_an_option_has_a_name_in_python(shell: Shell) -> None:
    """An error of the library says what the option of the command line is called there."""
    listed = {
        option
        for command in ("fuse", "validate", "scan")
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", shell(command, "--help").stdout)
    }
    # What is of the command line alone.
    own = {
        "--html",
        "--markdown",
        "--json",
        "--isolate",
        "--memory-limit",
        "--time-limit",
        "--help",
        "--activations",
        "--all",
    }
    assert listed - own - {"--no-fold-bias"} <= IN_PYTHON.keys()
    with pytest.raises(graphfuse.UsageError) as caught:
        graphfuse.optimize(MODELS / "bert.onnx", MODELS / "gpt2.onnx")
    assert caught.value.__notes__ == ["in Python --force is Output(path, force=True)"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: graphfuse.scan(b"\x08"), "the model is of type bytes"),
        (lambda: graphfuse.scan(5), "the model is of type int"),
        (lambda: graphfuse.fuse(MODELS / "bert.onnx", ep=()), "names no execution provider"),
        (lambda: graphfuse.Feeds(seed="1"), "no whole number"),
        (lambda: graphfuse.Feeds(iterations=0), "0 iterations"),
        (lambda: graphfuse.Selection(costs="free"), "unknown costs 'free'"),
        (lambda: graphfuse.Output(7), "the output is"),
        (lambda: graphfuse.Output(""), "is empty"),
        (lambda: graphfuse.Output("x", force="no"), "force is 'no'"),
        (lambda: graphfuse.Feeds(input_shapes={"ids": "1,3"}), "shape of 'ids'"),
        (lambda: graphfuse.Feeds(symbols=["batch=1"]), "symbols is"),
        (lambda: graphfuse.Feeds(symbols={"batch": 1.5}), "no whole number"),
        (lambda: graphfuse.Feeds(symbols={"batch": -1}), "below 0"),
        (lambda: graphfuse.Feeds(val_range={"ids": (5, 1)}), "range of 'ids'"),
        (lambda: graphfuse.Feeds(run_limit="x"), "run_limit is"),
        (lambda: graphfuse.Feeds(inputs="feeds.npz"), "feeds is 'feeds.npz'"),
        (lambda: graphfuse.Feeds(inputs=[]), "no feeds"),
        (lambda: graphfuse.Selection(include=3), "include is 3"),
        (lambda: graphfuse.Selection(fold_bias="yes"), "fold_bias is 'yes'"),
        (lambda: graphfuse.Limits(nodes=-1), "nodes is -1"),
        (lambda: graphfuse.BenchOptions(threads=()), "no number of threads"),
        (lambda: graphfuse.BenchOptions(seconds="1"), "seconds is '1'"),
        (lambda: graphfuse.fuse(MODELS / "bert.onnx", runtime=1.29), "runtime is 1.29"),
        (lambda: graphfuse.fuse(MODELS / "bert.onnx", ep=3), "ep is 3"),
        (lambda: graphfuse.fuse(MODELS / "bert.onnx", selection="s1"), "selection is 's1'"),
        (lambda: graphfuse.fuse(MODELS / "bert.onnx", progress=print), "progress is"),
        (lambda: graphfuse.scan(MODELS / "bert.onnx", limits=3), "limits is 3"),
        (lambda: graphfuse.explain(MODELS / "bert.onnx", 1), "the site is 1"),
        (lambda: graphfuse.optimize(MODELS / "bert.onnx", None, min_fused="5"), "min_fused is"),
        (lambda: graphfuse.session(MODELS / "bert.onnx", options=3), "options is 3"),
        (
            lambda: graphfuse.validate(MODELS / "bert.onnx", MODELS / "bert.onnx", level="none"),
            "none",
        ),
        (
            lambda: graphfuse.activations(MODELS / "bert.onnx", feeds={"input_ids": [1, 2]}),
            "no array for|has 2 axes",
        ),
        (lambda: graphfuse.optimize(MODELS / "bert.onnx", None, level="slow"), "unknown level"),
    ],
)
def test_wrong_arguments_are_one_line(call: object, said: str) -> None:
    with pytest.raises(graphfuse.UsageError, match=said):
        call()  # type: ignore[operator]


def test_a_provider_has_both_names() -> None:
    path = MODELS / "bert.onnx"
    assert graphfuse.fuse(path, "CPUExecutionProvider").target == "cpu"
    assert graphfuse.fuse(path, ["cpu", "CUDAExecutionProvider"]).target == "cpu,cuda"


def test_one_string_is_one_pattern() -> None:
    path = MODELS / "bert.onnx"
    result = graphfuse.fuse(path, selection=graphfuse.Selection(include="s1", costs="none"))
    assert [fusion.site.id for fusion in result.fused] == ["s1"]
