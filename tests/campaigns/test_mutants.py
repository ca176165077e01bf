"""A sample of the mutants; `python -m tests.campaigns.mutants` is the table."""

from __future__ import annotations

import pytest

from tests.campaigns.mutants.kinds import KINDS
from tests.campaigns.mutants.trial import TARGETS, verdicts
from tests.conftest import Export

FIRST, SECOND = list(KINDS)[:9], list(KINDS)[9:]
"""Each kind once: those of nodes, which both families have, and those of functions' bodies too."""

SAMPLE = [
    ("bert", "float16", "graphfuse", SECOND),
    ("gpt2", "float32", "onnxruntime", FIRST),
]


@pytest.mark.parametrize(
    ("name", "dtype", "family", "kinds"),
    SAMPLE,
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_every_mutant_is_caught_at_every_level(
    name: str, dtype: str, family: str, kinds: list[str], export: Export
) -> None:
    assert family in TARGETS
    found = list(verdicts(name, export(name, dtype=dtype), family, kinds))
    assert len(found) >= 8
    assert not [(v.kind, v.missed) for v in found if v.missed]
