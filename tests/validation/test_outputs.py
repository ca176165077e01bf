"""G2 to G4 on arrays made for them: what passes, and what each gate alone notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from graphfuse.validation.outputs import FEW, OutputJudge

RNG = np.random.default_rng(0)
EXACT = RNG.normal(size=(6, 50))
EXACT[:, 7] += 10  # a clear decision in every row


def base(exact: np.ndarray = EXACT) -> np.ndarray:
    with np.errstate(over="ignore"):
        return exact.astype(np.float16)


def failed(result: Any, exact: Any = EXACT, before: Any = None, rounded: Any = None) -> set[str]:
    before = base(exact) if before is None else before
    judge = OutputJudge(
        "y", TensorProto.FLOAT16, exact, [before], lambda: [before] if rounded is None else rounded
    )
    return {c.gate for c in judge.checks(result, before, "here") if not c.passed}


def test_the_original_itself_passes() -> None:
    assert failed(base()) == set()


def test_further_from_float64_than_the_original_fails() -> None:
    assert failed((base() * np.float16(1.002)).astype(np.float16)) == {"G2"}


def test_what_rounding_each_edge_allows_passes() -> None:
    worse = (base() * np.float16(1.002)).astype(np.float16)
    assert failed(worse, rounded=[base(), worse.astype(np.float64)]) == set()
    assert failed(worse, rounded=[base()]) == {"G2"}


@pytest.mark.parametrize(
    ("factor", "decides", "looked_at"),
    [(1.002, False, 64), (1.05, False, FEW), (1.05, True, 64), (1.0, False, 0)],
    ids=["near its bound", "far from it", "far, but the model decides inside", "passes at once"],
)
def test_how_many_samples_of_rounding_are_looked_at(
    factor: float, decides: bool, looked_at: int
) -> None:
    seen: list[int] = []

    def samples() -> Iterator[np.ndarray]:
        for number in range(64):
            yield base()
            seen.append(number)

    judge = OutputJudge("y", TensorProto.FLOAT16, EXACT, [base()], samples, decides)
    result = (base() * np.float16(factor)).astype(np.float16)
    assert judge.checks(result, base(), "here")[0].passed is (looked_at == 0)
    assert len(seen) == looked_at


def test_a_value_that_is_lost_fails() -> None:
    for value in (np.nan, np.inf):
        result = base()
        result[2, 3] = value
        assert "G3" in failed(result)


def test_a_row_of_zeros_fails() -> None:
    exact = EXACT * 1e-3
    exact[3] *= 1e-3
    result = base(exact)
    result[3] = 0
    assert "G3" in failed(result, exact)


def test_what_the_type_cannot_hold_may_overflow() -> None:
    exact = EXACT.copy()
    exact[1, 1] = 1e6
    result = base(exact)
    assert np.isinf(result[1, 1])
    assert failed(result, exact) == set()
    result[1, 1] = 65504
    assert failed(result, exact) == set()


def test_nan_and_infinity_keep_their_class() -> None:
    exact = EXACT.copy()
    exact[0, 0], exact[0, 1] = np.nan, np.inf
    assert failed(base(exact), exact) == set()
    for at, value in ((0, 1.0), (1, -np.inf), (1, np.nan)):
        result = base(exact)
        result[0, at] = value
        assert failed(result, exact) == {"G3"}


def test_better_than_the_original_is_said() -> None:
    before = base()
    before[4, 4] = np.inf
    judge = OutputJudge("y", TensorProto.FLOAT16, EXACT, [before], lambda: [before])
    checks = judge.checks(base(), before, "here")
    assert all(check.passed for check in checks)
    assert any("1 elements finite that are not in the original" in c.where for c in checks)


def test_a_clear_decision_that_moves_fails() -> None:
    exact = np.full((400, 50), 1.0)
    exact[:, 7] = 1.02
    result = base(exact)
    result[5, 9] = np.float16(1.03)
    before = exact.astype(np.float32)
    judge = OutputJudge("y", TensorProto.FLOAT16, exact, [before], lambda: [result])
    assert {c.gate for c in judge.checks(result, result, "here") if not c.passed} == {"G4"}


def test_integers_must_be_equal_to_a_run_of_the_original() -> None:
    ids = np.arange(6)
    judge = OutputJudge("ids", TensorProto.INT64, ids, [ids, ids[::-1]], lambda: [ids])
    assert judge.checks(ids[::-1], ids, "here")[0].passed
    assert not judge.checks(ids + 1, ids, "here")[0].passed
