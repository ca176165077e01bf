"""A sample of the mutants; `python -m tests.mutants` is the table."""

from __future__ import annotations

import pytest

from tests.conftest import Export
from tests.mutants.kinds import KINDS
from tests.mutants.trial import TARGETS, verdicts

SAMPLE = [
    ("bert", "float16", "graphfuse"),
    ("gpt2", "float32", "onnxruntime"),
]


@pytest.mark.parametrize(("name", "dtype", "family"), SAMPLE)
def test_every_mutant_is_caught_at_every_level(
    name: str, dtype: str, family: str, export: Export
) -> None:
    assert family in TARGETS
    found = list(verdicts(name, export(name, dtype=dtype), family, list(KINDS)))
    assert len(found) >= 8
    assert not [(v.kind, v.missed) for v in found if v.missed]
