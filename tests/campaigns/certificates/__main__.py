"""The command line; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaigns.certificates import __doc__ as description
from tests.campaigns.certificates.tally import Tally, of_file

Write = Callable[[Path], None]


def main(arguments: list[str] | None = None) -> int:
    """1 when a site has no certificate, or a mutant has one."""
    options = _parser().parse_args(arguments)
    if options.command == "mutants":
        return _mutants([Path(name) for name in options.files], options.families.split(","))
    if options.command == "spellings":
        from tests.campaigns.certificates.spellings import run

        return _show(run(options.seed, options.count, options.jobs))
    if options.command == "models":
        tally = Tally()
        for name in options.files:
            sites = of_file(Path(name), tally)
            print(f"{Path(name).name}: {sites} sites", flush=True)
        return _show(tally)
    tally = Tally()
    for label, make in _zoo(options) if options.command == "zoo" else _matrix(options):
        _export(label, make, tally)
    return _show(tally)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.certificates",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    each = commands.add_parser("models")
    each.add_argument("files", nargs="+")
    each = commands.add_parser("zoo")
    each.add_argument("--names", help="architectures, separated by commas; all without it")
    each.add_argument("--exporter", choices=["dynamo", "torchscript"])
    each.add_argument("--opset", type=int)
    each = commands.add_parser("matrix")
    each.add_argument("--names", help="entries of models/zoo.py; all without it")
    each.add_argument("--exporters", default="dynamo,torchscript")
    each.add_argument("--opsets", help="such as 13,18; all without it")
    each.add_argument("--dtype", default="float32")
    each = commands.add_parser("spellings")
    each.add_argument("--count", type=int, default=2000)
    each.add_argument("--seed", type=int, default=1)
    each.add_argument("--jobs", type=int, default=1)
    each = commands.add_parser("mutants")
    each.add_argument("files", nargs="+")
    each.add_argument("--families", default="graphfuse,onnxruntime")
    return parser


def _show(tally: Tally) -> int:
    print("\n".join(tally.lines()))
    return 1 if tally.failed or not tally.records else 0


def _zoo(options: argparse.Namespace) -> Iterator[tuple[str, Write]]:
    """Exports of tests/zoo."""
    from models.export import export
    from tests.campaigns.zoo.__main__ import EXPORTS
    from tests.campaigns.zoo.architectures import ZOO, build

    names = options.names.split(",") if options.names else list(ZOO)
    for exporter, opset in EXPORTS:
        if options.exporter not in (None, exporter) or options.opset not in (None, opset):
            continue
        for name in names:
            yield (
                f"{name} {exporter} {opset}",
                lambda path, n=name, e=exporter, o=opset: export(build(n), path, e, o),
            )


def _matrix(options: argparse.Namespace) -> Iterator[tuple[str, Write]]:
    """Exports of models/zoo.py, as tests/campaigns/matrix.py makes them."""
    import torch

    from models.export import export
    from models.zoo import ZOO, build
    from tests.campaigns.matrix import trials

    opsets = [int(text) for text in options.opsets.split(",")] if options.opsets else None
    names = options.names.split(",") if options.names else list(ZOO)
    for trial in trials(names, options.exporters.split(","), opsets, "both", options.dtype):
        yield (
            str(trial),
            lambda path, t=trial: export(
                build(t.name, cache=t.cache), path, t.exporter, t.opset, getattr(torch, t.dtype)
            ),
        )


def _export(label: str, write: Write, tally: Tally) -> None:
    """Export and certify; what PyTorch cannot export is said and passed over."""
    import warnings

    from models.export import first_line
    from tests.support.silence import silence

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, label.replace(" ", "-") + ".onnx")
        try:
            with silence():
                write(path)
        except Exception as error:  # the exporters raise anything
            print(f"{label}: not exported: {first_line(error)}", flush=True)
            return
        failed = len(tally.failed)
        sites = of_file(path, tally)
        wrong = len(tally.failed) - failed
        print(f"{label}: {sites} sites{f', {wrong} FAILED' if wrong else ''}", flush=True)


def _mutants(files: list[Path], families: list[str]) -> int:
    from tests.campaigns.certificates.mutants import verdicts

    found: Counter[bool] = Counter()
    for path in files:
        for family in families:
            for kind, said in verdicts(path, family):
                found[bool(said)] += 1
                print(f"{path.name} {family} {kind}: {said or 'CERTIFIED'}", flush=True)
    print(f"{found[True]} of {found.total()} mutants have no certificate")
    return 1 if found[False] or not found else 0


if __name__ == "__main__":
    sys.exit(main())
