"""Random legal spellings and near misses, and what keeps the judge of them honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from tests.campaigns.fuzz.campaign import run, tickets
from tests.campaigns.fuzz.case import Ticket
from tests.campaigns.fuzz.cases import ILLEGAL, build
from tests.campaigns.fuzz.judge import BROKEN, FUSED, SILENT, WRONG, judge
from tests.campaigns.fuzz.oracle import evaluate
from tests.campaigns.fuzz.shrink import as_text, shrink

COUNT = 250
SEED = 20
MISSED_ONCE = sorted((Path(__file__).parent / "fuzz" / "spellings").glob("*.txt"))
SILENCE = 0.005
"""The share of near misses that may be passed over without a reason; each is a gap to close."""


def test_legal_spellings_are_fused() -> None:
    totals = run(tickets(Ticket(SEED, 0), COUNT))
    assert totals.passed, list(totals.lines())


def test_near_misses_are_left() -> None:
    totals = run(tickets(Ticket(SEED, 0, near=True), COUNT))
    assert not totals.failures, list(totals.lines())
    assert totals.kinds[SILENT] <= SILENCE * COUNT, list(totals.lines())


def test_every_illegal_move_is_drawn() -> None:
    drawn = {build(Ticket(SEED, index, near=True)).move for index in range(COUNT)}
    assert drawn == set(ILLEGAL)


@pytest.mark.every
def test_totals_do_not_depend_on_jobs() -> None:
    plan = Ticket(SEED, 0)
    assert run(tickets(plan, 100)).kinds == run(tickets(plan, 100), jobs=2).kinds


def test_a_case_follows_from_seed_and_index() -> None:
    one, other = (build(Ticket(3, 14)).model.SerializeToString() for _ in range(2))
    assert one == other


Mutation = Callable[[onnx.NodeProto], None]


def _epsilon(node: onnx.NodeProto) -> None:
    next(a for a in node.attribute if a.name == "epsilon").f *= 1.01


def _operand(node: onnx.NodeProto) -> None:
    node.input[1] = node.input[0]


def _scale(node: onnx.NodeProto) -> None:
    node.input[2], node.input[3] = node.input[3], node.input[2]


def _outputs(node: onnx.NodeProto) -> None:
    node.output[0], node.output[1] = node.output[1], node.output[0]


MUTATIONS: dict[str, Mutation] = {
    "epsilon": _epsilon,
    "operand": _operand,
    "scale and bias": _scale,
    "outputs": _outputs,
}


def _break(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    """Let fuse damage its fused LayerNorms."""
    fuse = graphfuse.fuse

    def damaged(model: onnx.ModelProto, **options: object) -> graphfuse.FuseResult:
        result = fuse(model, **options)  # type: ignore[arg-type]
        broken = onnx.ModelProto()
        broken.CopyFrom(result.model)
        for node in broken.graph.node:
            if node.op_type == "AddLayerNormalization":
                mutation(node)
        return replace(result, proto=broken)

    monkeypatch.setattr(graphfuse, "fuse", damaged)


def _plain_layer_norms() -> list[Ticket]:
    """Cases of one LayerNorm with different operands, whose bias is not its scale."""
    topics = "blocks,kind,scale,bias,sum of one tensor,tokens flattened,scope"
    plain = frozenset(topics.split(","))
    return [Ticket(5, index, plain=plain) for index in range(40)]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_judge_catches_damage(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    _break(monkeypatch, MUTATIONS[mutation])
    kinds = [judge(build(ticket)).kind for ticket in _plain_layer_norms()]
    # What is not topologically sorted any more is no model, and is caught as well.
    assert kinds.count(WRONG) + kinds.count(BROKEN) == len(kinds), kinds


def test_an_illegal_fusion_of_the_same_value_is_caught() -> None:
    """A narrowed sum means the same in float64: there the fusion itself is what is wrong."""
    legal = build(Ticket(SEED, 0))
    assert judge(legal).kind == FUSED
    assert judge(replace(legal, move="sum narrowed")).kind == WRONG


def test_shrinking_makes_a_case_plainer(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, _epsilon)
    ticket = next(t for t in tickets(Ticket(6, 0), 20) if judge(build(t)).kind == WRONG)
    case, verdict = shrink(ticket)
    assert verdict.kind == WRONG
    assert judge(case).kind == WRONG
    assert len(case.model.graph.node) <= 10
    assert len(case.drawn) < len(build(ticket).drawn)
    again = build(replace(ticket, plain=case.ticket.plain))
    assert again.model == case.model
    assert "python -m tests.campaigns.fuzz --seed 6" in as_text(case, verdict)


def from_text(path: Path) -> onnx.ModelProto:
    """A case of a file: comments, then a model."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return onnx.parser.parse_model("\n".join(li for li in lines if not li.startswith("#")))


def shape_of(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


@pytest.mark.parametrize("path", MISSED_ONCE, ids=lambda path: path.stem)
def test_spellings_that_were_missed_once(path: Path) -> None:
    model = from_text(path)
    onnx.checker.check_model(model, full_check=True)
    result = graphfuse.fuse(model, selection=graphfuse.Selection(costs="none"))
    assert len(result.fused) == 1
    assert not graphfuse.fuse(result.model, selection=graphfuse.Selection(costs="none")).changed
    rng = np.random.default_rng(1)
    for spread in (1.0, 3e-3):
        feeds = {
            value.name: rng.normal(0.1, spread, [d.dim_value or 3 for d in shape_of(value)])
            for value in model.graph.input
        }
        before, after = evaluate(model, feeds), evaluate(result.model, feeds)
        for name in (value.name for value in model.graph.output):
            meant = before[name]
            np.testing.assert_allclose(after[name], meant, rtol=0, atol=1e-7 * np.abs(meant).max())
