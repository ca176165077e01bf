"""scan --activations: the residual stream of a model in its own runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import graphfuse
from graphfuse.errors import OriginalModelError, UsageError
from graphfuse.records.residual_stream import Reading, StreamVerdict
from models import export as exporting
from models.zoo import build
from tests.conftest import MODELS, Shell
from tests.support.graphs import DECOMPOSED_RMS_NORM, model

Stack = Callable[[str, int], tuple[Path, torch.nn.Module]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    folder = tmp_path_factory.mktemp("stacks")

    def make(kind: str, layers: int) -> tuple[Path, torch.nn.Module]:
        example = build(f"stack-{kind}", layers=layers)
        path = folder / f"{kind}-{layers}.onnx"
        if not path.exists():
            exporting.export(example, path, "torchscript", 17)
        return path, example.module

    return make


def feeds(batch: int = 2, length: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {"x": rng.normal(size=(batch, length, 32)).astype(np.float32)}


def sums_of(module: torch.nn.Module, x: np.ndarray) -> list[np.ndarray]:
    """Every sum of a stack, in eager PyTorch: what each block adds to, and gives to its norm."""
    sums: list[np.ndarray] = []
    value = torch.from_numpy(x)
    with torch.no_grad():
        for layer in module.layers:
            (block,) = layer
            normed = block.norm(value) if type(block).__name__ == "Pre" else value
            total = value + block.inner(normed, None)
            sums.append(total.numpy())
            value = block.norm(total) if type(block).__name__ == "Post" else total
    return sums


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("plain", 48), ("plain", 96), ("plain", 120), ("pre", 48), ("pre", 96), ("post", 120)],
)
def test_stacks_of_residual_blocks(kind: str, layers: int, stack: Stack) -> None:
    """The worked example: with a norm the stream stays small, without one it leaves float16."""
    path, module = stack(kind, layers)
    found = graphfuse.activations(path, feeds=feeds())
    assert len(graphfuse.scan(path).sites) == (0 if kind == "plain" else layers)
    assert len(found) == layers
    assert all(bool(each.site) == (kind != "plain") for each in found)
    for each, exact in zip(found, sums_of(module, feeds()["x"]), strict=True):
        assert each.mean == pytest.approx(
            exact.mean(dtype=np.float64), rel=1e-3, abs=1e-3 * each.std
        )
        assert each.std == pytest.approx(exact.std(dtype=np.float64), rel=1e-4)
        assert each.largest == pytest.approx(np.abs(exact).max(), rel=1e-4)
    verdicts = [each.verdict for each in found]
    if kind != "plain":
        assert set(verdicts) == {StreamVerdict.HEALTHY}
        return
    assert [each.layer for each in found] == list(range(layers))
    healthy, drifting = (
        verdicts.count(StreamVerdict.HEALTHY),
        verdicts.count(StreamVerdict.DRIFTING),
    )
    assert verdicts == [StreamVerdict.HEALTHY] * healthy + [StreamVerdict.DRIFTING] * drifting + [
        StreamVerdict.OVERFLOWS
    ] * (layers - healthy - drifting)
    assert 5 < healthy < 30
    assert (StreamVerdict.OVERFLOWS in verdicts) == (layers > 60)


def test_the_verdict_is_what_float16_does(stack: Stack) -> None:
    """The first sum that is said to overflow is the first that float16 cannot hold."""
    path, module = stack("plain", 96)
    found = graphfuse.activations(path, feeds=feeds())
    with np.errstate(over="ignore"):
        narrow = [np.isinf(s.astype(np.float16)).any() for s in sums_of(module, feeds()["x"])]
    assert [each.verdict == StreamVerdict.OVERFLOWS for each in found] == narrow


@pytest.mark.parametrize(
    ("largest", "squares", "verdict"),
    [
        (100.0, True, StreamVerdict.HEALTHY),
        (100.5, False, StreamVerdict.DRIFTING),
        (255.0, True, StreamVerdict.DRIFTING),
        (256.0, False, StreamVerdict.DRIFTING),
        (256.0, True, StreamVerdict.SQUARES_OVERFLOW),
        (65504.0, False, StreamVerdict.DRIFTING),
        (65505.0, True, StreamVerdict.OVERFLOWS),
        (float("inf"), False, StreamVerdict.OVERFLOWS),
    ],
)
def test_readings(largest: float, squares: bool, verdict: str) -> None:
    found = Reading("x", "s1", "RMSNorm", None, squares, 0.0, 1.0, largest)
    assert found.verdict == verdict
    assert found.float16_share == largest / 65504


@pytest.mark.parametrize(
    ("norm", "squares"),
    [
        (DECOMPOSED_RMS_NORM, True),
        ("y = LayerNormalization<axis = -1>(x, scale, bias)", False),
        ("m = Cast<to = 11>(x)\nq = Mul(m, m)\nv = ReduceMean<axes = [-1]>(q)\ne = Add(v, wide)\n"
         "r = Sqrt(e)\nn = Div(m, r)\nk = Cast<to = 1>(n)\ny = Mul(k, scale)", False),
    ],
    ids=["written out", "operator", "wider"],
)  # fmt: skip
def test_what_squares_in_the_type_of_the_sum(norm: str, squares: bool) -> None:
    """A norm that is an operator, or casts first, squares in a wider type; one written out does not."""
    graph = model(f"x = Add(a, b)\n{norm}", constants={"wide": np.array(1e-5)})
    values = {name: np.full((2, 3, 8), 200, np.float32) for name in "ab"}
    values["a"][0, 0, 0] = 210
    (found,) = graphfuse.activations(graph, feeds=values)
    assert found.squares_in_type is squares
    assert found.largest == 410
    assert found.verdict == (StreamVerdict.SQUARES_OVERFLOW if squares else StreamVerdict.DRIFTING)


def test_what_is_no_residual_stream() -> None:
    """GELU's x + c*x^3, a bias, a sum of two projections of the input, the halves of a rotation."""
    graph = model(
        """
        p = MatMul(a, w)
        q = MatMul(b, w)
        two = Add(p, q)
        biased = Add(two, bias)
        squared = Mul(biased, biased)
        cubed = Mul(squared, biased)
        small = Mul(cubed, c)
        gelu = Add(biased, small)
        back = MatMul(gelu, w)
        y = Add(two, back)
        """,
        constants={"w": np.eye(8, dtype=np.float32), "c": np.array(0.044715, np.float32)},
    )
    values = {name: np.ones((2, 3, 8), np.float32) for name in "ab"}
    assert [each.sum for each in graphfuse.activations(graph, feeds=values)] == ["y"]


@pytest.mark.parametrize(
    "product", ["MatMulIntegerToFloat(n, k, one, one)", "RNN<hidden_size=8>(a, w, r)"]
)
def test_products_of_every_kind_are_branches(product: str) -> None:
    """What onnxruntime's quantizer makes of a MatMul, and a recurrence, contract as well."""
    if product.startswith("RNN"):
        branch = f"wide = {product} z = Squeeze(wide, at)"
    else:
        branch = f"n = Cast<to = 3>(a) z = com.microsoft.{product}"
    graph = model(
        f"{branch} y = Add(a, z)",
        inputs="float[3,2,8] a",
        outputs="float[3,2,8] y",
        constants={
            "w": np.ones((1, 8, 8), np.float32),
            "r": np.ones((1, 8, 8), np.float32),
            "k": np.ones((8, 8), np.int8),
            "one": np.array(1, np.float32),
            "at": np.array([1]),
        },
        extra_imports=', "com.microsoft" : 1',
    )
    values = {"a": np.ones((3, 2, 8), np.float32)}
    assert [each.sum for each in graphfuse.activations(graph, feeds=values)] == ["y"]


def test_masked_scores_are_no_residual_stream() -> None:
    """One head, no axis for heads, extents known: mask and scores are alike, and in block 2 the
    scores are behind the mask."""

    def block(x: str, y: str) -> str:
        return f"""
            {y}_keys = Transpose<perm = [0, 2, 1]>({x})
            {y}_products = MatMul({x}, {y}_keys)
            {y}_scores = Add({y}_products, mask)
            {y}_weights = Softmax<axis = -1>({y}_scores)
            {y}_mixed = MatMul({y}_weights, {x})
            {y} = Add({x}, {y}_mixed)
        """

    graph = model(
        block("a", "h") + block("h", "y"),
        inputs="float[2,8,8] a, float[2,8,8] mask",
        outputs="float[2,8,8] y",
    )
    values = {name: np.ones((2, 8, 8), np.float32) for name in ("a", "mask")}
    assert [each.sum for each in graphfuse.activations(graph, feeds=values)] == ["h", "y"]


def test_several_feeds_are_pooled() -> None:
    graph = model("w = MatMul(a, eye)\nx = Add(a, w)\ny = Identity(x)", constants={"eye": np.eye(8, dtype=np.float32)})  # fmt: skip
    rng = np.random.default_rng(0)
    sets = [
        {"a": rng.normal(n, 1 + n, (n + 1, 3, 8)).astype(np.float32), "b": np.zeros((1, 1, 8), np.float32)}
        for n in range(4)
    ]  # fmt: skip
    (found,) = graphfuse.activations(graph, feeds=sets)
    whole = 2 * np.concatenate([each["a"].ravel() for each in sets]).astype(np.float64)
    assert found.mean == pytest.approx(whole.mean(), rel=1e-12)
    assert found.std == pytest.approx(whole.std(), rel=1e-12)
    assert found.largest == np.abs(whole).max()
    sets[2]["a"][0, 0, 0] = np.inf
    (lost,) = graphfuse.activations(graph, feeds=sets)
    assert lost.largest == np.inf
    assert np.isfinite([lost.mean, lost.std]).all()


def test_a_real_model_in_order(tmp_path: Path) -> None:
    """Every site of the main graph, with the numbers that onnxruntime gives for its sum."""
    path = MODELS / "gpt2.onnx"
    ids = {"input_ids": np.arange(12).reshape(2, 6), "attention_mask": np.ones((2, 6), np.int64)}
    scan, found = graphfuse.scan(path), graphfuse.activations(path, feeds=ids)
    assert [each.site for each in found] == [site.id for site in scan.sites]
    proto = onnx.load(path)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(scan.sites[3].sum))
    total = ort.InferenceSession(proto.SerializeToString()).run([scan.sites[3].sum], ids)[0]
    assert found[3].largest == pytest.approx(np.abs(total).max(), rel=1e-5)


def test_the_command_line(shell: Shell, stack: Stack, tmp_path: Path) -> None:
    path, _ = stack("plain", 96)
    np.savez(tmp_path / "feeds.npz", **feeds())
    given = ("--activations", "--load-inputs", str(tmp_path / "feeds.npz"))
    shown = shell("scan", path, *given)
    assert shown.returncode == 0, shown.stderr
    rows = shown.stdout.splitlines()
    assert len(rows) == 98
    assert rows[-1].startswith("96 sums: ")
    assert "overflows float16 (first sum " in rows[-1]
    document = json.loads(shell("scan", path, *given, "--json").stdout)
    assert [each["layer"] for each in document["activations"]] == list(range(96))
    assert document["activations"][-1]["verdict"] == StreamVerdict.OVERFLOWS
    without = shell("scan", path, "--seed", "1")
    assert without.returncode == 2
    assert "--activations" in without.stderr
    assert "activations" not in json.loads(shell("scan", path, "--json").stdout)


def test_what_has_no_elements_is_not_healthy() -> None:
    graph = model("x = Add(a, b)\ny = LayerNormalization<axis = -1>(x, scale, bias)")
    empty = {name: np.zeros((0, 3, 8), np.float32) for name in "ab"}
    for inputs, said in ((empty, "nothing was measured"), ([], "no feeds are given")):
        with pytest.raises(UsageError, match=said):
            graphfuse.activations(graph, feeds=inputs)
    for count in (0, -1):
        with pytest.raises(UsageError, match=f"{count} iterations were asked for"):
            graphfuse.activations(graph, feeds=graphfuse.Feeds(iterations=count))


def test_squares_beyond_float64(shell: Shell, tmp_path: Path) -> None:
    """JSON has neither infinity nor NaN."""
    graph = model(
        "x = Add(a, b)\ny = LayerNormalization<axis = -1>(x, one, one)",
        inputs="double[B,S,8] a, double[B,S,8] b",
        outputs="double[B,S,8] y",
        constants={"one": np.ones(8)},
    )
    onnx.save(graph, tmp_path / "m.onnx")
    feed = np.random.default_rng(0).normal(size=(2, 3, 8)) * 1e300
    np.savez(tmp_path / "feeds.npz", a=feed, b=feed)
    given = ("--activations", "--json", "--load-inputs", str(tmp_path / "feeds.npz"))
    shown = shell("scan", str(tmp_path / "m.onnx"), *given)
    assert shown.returncode == 0, shown.stderr
    (found,) = json.loads(shown.stdout)["activations"]
    assert found["std"] is None
    assert found["largest"] == 2 * np.abs(feed).max()


def test_integers_are_no_residual_stream() -> None:
    graph = model(
        "p = MatMul(a, eye)\ny = Add(a, p)",
        inputs="int32[2,3,8] a",
        outputs="int32[2,3,8] y",
        constants={"eye": np.eye(8, dtype=np.int32)},
    )
    assert not graphfuse.activations(graph)


def test_the_sums_of_a_fused_model_are_seen(shell: Shell, tmp_path: Path) -> None:
    """They are inside fused nodes, which are written out to look into them."""
    fused = str(tmp_path / "fused.onnx")
    graphfuse.optimize(MODELS / "llama.onnx", fused, level="none")
    shown = shell("scan", fused, "--activations")
    assert shown.returncode == 0, shown.stderr
    plain = shell("scan", str(MODELS / "llama.onnx"), "--activations")
    rows = [line for line in plain.stdout.splitlines() if "healthy" in line]
    assert rows
    assert len([line for line in shown.stdout.splitlines() if "healthy" in line]) == len(rows)


def test_feeds_that_do_not_run() -> None:
    graph = model("x = Add(a, b)\ny = LayerNormalization<axis = -1>(x, scale, bias)")
    values = {"a": np.ones((2, 3, 8), np.float32), "b": np.ones((5, 3, 8), np.float32)}
    with pytest.raises(OriginalModelError, match="does not run on CPUExecutionProvider"):
        graphfuse.activations(graph, feeds=values)
    with pytest.raises(UsageError):
        graphfuse.activations(graph, feeds={"a": values["a"]})
