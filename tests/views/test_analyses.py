"""What is found of a model as a whole is found once, however many ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx
import pytest

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.records import MAIN
from graphfuse.running import inputs
from graphfuse.types.inference import infer_types
from graphfuse.views import analyses
from graphfuse.views.analyses import main_types, scopes_of, types_of
from graphfuse.views.cutting import parts_by_scope
from graphfuse.views.exposing import CHUNK
from tests.campaigns.benchmarks.growing import decoder

LAYERS = CHUNK + 1
"""Two sites each: their operands are exposed in three sessions."""


def counted(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> Counter[int]:
    """How often an analysis is made, by how many nodes the model has."""
    count: Counter[int] = Counter()
    wrapped: Callable[..., object] = getattr(where, name)

    def analysis(model: onnx.ModelProto, *more: object) -> object:
        count[len(model.graph.node)] += 1
        return wrapped(model, *more)

    monkeypatch.setattr(where, name, analysis)
    return count


def test_a_validation_infers_the_types_of_each_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = decoder(LAYERS, "computed")
    fused = graphfuse.fuse(original).model
    both = {len(original.graph.node): 1, len(fused.graph.node): 1}
    by_scope = counted(monkeypatch, analyses, "infer_scopes")
    graphs = counted(monkeypatch, analyses, "scopes")
    main = counted(monkeypatch, analyses, "infer_types")
    of_inputs = counted(monkeypatch, inputs, "infer_types")
    rows = counted(monkeypatch, inputs, "table_rows")
    assert graphfuse.validate(original, fused, level="full").verdict == "pass"
    assert by_scope == graphs == both
    assert not main
    assert of_inputs == rows == {len(original.graph.node): 1}


def test_analyses_are_of_the_model_that_was_asked_for() -> None:
    model = Model(decoder(2))
    assert scopes_of(model) is scopes_of(model)
    assert types_of(model) is types_of(model)
    assert parts_by_scope(model) is parts_by_scope(model)
    assert dict(main_types(model)) == dict(infer_types(model.proto)) == dict(types_of(model)[MAIN])
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "renamed"
    edited = model.edited(proto)
    assert "renamed" in main_types(edited)
    assert "renamed" not in main_types(model)
    assert parts_by_scope(edited)[("main",)].node("renamed") == proto.graph.node[0]
