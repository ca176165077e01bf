"""Rows of few vectors, which the kernels compute several at once (narrow.h)."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import kernels
from tests.campaigns.kernels import node as node_module
from tests.campaigns.kernels.node import OPERATORS, Node, isa
from tests.kernels.test_kernels import KINDS, LAYER_NORM, SETS, chain, factor, same_bits

pytestmark = pytest.mark.skipif(
    kernels.find() is None and shutil.which("c++") is None,
    reason="the kernels were not built: there is no C++ compiler",
)

LENGTHS = range(1, 71)
ROWS = 37
"""Whole blocks of every instruction set, and a part of one."""


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_every_length(name: str, kind: tuple[str, str]) -> None:
    rng = np.random.default_rng(8)
    with isa(name):
        for length in (*LENGTHS, 95, 96, 97, 127, 128, 129):
            for operator in OPERATORS:
                node = Node(operator, *kind)
                feeds = node.feeds(rng, (ROWS, length))
                assert factor(node, feeds, node.run(feeds)) <= 1, (operator, length)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [1, 3, 8, 15, 16, 17, 24, 32, 48, 63, 64])
def test_a_row_knows_nothing_of_its_neighbours(name: str, length: int) -> None:
    """The same bits alone, among few, in a block, and beside a block."""
    rng = np.random.default_rng(9)
    with isa(name):
        for kind in KINDS:
            for operator in OPERATORS[:2]:
                node = Node(operator, *kind)
                feeds = node.feeds(rng, (ROWS, length))
                whole = node.run(feeds)
                for begin, end in ((0, 1), (5, 7), (4, 7), (3, 7), (1, 17), (20, 37), (2, 37)):
                    part = {k: v[begin:end] if v.ndim > 1 else v for k, v in feeds.items()}
                    result = node.run(part)
                    for key, array in result.items():
                        assert array.tobytes() == whole[key][begin:end].tobytes(), (kind, begin)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [7, 8, 24, 33, 48])
def test_broadcasting_is_what_it_spells_out(name: str, length: int) -> None:
    """Rows side by side, repeated, in turns, and put together from elements."""
    rng = np.random.default_rng(10)
    full = (3, 19, length)
    shapes = [(length,), (1,), (19, length), (1, 19, length), (3, 1, length), (19, 1), (3, 19, 1)]
    pairs = [pair for shape in shapes for pair in ((full, shape), (shape, full))]
    pairs += [((3, 1, length), (19, length)), ((3, 1, 1), (19, length)), ((3, 19, 1), (length,))]
    with isa(name):
        for a, b in pairs:
            for kind in KINDS:
                for operator in (LAYER_NORM, "AddBiasRMSNormalization"):
                    node = Node(operator, *kind)
                    feeds = node.feeds(rng, a, b)
                    results = node.run(feeds)
                    assert factor(node, feeds, results) <= 1, (a, b, kind)
                    for operand in ("A", "B"):
                        feeds[operand] = np.broadcast_to(feeds[operand], full).copy()
                    assert same_bits(results, node.run(feeds)), (a, b, kind)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [5, 16, 24, 63])
def test_rows_that_have_to_be_done_again(name: str, length: int) -> None:
    """What cannot be squared, infinities and NaN leave the other rows of their block alone."""
    rng = np.random.default_rng(11)
    with isa(name):
        for kind in ("float32", "float64", "bfloat16"):
            for operator in OPERATORS[:2]:
                node = Node(operator, kind)
                feeds = node.feeds(rng, (ROWS, length))
                sound = node.run(feeds)
                odd = {k: v.copy() for k, v in feeds.items()}
                large = 1e300 if kind == "float64" else 1e30
                for row, value in ((3, large), (4, np.nan), (17, np.inf), (36, -large)):
                    odd["A"][row, row % length] = value
                odd["A"][20] = (odd["A"][20].astype(np.float64) * large).astype(odd["A"].dtype)
                touched = [3, 4, 17, 20, 36]
                results = node.run(odd)
                for key, array in results.items():
                    left = np.delete(array, touched, 0)
                    assert left.tobytes() == np.delete(sound[key], touched, 0).tobytes()
                finite = [row for row in range(ROWS) if row not in (4, 17)]
                part = {k: v[finite] if v.ndim > 1 else v for k, v in odd.items()}
                assert factor(node, part, {k: v[finite] for k, v in results.items()}) <= 1
                assert np.isnan(results["Y"][4].astype(np.float64)).all()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [1, 3, 8, 24, 48])
def test_nothing_is_written_beside_an_output(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors are written whole where rows follow; the last rows end where they end."""
    rng = np.random.default_rng(12)
    plain = node_module.aligned

    def marked(*arguments: Any) -> np.ndarray:
        """Among NaN, which must not come into a result either."""
        array = plain(*arguments)
        array.base[...] = 0xFF
        return array

    monkeypatch.setattr(node_module, "aligned", marked)
    with isa(name):
        for kind in KINDS:
            node = Node(LAYER_NORM, *kind)
            for rows, offset in ((1, 0), (2, 24), (16, 8), (21, 40)):
                feeds = node.feeds(rng, (rows, length))
                results = node.run(feeds, offset=offset)
                assert factor(node, feeds, results) <= 1
                for array in results.values():
                    begin = array.ctypes.data - array.base.ctypes.data
                    beside = np.delete(array.base, slice(begin, begin + array.nbytes))
                    assert beside.size >= 64
                    assert (beside == 0xFF).all(), (kind, rows)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [8, 16, 24, 48])
def test_threads_and_addresses_change_no_bit(name: str, length: int) -> None:
    rng = np.random.default_rng(13)
    with isa(name):
        for kind in KINDS:
            node = Node(LAYER_NORM, *kind)
            feeds = node.feeds(rng, (4096, length))
            one = node.run(feeds)
            for threads in (2, 5):
                assert same_bits(one, node.run(feeds, threads=threads)), kind
            for offset in (2, 4, 8, 32):
                assert same_bits(one, node.run(feeds, offset=offset)), (kind, offset)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [8, 24, 48, 63])
def test_outputs_in_the_memory_of_operands(name: str, length: int) -> None:
    rng = np.random.default_rng(14)
    shape = (7, 9, length)
    feeds = {key: rng.standard_normal(shape).astype(np.float32) for key in "xy"}
    feeds |= {key: rng.standard_normal(length).astype(np.float32) for key in "wc"}
    results = []
    with isa(name):
        for reuse in (True, False):
            options = graphfuse.session_options()
            options.enable_mem_reuse = reuse
            options.enable_mem_pattern = reuse
            model = chain(9, shape, True).SerializeToString()
            made = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            results.append(made.run(None, feeds))
    for left, right in zip(*results, strict=True):
        assert left.tobytes() == right.tobytes()
        assert np.isfinite(left).all()
