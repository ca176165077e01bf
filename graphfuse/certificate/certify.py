"""The certificates of a pair of models: each distinct site once, with the sites it stands for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphfuse.certificate.calls import Calls
from graphfuse.certificate.cut import Cut, Pair, UnpairedError, cut
from graphfuse.certificate.definitions import is_centred
from graphfuse.certificate.numbers import DIGITS
from graphfuse.certificate.trial import Outcome, RowTrial
from graphfuse.certificate.values import UnknownError
from graphfuse.files.model_file import Model
from graphfuse.records import Certificate, CertificateVerdict, NormKind
from graphfuse.records.progress import Progress, tell_part
from graphfuse.system import libraries
from graphfuse.views.cutting import parts_by_scope
from graphfuse.views.fused_nodes import fused_nodes, unlike_functions


def certify(
    original: Model, fused: Model, seed: int, only: Sequence[str], progress: Progress
) -> tuple[Certificate, ...]:
    """A certificate for each distinct site, in the order of the model.

    Sites are the fused nodes that only the second model has; `only` are the outputs of those that
    are wanted, all where it is empty. The same seed gives the same rows. Raises ProviderError where
    mpmath is not installed.
    """
    libraries.mpmath()
    progress.stage("certifying each distinct site")
    before, after = parts_by_scope(original), parts_by_scope(fused)
    calls = (Calls(original, before), Calls(fused, after))
    cuts: list[Cut] = []
    made: list[Certificate] = []
    for node, scope, site in fused_nodes(fused, np.random.default_rng(seed)):
        there, output = before.get(scope), node.output[0]
        if (there is not None and there.node(output) == node) or (only and output not in only):
            continue
        kind = NormKind.LAYER_NORM if is_centred(node.op_type) else NormKind.RMS_NORM
        if there is None or isinstance(site, str):
            why = site if isinstance(site, str) else "the original has no such graph"
            made.append(_uncertified(output, kind, seed, why))
            continue
        try:
            cuts.append(cut(Pair(there, after[scope], calls), site))
        except (UnpairedError, UnknownError) as error:
            made.append(_uncertified(output, kind, seed, str(error)))
    with np.errstate(all="ignore"):
        # The processor's flags say nothing of numbers that are no float64.
        made += _judged(cuts, seed, progress)
    odd = {function.name for function in unlike_functions(fused.proto, original.proto)}
    doubtful = {each.site.output for each in cuts if each.site.node.op_type in odd}
    return tuple(_doubted(each) if each.site in doubtful and each.passed else each for each in made)


def _doubted(found: Certificate) -> Certificate:
    """What agrees on rows of one number need not on others, where the function is not ours."""
    why = "the function that the file has for it is not the one that graphfuse writes"
    return replace(found, verdict=CertificateVerdict.UNCERTIFIED, detail=why)


def _judged(cuts: Sequence[Cut], seed: int, progress: Progress) -> list[Certificate]:
    """Alike ones together, with their weights drawn; where that differs, each with its own."""
    made: list[Certificate] = []
    groups = _alike(cuts, drawn=True)
    for done, group in enumerate(groups):
        progress.stage(f"certifying {group[0].site.output}")
        tell_part(progress, done, len(groups))
        outcome = RowTrial(group[0], seed, drawn=True).outcome()
        if outcome.verdict != CertificateVerdict.DIFFERENT:
            made.append(_certificate(group, outcome, seed))
            continue
        for single in _alike(group, drawn=False):
            own = outcome
            if single[0].letters:
                own = RowTrial(single[0], seed, drawn=False).outcome()
            made.append(_certificate(single, own, seed))
    return made


def _alike(cuts: Sequence[Cut], drawn: bool) -> list[list[Cut]]:
    groups: dict[str, list[Cut]] = {}
    for each in cuts:
        groups.setdefault(each.likeness(drawn), []).append(each)
    return list(groups.values())


def _certificate(group: Sequence[Cut], outcome: Outcome, seed: int) -> Certificate:
    first = group[0]
    output = first.site.output
    return Certificate(
        output,
        tuple(each.site.output for each in group),
        NormKind.LAYER_NORM if first.site.centred else NormKind.RMS_NORM,
        first.notation,
        outcome.extents,
        outcome.rows,
        seed,
        DIGITS,
        outcome.verdict,
        outcome.detail,
        outcome.difference,
        _repeat(output, seed),
    )


def _uncertified(output: str, kind: NormKind, seed: int, why: str) -> Certificate:
    repeat = _repeat(output, seed)
    return Certificate(
        output,
        (output,),
        kind,
        "",
        "",
        0,
        seed,
        DIGITS,
        CertificateVerdict.UNCERTIFIED,
        why,
        None,
        repeat,
    )


def _repeat(output: str, seed: int) -> str:
    return f"--validate none --certify --seed {seed} --site {shlex.quote(output)}"
