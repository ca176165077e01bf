"""The CPU kernels: right in every type, shape and instruction set, and clear about what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import kernels
from graphfuse.errors import ProviderError
from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.validation.tolerance import least_factor, reference_rows
from tests.campaigns.kernels.accuracy import EPSILON, MIXED, campaign
from tests.campaigns.kernels.node import OPERATORS, Arrays, Node, instruction_sets, isa
from tests.conftest import ROOT
from tests.support.graphs import VERSION

pytestmark = pytest.mark.skipif(
    kernels.find() is None and shutil.which("c++") is None,
    reason="the kernels were not built: there is no C++ compiler",
)

SETS = instruction_sets() if kernels.find() else ["portable"]
LAYER_NORM = "AddLayerNormalization"
KINDS = [(name, "") for name in FLOATS_BY_NAME] + list(MIXED)


def factor(node: Node, feeds: Arrays, results: Arrays) -> float:
    """The least K of G1, over both outputs."""
    exact = {name: array.astype(np.longdouble) for name, array in feeds.items()}
    vectors = {name: array for name, array in exact.items() if name not in ("A", "B")}
    epsilon = float(np.float32(node.attributes.get("epsilon", EPSILON)))
    centred = "Layer" in node.operator
    reference = reference_rows(
        exact["A"], exact["B"], vectors, epsilon, centred, FLOATS_BY_NAME[node.type]
    )
    bounds = {"Y": (reference.output, reference.bound)}
    bounds["Sum"] = (reference.total, reference.total_bound)
    return max(least_factor(array, *bounds[name]) for name, array in results.items())


def same_bits(left: Arrays, right: Arrays) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_the_kernels_are_there() -> None:
    assert kernels.why_not() == ""
    assert "portable" in SETS


def test_every_element_is_within_its_bound() -> None:
    """A sample of `python -m tests.campaigns.kernels.accuracy`."""
    totals = campaign(1e6, seed=3, hidden=(1, 7, 64, 768))
    assert set(totals) == set(SETS)
    for name, total in totals.items():
        assert total.worst <= 1, (name, total)
        assert total.elements > 500_000


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("hidden", [1, 3, 15, 16, 17, 127, 129, 1000, 65_535, 65_536])
def test_hidden_sizes(name: str, hidden: int) -> None:
    rng = np.random.default_rng(hidden)
    for kind, parameters in KINDS:
        for operator in OPERATORS:
            node = Node(operator, kind, parameters)
            feeds = node.feeds(rng, (3, hidden))
            with isa(name):
                assert factor(node, feeds, node.run(feeds)) <= 1, (operator, kind)


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_broadcasting_in_every_way(axis: int) -> None:
    rng = np.random.default_rng(axis + 10)
    seen = set()
    for _ in range(150):
        rank = int(rng.integers(-axis, 6))
        dims = [int(rng.choice([1, 2, 3, 5, 8])) for _ in range(rank)]
        shapes = []
        for _ in range(2):
            own = [dim if rng.random() < 0.6 else 1 for dim in dims]
            shapes.append(tuple(own[int(rng.integers(0, rank + 1)) :]))
        a, b = shapes
        if len(np.broadcast_shapes(a, b)) < -axis:
            continue
        node = Node(OPERATORS[int(rng.integers(4))], attributes={"axis": axis})
        feeds = node.feeds(rng, a, b)
        results = node.run(feeds)
        assert factor(node, feeds, results) <= 1, (a, b, node.operator)
        positive = Node(node.operator, attributes={"axis": axis + len(np.broadcast_shapes(a, b))})
        assert same_bits(results, positive.run(feeds))
        seen.add((a == b, len(a) - len(b)))
    assert len(seen) > 6


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_sum_is_optional_and_changes_nothing(operator: str) -> None:
    rng = np.random.default_rng(1)
    for kind, parameters in KINDS:
        feeds = Node(operator, kind, parameters).feeds(rng, (5, 77))
        both = Node(operator, kind, parameters).run(feeds)
        for outputs in (("Y",), ("Y", "")):
            alone = Node(operator, kind, parameters, outputs).run(feeds)
            assert alone["Y"].tobytes() == both["Y"].tobytes()


def test_y_comes_from_the_unrounded_sum() -> None:
    """Rounded to float16 first, a mean of 1000 leaves two bits of a deviation of 1."""
    rng = np.random.default_rng(2)
    node = Node(LAYER_NORM, "float16")
    feeds = node.feeds(rng, (4, 768))
    feeds["A"] = (feeds["A"].astype(np.float32) + 1000).astype(np.float16)
    feeds["Scale"][...], feeds["Bias"][...] = 1, 0
    results = node.run(feeds)
    exact = feeds["A"].astype(np.float64) + feeds["B"].astype(np.float64)
    deviation = exact - exact.mean(-1, keepdims=True)
    right = deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + EPSILON)
    assert np.abs(results["Y"].astype(np.float64) - right).max() < 2e-3
    kept = results["Sum"].astype(np.float64)
    assert np.abs(kept - exact).max() > 0.1


@pytest.mark.parametrize(
    ("a", "b"), [((0, 8), (0, 8)), ((2, 0, 8), (8,)), ((3, 0), (3, 0)), ((0, 1, 8), (1, 4, 8))]
)
def test_empty_tensors(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for operator in OPERATORS:
        node = Node(operator)
        results = node.run(node.feeds(np.random.default_rng(0), a, b))
        assert all(array.shape == np.broadcast_shapes(a, b) for array in results.values())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", [(300, 768), (5, 65_536), (4096, 9), (1400, 4096)])
def test_threads_change_no_bit(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    for kind in ("float32", "float16"):
        node = Node(LAYER_NORM, kind)
        feeds = node.feeds(rng, shape)
        with isa(name):
            one = node.run(feeds)
            assert same_bits(one, node.run(feeds, threads=2))
            assert same_bits(one, node.run(feeds, threads=5))
            # Rows alone, far below what is written past the caches.
            row = {key: value[:1] if value.ndim > 1 else value for key, value in feeds.items()}
            first = node.run(row)
        assert all(first[key].tobytes() == one[key][:1].tobytes() for key in first)


@pytest.mark.parametrize("name", SETS)
def test_any_address_will_do(name: str) -> None:
    """Memory-mapped weights and buffers that a user binds lie anywhere."""
    rng = np.random.default_rng(5)
    with isa(name):
        for kind, shape in (
            ("float32", (40, 100)),
            ("float16", (40, 100)),
            ("float32", (1400, 4096)),
        ):
            node = Node(LAYER_NORM, kind)
            feeds = node.feeds(rng, shape)
            aligned = node.run(feeds)
            for offset in (2, 4, 8, 32, 62):
                assert same_bits(aligned, node.run(feeds, offset=offset)), (kind, offset)


def chain(length: int, shape: tuple[int, ...], known: bool) -> onnx.ModelProto:
    """Nodes of which each reads the last one's outputs: onnxruntime reuses their memory."""
    dims = ",".join(map(str, shape))
    lines, values, a, b = [], [], "x", "y"
    for k in range(length):
        lines.append(
            f"n{k}, s{k} = graphfuse.AddLayerNormalization <epsilon: float = 0.001> ({a}, {b}, w, c)"
        )
        values.append(f"float[{dims}] n{k}, float[{dims}] s{k}")
        a, b = f"s{k}", f"n{k}"
    shapes = f"<{', '.join(values)}>" if known else ""
    return onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["": 17, "graphfuse": 1]>
        g (float[{dims}] x, float[{dims}] y, float[{shape[-1]}] w, float[{shape[-1]}] c)
            => (float[{dims}] n{length - 1}, float[{dims}] s{length - 1}) {shapes} {{
            {"".join(lines)}
        }}""".replace(")n", ")\n n")
    )


@pytest.mark.parametrize("known", [True, False])
def test_memory_that_is_used_again(known: bool) -> None:
    """Y and Sum may lie where A or B were."""
    rng = np.random.default_rng(6)
    shape = (7, 3, 96)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name in "xy"}
    feeds |= {name: rng.standard_normal(shape[-1]).astype(np.float32) for name in "wc"}
    results = []
    for reuse in (True, False):
        options = graphfuse.session_options()
        options.enable_mem_reuse = reuse
        options.enable_mem_pattern = reuse
        model = chain(9, shape, known).SerializeToString()
        made = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        results.append(made.run(None, feeds))
    for left, right in zip(*results, strict=True):
        assert left.tobytes() == right.tobytes()
        assert np.isfinite(left).all()


FAULTS = [
    (
        {"A": (2, 3, 8), "B": (2, 4, 8)},
        {},
        "A of shape (2, 3, 8) and B of shape (2, 4, 8) do not broadcast",
    ),
    ({"Scale": (7,)}, {}, "Scale has shape (7); it must be (8)"),
    ({"Scale": (1, 8)}, {}, "Scale has shape (1, 8); it must be (8)"),
    ({"Bias": (1,)}, {}, "Bias has shape (1); it must be (8)"),
    ({"AddBias": (2,)}, {}, "AddBias has shape (2); it must be (8)"),
    ({}, {"axis": 3}, "axis 3 is not one of a sum of shape (2, 3, 8)"),
    ({}, {"axis": -4}, "axis -4 is not one of a sum of shape (2, 3, 8)"),
    ({"A": (), "B": ()}, {}, "axis -1 is not one of a sum of shape ()"),
    ({}, {"epsilon": 0.0}, "epsilon is 0.000000; it must be a positive number"),
    ({}, {"epsilon": -1e-5}, "it must be a positive number"),
    ({}, {"epsilon": float("nan")}, "it must be a positive number"),
    ({}, {"epsilon": float("inf")}, "it must be a positive number"),
    ({}, {"stash_type": 10}, "stash_type is 10; this kernel has 1 (float32)"),
]


@pytest.mark.parametrize(("shapes", "attributes", "sentence"), FAULTS)
def test_faults_are_told_in_a_sentence(shapes: dict, attributes: dict, sentence: str) -> None:
    node = Node("AddBiasLayerNormalization", attributes=attributes)
    sound = {"A": (2, 3, 8), "B": (2, 3, 8), "Scale": (8,), "Bias": (8,), "AddBias": (8,)}
    feeds = {name: np.ones(shape, np.float32) for name, shape in (sound | shapes).items()}
    with pytest.raises(Exception, match="graphfuse::AddBiasLayerNormalization") as caught:
        node.session().run(None, feeds)
    assert sentence in str(caught.value)


def test_types_that_do_not_go_together_are_refused() -> None:
    for kind, parameters in (
        ("float32", "float16"),
        ("float64", "float32"),
        ("float16", "bfloat16"),
    ):
        with pytest.raises(Exception, match=r"no kernel def matches|Type Error"):
            Node(LAYER_NORM, kind, parameters).session()


def test_an_instruction_set_that_is_not_there() -> None:
    """Told where the library is registered, and where a node is made by a session that has it."""
    options = ort.SessionOptions()
    kernels.register(options)
    wanted = r"GRAPHFUSE_KERNEL_ISA.*can be.*portable"
    with isa("avx1024"):
        with pytest.raises(ProviderError, match=wanted):
            Node(LAYER_NORM).session()
        model = Node(LAYER_NORM).model().SerializeToString()
        with pytest.raises(Exception, match=wanted):
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_long_sums_of_equal_numbers() -> None:
    """Rounded the same way each time, a plain sum drifts by thousands of units in the last place."""
    for name in SETS:
        for constant in (0.1, 0.7, 1 / 3):
            row = np.full((1, 2**22), constant, np.float32)
            feeds = {
                "A": row,
                "B": np.zeros((1, 1), np.float32),
                "Scale": np.ones(2**22, np.float32),
            }
            with isa(name):
                result = Node("AddRMSNormalization", outputs=("Y",)).run(feeds)["Y"][0, 0]
            exact = np.float64(row[0, 0]) / np.sqrt(np.float64(row[0, 0]) ** 2 + EPSILON)
            assert abs(result / exact - 1) < 20 * 2.0**-24, (name, constant)


@pytest.mark.parametrize(("kind", "largest"), [("float32", 3.3e38), ("float64", 1.7e308)])
def test_a_constant_row_near_the_largest_number(kind: str, largest: float) -> None:
    node = Node(LAYER_NORM, kind, outputs=("Y",))
    feeds = node.feeds(np.random.default_rng(0), (2, 16))
    feeds["A"][...], feeds["B"][...] = largest, 0
    assert np.array_equal(node.run(feeds)["Y"], np.stack([feeds["Bias"]] * 2))


def test_a_session_that_outlives_the_library(tmp_path: Path) -> None:
    """A host's global session is destroyed after the library's own destructors have run."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    host = tmp_path / "host.so"
    source = ROOT / "tests" / "campaigns" / "kernels" / "host.cc"
    subprocess.run([compiler, "-std=c++17", "-shared", "-fPIC", source, "-o", host], check=True)
    model = tmp_path / "model.onnx"
    onnx.save(Node(LAYER_NORM).model(), model)
    code = f"""if True:
        import ctypes, onnxruntime
        keep = ctypes.CDLL({str(host)!r})
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library({str(host)!r})
        print("made", flush=True)"""
    environment = {
        **os.environ,
        "MALLOC_PERTURB_": "165",  # freed memory does not survive by chance
        "HOST_MODEL": str(model),
        "HOST_LIBRARY": str(kernels.library_path()),
    }
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if VERSION < (1, 23) and "Only one instance of LoggingManager" in run.stderr:
        pytest.skip(
            f"onnxruntime {ort.__version__} lets a host make no environment beside Python's"
        )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "made\n"
    assert run.stderr == "released\n"


def test_the_instruction_sets_agree_but_for_rounding() -> None:
    rng = np.random.default_rng(7)
    node = Node(LAYER_NORM)
    feeds = node.feeds(rng, (50, 1000))
    results = {}
    for name in SETS:
        with isa(name):
            results[name] = node.run(feeds)["Y"]
    for array in results.values():
        np.testing.assert_allclose(array, results["portable"], rtol=1e-5, atol=1e-6)


def test_registering_twice_and_in_several_sessions() -> None:
    options = ort.SessionOptions()
    kernels.register(options)
    kernels.register(options)
    model = Node(LAYER_NORM).model().SerializeToString()
    made = [ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in "ab"]
    feeds = Node(LAYER_NORM).feeds(np.random.default_rng(0), (4, 16))
    first, second = (session.run(None, feeds) for session in made)
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def test_one_session_in_several_threads() -> None:
    node = Node(LAYER_NORM)
    made = node.session(threads=2)
    feeds = node.feeds(np.random.default_rng(0), (200, 256))
    expected = made.run(None, feeds)[0]
    wrong: list[int] = []

    def work() -> None:
        for index in range(50):
            if not np.array_equal(made.run(None, feeds)[0], expected):
                wrong.append(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("B", "S", 8), ("B", "S", 8), ["B", "S", 8]),
        (("B", 5, 8), (1, 5, 8), ["B", 5, 8]),
        (("B", "S", 8), (8,), ["B", "S", 8]),
        ((1, "S", 8), ("B", "S", 8), None),
        (("B", "S", 8), ("B", "T", 8), None),
        (None, (2, 3, 8), None),
        ((2, 3, 8), None, None),
        ((2, None, 8), (2, None, 8), None),
    ],
)
def test_the_shape_of_y_is_inferred_where_it_is_sure(
    a: tuple, b: tuple, expected: list | None
) -> None:
    model = Node(LAYER_NORM).model({"A": a, "B": b, "Scale": (8,), "Bias": (8,)})
    options = graphfuse.session_options()
    made = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    shape = made.get_outputs()[0].shape
    assert shape == (expected or []), shape
