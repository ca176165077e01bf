"""Hostile and broken models, all of them.

    python -m tests.campaigns.hostile external
    python -m tests.campaigns.hostile mutations --count 200000 --seed 1 --jobs 2
    python -m tests.campaigns.hostile truncations
    python -m tests.campaigns.hostile bombs

`external`: every case of hostile external data in every place that a tensor can be in, by bare,
relative and absolute paths. `mutations`: bytes of small models changed, through the gate and scan,
in processes with limits. `truncations`: every prefix of a model. `bombs`: small files that ask for
endless work or all memory, through the command line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def run_external(options: argparse.Namespace) -> int:
    from tests.campaigns.hostile import external
    from tests.campaigns.hostile.cases import CASES
    from tests.campaigns.hostile.places import PLACES

    places = tuple(options.place or PLACES)
    external.listen()
    found = list(external.run(Path(options.folder), places))
    bad = [result for result in found if result.problem]
    for result in bad[:20]:
        print(f"FAILED {result.label}: {result.problem}")
    slowest = max(result.seconds for result in found)
    print(
        f"{len(CASES)} cases in {len(places)} places by {len(external.STYLES)} kinds of path: "
        f"{len(found) - len(bad)} of {len(found)} refused as expected, nothing else opened; "
        f"the slowest took {slowest * 1e3:.0f} ms"
    )
    return bool(bad) or slowest > 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    each = commands.add_parser("external")
    each.add_argument("--place", action="append")
    each.add_argument("--folder", default="")
    each = commands.add_parser("mutations")
    each.add_argument("--count", type=int, default=200_000)
    each.add_argument("--seed", type=int, default=1)
    each.add_argument("--jobs", type=int, default=2)
    commands.add_parser("truncations")
    each = commands.add_parser("bombs")
    each.add_argument("--only", default="")
    options = parser.parse_args()
    if options.command == "external":
        with tempfile.TemporaryDirectory() as folder:
            options.folder = options.folder or str(Path(folder) / "cases")
            sys.exit(run_external(options))
    if options.command == "bombs":
        from tests.campaigns.hostile import bombs

        sys.exit(bombs.report(options.only))
    from tests.campaigns.hostile import mutations

    if options.command == "truncations":
        sys.exit(mutations.report_truncations())
    sys.exit(mutations.report(options.count, options.seed, options.jobs))


if __name__ == "__main__":
    main()
