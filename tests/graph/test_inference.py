"""Types without weights: what is done for the sake of memory changes nothing that is found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.types import inference
from tests.support.graphs import DECOMPOSED_LAYER_NORM, model, residual

LONG = "float[B,S,512] a, float[B,S,512] b, float[512] scale, float[512] bias"

RESHAPED = """
    x = Add(a, b)
    shape = Shape(x)
    flat = Reshape(scale, last)
    extent = Shape(flat)
    joined = Concat<axis = 0>(shape, extent)
    wide = Expand(bias, joined)
    both = Concat<axis = 0>(scale, bias)
    y = Mul(wide, flat)
"""


@pytest.mark.parametrize("body", [f"x = Add(a, b)\n{DECOMPOSED_LAYER_NORM}", RESHAPED])
def test_long_vectors_are_hidden_from_data_propagation_only(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the 15 million elements of GPT-3's biases, here with two vectors."""
    graph = model(body, inputs=LONG, outputs="float[B,S,512] y", constants={"last": np.array([-1])})
    plain = dict(inference.infer_types(graph))
    assert not inference._long_vectors(graph.graph)
    monkeypatch.setattr(inference, "MOST_VECTOR_ELEMENTS", 512)
    assert len(inference._long_vectors(graph.graph)) == 2
    assert dict(inference.infer_types(graph)) == plain
    assert not any("graphfuse" in str(found.shape) for found in plain.values())


def test_a_symbol_that_is_not_utf8_is_a_symbol_like_any() -> None:
    """Protobuf hands it over as bytes; it names an extent all the same."""
    proto = residual(
        "y = LayerNormalization(x, scale, bias)",
        inputs="float[Q,S,8] a, float[Q,S,8] b",
        outputs="float[Q,S,8] y",
    )
    odd = onnx.ModelProto.FromString(
        proto.SerializeToString().replace(b"\x12\x01Q", b"\x12\x01\xff")
    )
    assert odd.SerializeToString() != proto.SerializeToString()
    (site,) = graphfuse.scan(odd).sites
    assert site.shape == ("\\xff", "S", 8)
    assert graphfuse.fuse(odd).changed
