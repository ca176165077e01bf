"""A sample of the mutants; `python -m tests.campaigns.mutants` is the table."""

from __future__ import annotations

import pytest

from tests.campaigns.mutants.kinds import KINDS
from tests.campaigns.mutants.trial import TARGETS, verdicts
from tests.conftest import Export

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
