"""Legal spellings of tests/fuzz, certified; in several processes when asked."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator

import graphfuse
from tests.campaigns.certificates.tally import Tally, certificates
from tests.campaigns.fuzz.case import Ticket
from tests.campaigns.fuzz.cases import build

CHUNK = 50


def run(seed: int, count: int, jobs: int = 1, first: int = 0) -> Tally:
    """So many cases of a seed; what is not fused at all is no matter of certificates."""
    chunks = list(_chunks(seed, count, first))
    tally, start = Tally(), time.monotonic()
    if jobs == 1:
        for chunk in chunks:
            tally.merge(_of(chunk))
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for part in pool.imap(_of, chunks):
                tally.merge(part)
    tally.seconds = time.monotonic() - start
    return tally


def _chunks(seed: int, count: int, first: int) -> Iterator[tuple[int, int, int]]:
    for start in range(first, first + count, CHUNK):
        yield seed, start, min(CHUNK, first + count - start)


def _of(chunk: tuple[int, int, int]) -> Tally:
    seed, first, count = chunk
    tally = Tally()
    for index in range(first, first + count):
        ticket = Ticket(seed, index)
        model = build(ticket).model
        result = graphfuse.fuse(model, selection=graphfuse.Selection(costs="none"))
        if result.changed:
            tally.add(ticket.command(), certificates(model, result.model))
    return tally
