"""What is known of onnxruntime's own kernels by version, and what a site computes in."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.ops import CONTRIB_OPERATOR
from graphfuse.planning import faults, targets
from graphfuse.planning.runtimes import parse_version
from graphfuse.recognition.scan import scan
from graphfuse.records import NormKind
from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.running import sessions
from tests.conftest import ROOT
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, kinds, residual
from tests.support.typed_sites import (
    BRAIN,
    HALF,
    LN_IN_FLOAT32,
    LN_OP,
    MEAN_IN_FLOAT16,
    NORMS,
    RMS_IN_FLOAT32,
    RMS_OP,
    SINGLE,
    VARIANCE_IN_FLOAT16,
    VERSIONS,
    site,
)

CUDA = "cuda"

# The table.


def document() -> dict[str, Any]:
    path = ROOT / "graphfuse" / "planning" / faults.FILE
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_row_names_its_source_and_a_provider_that_targets_know() -> None:
    table = faults.table()
    assert table.faults
    assert table.accumulation
    providers = {target.provider for target in targets.TARGETS.values()}
    for row in (*table.faults, *table.accumulation):
        assert row.provider in providers
        assert row.since >= table.oldest
        # An issue or pull request by number, a file of the sources, or a released wheel.
        assert re.search(r"#\d{4,}|pull \d{4,}|\.(cc|cuh|cpp)\b|\d\.\d+\.\d", row.source), row


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("faults", "effect", "shrug"),
        ("faults", "when", "on Mondays"),
        ("faults", "what", ""),
        ("faults", "source", ""),
        ("faults", "operators", []),
        ("faults", "types", []),
        ("faults", "types", ["float8"]),
        ("faults", "until", "1.19"),
        ("accumulation", "in", "decimal"),
        ("accumulation", "source", ""),
    ],
)
def test_a_row_that_says_nothing_is_refused(part: str, field: str, value: object) -> None:
    broken = copy.deepcopy(document())
    assert faults.parse(broken)
    broken[part][0][field] = value
    with pytest.raises((ValueError, KeyError)):
        faults.parse(broken)


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 2"):
        faults.parse({**document(), "schema": 2})


@pytest.mark.parametrize("text", ["", "1", "newest", "v1.29", "1."])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(graphfuse.UsageError, match="is no version of onnxruntime"):
        faults.known(sessions.CUDA, CONTRIB_OPERATOR[NormKind.RMS_NORM], HALF, text)


def effects(operator: str, elem_type: int, version: faults.AnyVersion | None) -> set[str]:
    found = faults.known(sessions.CUDA, operator, elem_type, version)
    return {fault.effect for fault in found if not fault.when} - {faults.Effect.NOTE}


@pytest.mark.parametrize("operator", CONTRIB_OPERATOR.values())
def test_cuda_by_version(operator: str) -> None:
    """Sums in float16 until 1.26, no or narrow bfloat16 kernels; nothing of that from 1.27 on."""
    for version in VERSIONS:
        narrow = parse_version(version) < (1, 27)
        assert effects(operator, HALF, version) == ({faults.Effect.STRICT} if narrow else set())
        assert effects(operator, BRAIN, version) == ({faults.Effect.REFUSE} if narrow else set())
        assert effects(operator, SINGLE, version) == set()
        shown = [
            faults.accumulates(sessions.CUDA, operator, HALF, version, strict_mode)
            for strict_mode in (False, True)
        ]
        assert shown == [0 if narrow else SINGLE, SINGLE]
    assert effects(operator, HALF, None) == set()
    assert effects(operator, HALF, (1, 26)) == effects(operator, HALF, "1.26.0")


@pytest.mark.parametrize("version", ["1.27.0.dev20260501", "1.27.0rc1"])
def test_what_came_before_the_release_with_the_fix_may_lack_it(version: str) -> None:
    operator = CONTRIB_OPERATOR[NormKind.RMS_NORM]
    assert effects(operator, HALF, version) == {faults.Effect.STRICT}
    assert not faults.accumulates(sessions.CUDA, operator, HALF, version)
    assert effects(operator, HALF, "1.26.0+cu12") == {faults.Effect.STRICT}
    for after in ("1.27.0", "1.27.1", "1.27.0+cu12", "1.28.0.dev1", "2.0"):
        assert effects(operator, HALF, after) == set(), after


def test_older_versions_than_the_oldest_are_taken_for_it() -> None:
    assert effects(CONTRIB_OPERATOR[NormKind.RMS_NORM], HALF, "1.17.3") == {faults.Effect.STRICT}


# What the installed version can say of itself without a GPU; CI has more than one.


@pytest.mark.parametrize("kind", CONTRIB_OPERATOR)
def test_the_operator_takes_bfloat16_where_the_table_says(kind: str) -> None:
    """A provider's kernel cannot take what the operator's schema does not."""
    fused = graphfuse.fuse(
        site(NORMS[kind].replace("=10", "=16"), "bfloat16"), ep=CUDA, runtime="1.32"
    )
    assert [f.op_type for f in fused.fused] == [CONTRIB_OPERATOR[kind]]
    known = faults.known(sessions.CUDA, CONTRIB_OPERATOR[kind], BRAIN, ort.__version__)
    told = ""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(fused.model.SerializeToString(), options, providers=[sessions.CPU])
    except Exception as error:
        # onnxruntime raises its own classes; a kernel that the CPU lacks is another one.
        told = str(error)
    assert ("INVALID_GRAPH" in told) == any("takes no bfloat16" in fault.what for fault in known)


@pytest.mark.parametrize("operator", ["LayerNormalization", "SkipLayerNormalization"])
def test_the_cpus_layer_norms_are_as_the_table_says(operator: str) -> None:
    """The rows of microsoft/onnxruntime#28463."""
    row = np.array([80000.0, 80001.0, 80002.0, 80003.0], np.float32)
    rows = {"a": np.tile(row, 2).reshape(1, 1, 8), "b": np.zeros((1, 1, 8), np.float32)}
    constants = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    proto = residual(LN_OP, constants=constants)
    if operator == CONTRIB_OPERATOR[NormKind.LAYER_NORM]:
        proto = graphfuse.fuse(proto, ep=CUDA).model
    assert operator in kinds(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=[sessions.CPU])
    (got,) = session.run(None, rows)
    wanted = np.tile((row - row.mean()) / row.std(), 2)
    right = bool(np.isfinite(got).all() and np.abs(got - wanted).max() < 0.1)
    assert right == (not faults.known(sessions.CPU, operator, SINGLE, ort.__version__))


# What a model computes its statistics in.


@pytest.mark.parametrize(
    ("norm", "type_", "wanted"),
    [
        (DECOMPOSED_RMS_NORM, "float16", HALF),
        (DECOMPOSED_LAYER_NORM, "float16", HALF),
        (DECOMPOSED_LAYER_NORM, "float32", SINGLE),
        (RMS_IN_FLOAT32, "float16", SINGLE),
        (LN_IN_FLOAT32, "float16", SINGLE),
        (MEAN_IN_FLOAT16, "float16", SINGLE),
        (VARIANCE_IN_FLOAT16, "float16", SINGLE),
        (LN_OP, "float16", SINGLE),
        (LN_OP, "bfloat16", SINGLE),
        (LN_OP, "float32", SINGLE),
        (RMS_OP, "float16", SINGLE),
        (LN_OP.replace("(x", "<stash_type=16>(x"), "bfloat16", BRAIN),
    ],
)
def test_a_site_knows_what_its_statistics_are_computed_in(
    norm: str, type_: str, wanted: int
) -> None:
    (found,) = scan(Model(site(norm, type_))).sites
    assert found.elem_type == FLOATS_BY_NAME[type_]
    assert found.computed_in == wanted


def test_optimisers_that_crash_are_off_where_they_do() -> None:
    crashing = "FuseFp16InitializerToFp32NodeTransformer"
    assert faults.off("1.22.1") == ()
    assert faults.off("1.23.2") == faults.off("1.32.0") == faults.off() == (crashing,)
    for options in (graphfuse.session_options(), sessions.plain_options()):
        entry = options.get_session_config_entry(sessions.DISABLED_KEY)
        assert (crashing in entry.split(";")) == bool(faults.off(ort.__version__))
