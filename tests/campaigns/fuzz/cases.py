"""Cases: legal models, and models with one illegal move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tests.campaigns.fuzz import scopes
from tests.campaigns.fuzz.build import Builder
from tests.campaigns.fuzz.case import Block, Case, Ticket
from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.draft import dtype_of, model_of
from tests.campaigns.fuzz.dress import add_decoys, finish_constants, rename, shuffle
from tests.campaigns.fuzz.moves import spell
from tests.campaigns.fuzz.near import ALGEBRA, Near
from tests.campaigns.fuzz.near_model import MODEL, NearModel
from tests.campaigns.fuzz.norm import Norm
from tests.campaigns.fuzz.tree import At, NormOp

ILLEGAL: Mapping[str, Near | NearModel] = {**ALGEBRA, **MODEL}


def build(ticket: Ticket) -> Case:
    """The case of a ticket: the same on every machine."""
    return _near(ticket) if ticket.near else _legal(ticket)


def _legal(ticket: Ticket) -> Case:
    builder = Builder(ticket)
    total = builder.total()
    blocks: list[Block] = []
    for _ in range(builder.choices.pick("blocks", (1, 1, 1, 1, 1, 1, 1, 2))):
        if blocks:
            total = builder.next_total(blocks[-1])
        norm = builder.norm()
        block = builder.block(total, norm, builder.spelling(norm))
        builder.read(block)
        blocks.append(block)
    add_decoys(builder, total)
    return _finish(builder, blocks)


def _near(ticket: Ticket) -> Case:
    # The move is drawn on its own, so that making anything else plain does not change it.
    name = Choices(ticket.seed, ticket.index).pick("illegal move", tuple(ILLEGAL))
    move = ILLEGAL[name]
    builder = Builder(ticket, move.limits)
    block = move.make(builder) if isinstance(move, NearModel) else _spelt(builder, move, name)
    if isinstance(move, Near):
        builder.output(block.output)
        if builder.choices.chance("sum is an output", 20):
            builder.output(block.total)
        add_decoys(builder, block.total)
    return _finish(builder, [block], name)


def _spelt(builder: Builder, move: Near, name: str) -> Block:
    """The block of an illegal expression."""
    total, norm = builder.total(), builder.norm()
    expression = move.spelling(builder, norm)
    assert not isinstance(expression, NormOp)
    expression = spell(expression, builder.choices, only_where_safe=True)
    if builder.elem_type not in (1, 11) and builder.choices.chance("all in float32", 50):
        expression = At(1, expression)
    _make_epsilon(builder, norm, name)
    output = builder.emitter(total, builder.shape).emit(expression, builder.elem_type)
    return Block(norm, total, output)


def _make_epsilon(builder: Builder, norm: Norm, name: str) -> None:
    """The tensor that stands for an illegal epsilon, where the expression names one."""
    epsilon, dtype, draft = float(norm.epsilon), dtype_of(builder.elem_type), builder.draft
    if name == "epsilon per channel":
        values = epsilon * (1 + np.arange(builder.hidden))
        tensor = draft.constant(values.astype(dtype))
        builder.tensors[name] = (tensor, builder.elem_type)
    elif name == "epsilon per row":
        shape = (*builder.shape[:-1], 1)
        tensor = builder.input("e", shape, (*builder.sizes[:-1], 1))
        builder.tensors[name] = (draft.node("Abs", [tensor]), builder.elem_type)
    elif name == "epsilon is an input":
        builder.tensors["epsilon as input"] = (builder.input("e", (), ()), builder.elem_type)
    elif name == "epsilon can be overridden":
        tensor = draft.constant(np.array(epsilon).astype(dtype))
        draft.overridable.append(tensor)
        builder.tensors["epsilon overridable"] = (tensor, builder.elem_type)


def _finish(builder: Builder, blocks: list[Block], move: str = "") -> Case:
    draft, choices = builder.draft, builder.choices
    finish_constants(draft, choices)
    shuffle(draft, choices)
    names = rename(draft, choices)
    wrapped = scopes.wrap(draft, choices)
    model = model_of(draft) if wrapped is None else wrapped.model
    return Case(
        builder.ticket,
        model,
        tuple(draft.inputs) if wrapped is None else wrapped.inputs,
        tuple(_renamed(block, names) for block in blocks),
        move,
        tuple(choices.drawn),
        "" if wrapped is None else wrapped.name,
    )


def _renamed(block: Block, names: Mapping[str, str]) -> Block:
    fields = {key: names.get(getattr(block, key), getattr(block, key)) for key in _NAMED}
    return replace(block, **fields)


_NAMED = ("total", "output", "tokens", "shaped")
