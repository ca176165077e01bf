"""Functions in graphfuse's and onnxruntime's domains that are neither's operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

import graphfuse
from graphfuse import kernels, ops
from graphfuse.records import NormKind
from graphfuse.records.reasons import Reason
from graphfuse.running.sessions import run, session
from graphfuse.speed.measurements import BenchOptions
from graphfuse.validation import whole_model
from tests.conftest import Shell
from tests.support.graphs import DECOMPOSED_LAYER_NORM, residual

SCALE, BIAS = np.linspace(0.5, 1.5, 8, dtype=np.float32), np.full(8, 0.1, np.float32)
OWN = "graphfuse::AddLayerNormalization"


def parsed(
    nodes: str, domain: str, function: str, outputs: str = "float[B,S,8] y"
) -> onnx.ModelProto:
    proto = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17, "{domain}" : 1]>
        g (float[B,S,8] a, float[B,S,8] b) => ({outputs}) {{ {nodes} }}
        <domain: "{domain}", opset_import: ["" : 17]>
        {function}""")
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for array, name in ((SCALE, "scale"), (BIAS, "bias"))
    )
    return proto


def calling(domain: str, name: str) -> onnx.ModelProto:
    """A site behind a function, and one inside it."""
    return parsed(
        f"c = {domain}.{name}(a, b, scale, bias) x = Add(c, b) "
        "y = LayerNormalization(x, scale, bias)",
        domain,
        f"{name} (A, B, S, C) => (Y) {{ X = Add(A, B) Z = LayerNormalization(X, S, C) Y = Relu(Z) }}",
    )


def impostor(kind: str = "LayerNormalization") -> onnx.ModelProto:
    """A function under our name that norms a product, and negates; and a site beside it."""
    norm = "LayerNormalization(x, scale, bias)"
    if kind == "RMSNormalization":
        norm = "SimplifiedLayerNormalization(x, scale)"
    return parsed(
        "z, w = graphfuse.AddLayerNormalization<epsilon=1e-5, axis=-1, stash_type=1>"
        f"(a, b, scale, bias) x = Add(z, b) y = {norm}",
        "graphfuse",
        """AddLayerNormalization <epsilon, axis, stash_type> (A, B, Scale, Bias) => (Y, Sum) {
            Sum = Mul(A, B)
            N = LayerNormalization<epsilon: float = @epsilon>(Sum, Scale, Bias)
            Y = Neg(N) }""",
        "float[B,S,8] y, float[B,S,8] z",
    )


FEEDS = {
    name: np.random.default_rng(n).normal(size=(2, 3, 8)).astype(np.float32)
    for n, name in enumerate("ab")
}


@pytest.mark.parametrize(
    ("domain", "name"),
    [("com.microsoft", "Mine"), ("graphfuse", "Mine"), ("mine", "F")],
)
@pytest.mark.parametrize("level", ["fast", "full", "sites"])
def test_other_functions_of_these_domains_are_functions_like_any(
    domain: str, name: str, level: str, tmp_path: Path
) -> None:
    proto = calling(domain, name)
    onnx.save(proto, tmp_path / "model.onnx")
    scan = graphfuse.scan(proto)
    assert (len(scan.sites), scan.already_fused, scan.strange) == (2, 0, ())
    result = graphfuse.optimize(tmp_path / "model.onnx", tmp_path / "o.onnx", level=level)
    assert len(result.fused) == 2
    assert result.nodes_before - result.nodes_after == 2
    written = onnx.load(tmp_path / "o.onnx")
    assert {f.name for f in written.functions} == {name, "AddLayerNormalization"}
    for registered in {False, not kernels.why_not()}:
        before, after = (
            run(session(each, Path(), kernels=registered), FEEDS) for each in (proto, written)
        )
        np.testing.assert_allclose(after["y"], before["y"], rtol=1e-4, atol=1e-5)


def test_a_function_of_another_meaning_is_named_and_not_counted_as_fused(
    shell: Shell, tmp_path: Path
) -> None:
    onnx.save(impostor(), tmp_path / "model.onnx")
    scan = graphfuse.scan(tmp_path / "model.onnx")
    assert (scan.already_fused, scan.strange) == (0, (OWN,))
    quick = ("--seconds", "0", "--sizes", "1x4", "--threads", "1", "--no-memory")
    for command in (
        ("scan", "model.onnx"),
        ("scan", "model.onnx", "--activations"),
        ("scan", "model.onnx", "--json"),
        ("fuse", "model.onnx", "--dry-run"),
        ("fuse", "model.onnx", "--dry-run", "--json"),
        ("validate", "model.onnx", "model.onnx"),
        ("bench", "model.onnx", "model.onnx", *quick),
    ):
        said = shell(*command)
        assert said.returncode == 0, said.stderr
        assert f"{OWN} of this model is not what graphfuse writes" in said.stdout, command
        assert "fused before" not in said.stdout


@pytest.mark.parametrize("kind", ["LayerNormalization", "RMSNormalization"])
def test_beside_it_no_node_of_ours_is_made(kind: str) -> None:
    """The kernels that such a node asks for would run in place of the function as well."""
    proto = impostor(kind)
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none"))
    assert result.proto == proto
    assert [miss.reason for miss in result.left if miss.site] == [Reason.NAME_TAKEN]
    assert graphfuse.fuse(
        proto, "cuda", strict_mode=True, selection=graphfuse.Selection(costs="none")
    ).changed


def test_the_kernels_do_not_run_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a session with them it would be a LayerNorm of the sum: nobody gets that without a word."""
    proto = impostor()
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = plain.run(["z"], FEEDS)[0]
    np.testing.assert_allclose(
        run(session(proto, Path()), FEEDS)["z"], wanted, rtol=1e-5, atol=1e-6
    )
    if not kernels.why_not():
        shadowed = run(session(proto, Path(), kernels=True), FEEDS)["z"]
        assert np.abs(shadowed - wanted).max() > 0.1
    flags: list[bool | None] = []

    def watched(*arguments: object, **options: object) -> object:
        flags.append(arguments[4] if len(arguments) > 4 else options.get("kernels"))  # type: ignore[arg-type]
        return session(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(whole_model, "session", watched)
    report = graphfuse.validate(proto, proto)
    assert report.passed
    assert not any(flags)
    options = BenchOptions(0.0, (1,), look_inside=False, memory=False)
    (found,) = graphfuse.bench(proto, proto, options=options).comparisons
    assert found.plain is None


def test_a_function_of_ours_for_another_type_is_no_strange_one() -> None:
    """At opset 13 a body serves one type; that it is another's is another reason."""
    variant = ops.Variant(onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT16)
    wide = residual(DECOMPOSED_LAYER_NORM, opset=13)
    wide.functions.append(ops.function(NormKind.LAYER_NORM, 13, variant))
    wide.opset_import.append(onnx.helper.make_opsetid("graphfuse", 1))
    result = graphfuse.fuse(wide, selection=graphfuse.Selection(costs="none"))
    assert [miss.reason for miss in result.left if miss.site] == [Reason.MIXED_TYPES]
    assert graphfuse.scan(wide).strange == ()
