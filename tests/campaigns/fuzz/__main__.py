"""The command line: many cases, or one that is repeated."""

from __future__ import annotations

import argparse
import sys

from tests.campaigns.fuzz.campaign import Totals, run, tickets
from tests.campaigns.fuzz.case import Ticket
from tests.campaigns.fuzz.shrink import as_text, shrink


def main(arguments: list[str]) -> int:
    """Exit code 1 on a wrong fusion or a legal rate below 99.9 %."""
    given = _parser().parse_args(arguments)
    plain = frozenset(filter(None, given.plain.split(",")))
    both = given.legal == given.near
    passed = True
    for near in (False, True) if both else (given.near,):
        plan = Ticket(given.seed, given.index or 0, near, plain)
        count = given.count if given.index is None else 1
        totals = run(tickets(plan, count), given.jobs if count > 1 else 1)
        print("near misses:" if near else "legal:")
        print("\n".join(totals.lines()), flush=True)
        _show(totals, given.show if given.index is None else 1, given.shrink)
        passed &= totals.passed
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="cases of each sort")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--index", type=int, help="repeat this case alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--legal", action="store_true", help="legal cases only")
    parser.add_argument("--near", action="store_true", help="near misses only")
    parser.add_argument("--plain", default="", help="decisions that are not drawn, by commas")
    parser.add_argument("--show", type=int, default=3, help="how many cases are shown as text")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false")
    return parser


def _show(totals: Totals, most: int, plainer: bool) -> None:
    """The first cases that failed, were missed or silent, shrunk."""
    from tests.campaigns.fuzz.cases import build
    from tests.campaigns.fuzz.judge import judge

    for ticket in totals.kept[:most]:
        case = build(ticket)
        found = shrink(ticket) if plainer else (case, judge(case))
        print(as_text(*found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
