"""What a page shows of a document, in order: a verdict, facts, and sections that have something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphfuse.pages import charts, folding
from graphfuse.pages.diagrams import Figure, placed
from graphfuse.pages.folding import Group, count
from graphfuse.records.runs import GATES
from graphfuse.report.head import Document

SESSIONS = {
    "original": "original",
    "best": "original, slow fusions off",
    "plain": "fused, plain session",
    "fused": "fused",
}
"""The sessions of a comparison, as its speed-ups call them."""

THE_SUM = ", the sum"
"""How the place of a check ends that is of a sum, and not of the norm."""

MOST_CHECKS = 200
"""Checks that are listed: those nearest to their bounds."""


@dataclass(frozen=True)
class Pictured:
    """Some sites that are written alike, drawn."""

    heading: str
    first: str
    notation: str
    before: Figure
    after: Figure | None


@dataclass(frozen=True)
class Left:
    """Some near misses of one reason, and the graph around the first."""

    group: Group
    picture: Figure | None


@dataclass(frozen=True)
class Timed:
    """One comparison of sessions."""

    heading: str
    sessions: Sequence[tuple[str, Document]]
    chart: charts.Chart | None
    pairs: int


@dataclass(frozen=True)
class CostGroup:
    """Sites whose fused nodes win by the same figure."""

    first: Document
    sites: Sequence[str]


@dataclass(frozen=True)
class Page:
    """One document; of a folder of models, each model is a page in it."""

    document: Document
    prefix: str = ""
    """What anchors begin with: those of several models must differ."""
    label: str = ""

    @cached_property
    def title(self) -> str:
        """The command and what it was about."""
        found = self.document
        names = [found.get(n) for n in ("folder", "destination", "model", "original", "fused")]
        # In what `fuse` says, `fused` are sites.
        words = [name for name in names if isinstance(name, str)]
        command = found["command"].removesuffix("-folder")
        return f"graphfuse {command}: {' and '.join(words)}".removesuffix(": ")

    @cached_property
    def tone(self) -> str:
        """`good`, `bad`, or nothing where there is no verdict."""
        found = self.document
        if found["exit_code"] != 0 or found["error"]:
            return "bad"
        is_level = any(_is_level(each["speedup"]) for each in found.get("comparisons") or ())
        is_news = found["command"] != "scan" and found.get("changed", True)
        return "good" if is_news and not is_level else ""

    @cached_property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        return " ".join(_verdict(self.document))

    @cached_property
    def found(self) -> int | str:
        """How many sites the model has; nothing where that is not known."""
        known = self.document
        return len(known["fused"]) + len(_sites_left(known)) if "fused" in known else ""

    @cached_property
    def fused(self) -> int | str:
        """How many of them were fused."""
        return len(self.document["fused"]) if "fused" in self.document else ""

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """Facts in a word each."""
        return [(name, str(value)) for name, value in _facts(self.document)]

    @cached_property
    def contents(self) -> list[tuple[str, str]]:
        """Anchors and headings of the sections that there are."""
        found, measured = self.document, self.validation or {}
        asked = found["command"] == "scan"
        return [
            (anchor, heading)
            for anchor, heading, there in (
                ("models", "Models", self.parts),
                ("rows", "Models", found.get("rows")),
                ("stream", "Residual stream", asked and self.stream),
                ("sites", "Sites", self.sites),
                ("unfused", "Nodes that were written out", found.get("unfused")),
                ("pictures", "Before and after" if _has_both(found) else "The graph around them",
                 self.pictures),
                ("left", "What was left, and why", self.left),
                ("gates", "Gates", measured.get("checks")),
                ("certificates", "Certificates", measured.get("certificates")),
                ("timing", "Timing", self.timings or self.site_timings),
                ("costs", "Costs of the sites alone", self.costs),
                ("stream", "Residual stream", not asked and self.stream),
                ("environment", "Environment", found.get("environment")),
                ("files", "Files", self.files),
                ("copied", "Files that came along", found.get("copied")),
                ("notes", "Notes", found.get("notes") and found["command"] != "validate"),
            )
            if there
        ]  # fmt: skip

    @cached_property
    def parts(self) -> list[Page]:
        """The models of a folder, the worst first."""
        models = self.document.get("models") or ()
        pages = [
            Page(model, f"{self.prefix}m{n}-", model.get("name") or model["model"])
            for n, model in enumerate(models, 1)
        ]
        return sorted(pages, key=lambda page: -page.document["exit_code"])

    @cached_property
    def files(self) -> list[tuple[str, Document]]:
        """What was read and written."""
        kinds = (("read", "read"), ("written", "wrote"))
        return [(word, file) for kind, word in kinds for file in self.document.get(kind) or ()]

    @cached_property
    def sites(self) -> list[Group]:
        """The sites that were found, or fused."""
        if self.document["command"] == "bench":
            return []
        return folding.sites(self.document.get(_sites_name(self.document)) or ())

    @cached_property
    def is_rewrite(self) -> bool:
        """Whether nodes were replaced: then sites became something."""
        return _is_rewrite(self.document)

    @cached_property
    def key(self) -> list[tuple[str, str]]:
        """What the styles of boxes mean."""
        both = _has_both(self.document)
        goes = "goes" if both else "can be one node"
        comes = [("comes", "comes")] if both else []
        return [("goes", goes), *comes, ("stays", "stands around it")]

    @cached_property
    def pictures(self) -> list[Pictured]:
        """The graph around each distinct spelling."""
        return [
            Pictured(
                f"{len(each['sites'])} \N{MULTIPLICATION SIGN} as at {each['sites'][0]}"
                if len(each["sites"]) > 1
                else each["sites"][0],
                each["sites"][0],
                each["notation"],
                placed(each["before"]),
                placed(each["after"]) if each["after"] and each["after"]["boxes"] else None,
            )
            for each in self.document.get("pictures") or ()
            if each["sites"]
        ]

    @cached_property
    def left(self) -> list[Left]:
        """Near misses, and what was left of the sites."""
        drawn = {
            name: each["before"]
            for each in self.document.get("pictures") or ()
            for name in each["near_misses"][:1]
        }
        items = self.document.get("near_misses") or self.document.get("left") or ()
        groups = folding.near_misses(items)
        shown = [drawn.get(g.first["id"] or g.first["site"]) for g in groups]
        return [
            Left(group, None if drawing is None else placed(drawing))
            for group, drawing in zip(groups, shown, strict=True)
        ]

    @cached_property
    def validation(self) -> Document | None:
        """What was measured of the result."""
        if self.document["command"] == "validate":
            return self.document if "checks" in self.document else None
        return self.document.get("validation")

    @cached_property
    def checks(self) -> list[Document]:
        """The checks nearest to their bounds, the worst first."""
        found = (self.validation or {}).get("checks", ())
        return sorted(found, key=_nearness)[:MOST_CHECKS]

    @cached_property
    def failures(self) -> list[Document]:
        """Checks that do not hold."""
        return [check for check in self.checks if not check["passed"]]

    @cached_property
    def worst(self) -> list[tuple[str, Document]]:
        """The worst check of each gate, with what the gate asks."""
        every = sorted((self.validation or {}).get("checks", ()), key=_nearness)
        firsts: dict[tuple[str, str], Document] = {}
        for check in every:
            what = GATES[check["gate"]]
            if check["where"].endswith(THE_SUM):
                # The one rounding of an Add is its whole bound: it would hide the norm's figure.
                what = "the same of each sum that is read"
            firsts.setdefault((check["gate"], what), check)
        return [(what, firsts[gate, what]) for gate, what in sorted(firsts)]

    @cached_property
    def gates(self) -> charts.Chart | None:
        """All checks on one scale."""
        return charts.gates((self.validation or {}).get("checks", ()), GATES)

    @cached_property
    def timings(self) -> list[Timed]:
        """The comparisons of a bench."""
        return [_timing(each) for each in self.document.get("comparisons") or ()]

    @cached_property
    def site_timings(self) -> Sequence[Document]:
        """The distinct sites that a bench timed alone."""
        return self.document["sites"] if self.document["command"] == "bench" else ()

    @cached_property
    def site_chart(self) -> charts.Chart | None:
        """How many times as fast each form of each is."""
        return charts.speedups(
            (f"{folding.ids(each['sites'], 1)}, {form}", times)
            for each in self.site_timings
            for form, times in each["speedups"].items()
        )

    @cached_property
    def costs(self) -> list[CostGroup]:
        """Why it is known that the fused nodes win."""
        alike: dict[tuple[Any, ...], list[Document]] = {}
        for cost in self.document.get("costs") or ():
            key = (cost["source"], f"{cost['speedup']:.2f}", cost["where"], cost["folds"])
            alike.setdefault(key, []).append(cost)
        return [CostGroup(g[0], [cost["site"] for cost in g]) for g in alike.values()]

    @cached_property
    def readings(self) -> Sequence[Document]:
        """The sums of the residual stream in a run."""
        own = self.document.get("activations")
        return own or (self.validation or {}).get("activations", ())

    @cached_property
    def stream(self) -> charts.Chart | None:
        """The same as a chart."""
        return charts.stream(self.readings)


def _is_rewrite(document: Document) -> bool:
    return "nodes_after" in document


def _has_both(document: Document) -> bool:
    """Whether its pictures are of two models."""
    return _is_rewrite(document) or document["command"] == "validate"


def _sites_name(document: Document) -> str:
    """Where a document has its sites; in those of `validate` and `bench`, `fused` is a path."""
    return "fused" if _is_rewrite(document) else "sites"


def _sites_left(document: Document) -> list[Document]:
    return [miss for miss in document.get("left") or () if miss["site"]]


def _nearness(check: Document) -> tuple[bool, float]:
    return check["passed"], -charts.share_of_bound(check)


def _verdict(document: Document) -> Iterator[str]:
    command, failed = document["command"], document["exit_code"] != 0
    many = document.get("rows", document.get("models"))
    if many is not None:
        codes = [each["exit_code"] for each in many]
        good = codes.count(0)
        yield f"{good} of {len(codes)} models done, {len(codes) - good} failed."
        return
    if command == "validate" and "verdict" in document:
        yield {"pass": "Pass.", "fail": "FAILED.", "not shown": "NOT SHOWN."}[document["verdict"]]
    elif failed:
        yield f"Failed with exit code {document['exit_code']}."
    if "nodes_after" in document and "fused" in document:
        left = len(_sites_left(document))
        fused = len(document["fused"])
        yield f"{fused} of {fused + left} sites fused."
        if not document["changed"]:
            yield "Nothing was rewritten: what is written is a copy of the model."
            return
        found = document["validation"]
        yield f"Validation: {found['verdict']}." if found else "Not validated."
    elif "unfused" in document:
        yield f"{count(len(document['unfused']), 'fused node')} written out."
    elif "near_misses" in document:
        sites, misses = len(document["sites"]), len(document["near_misses"])
        yield f"{count(sites, 'site')}, {count(misses, 'near miss', 'near misses')}."
        verdicts = Counter(each["verdict"] for each in document.get("activations") or ())
        if verdicts:
            each = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())
            yield f"{count(verdicts.total(), 'sum')} of the residual stream: {each}."
    for each in (document.get("comparisons") or ())[:1]:
        times = each["speedup"]
        interval = f"{times['low']:.3f} to {times['high']:.3f}"
        where = f"{each['ep']}, {count(each['threads'], 'thread')}"
        if _is_level(times):
            yield f"No difference is shown: {interval} times as fast, {where}."
        else:
            yield f"{times['median']:.3f} times as fast ({interval}), {where}."


def _is_level(times: Document) -> bool:
    """Whether an interval has both: faster, and slower."""
    return times["low"] <= 1 <= times["high"]


def _facts(document: Document) -> Iterator[tuple[str, Any]]:
    if "nodes_after" in document:
        yield "nodes", f"{document['nodes_before']} to {document['nodes_after']}"
    elif "nodes" in document:
        yield "nodes", document["nodes"]
    for name, text in (
        ("target", "target"),
        ("made_for", "made for"),
        ("output", "written to"),
        ("already_fused", "fused before"),
        ("kept", "of them as the target wants"),
    ):
        if document.get(name):
            yield text, document[name]
    if "written" in document and not document["written"]:
        yield "written", "nothing"
    found = document if document["command"] == "validate" else document.get("validation")
    if found and "level" in found:
        yield "validated", f"level {found['level']}, {', '.join(found['providers'])}"
        yield "seed", found["seed"]


def _timing(found: Document) -> Timed:
    names = [*SESSIONS]
    shapes = dict.fromkeys(
        "x".join(map(str, each)) or "scalar" for each in found["shapes"].values()
    )
    return Timed(
        f"{found['ep']}, {count(found['threads'], 'thread')}, {' '.join(shapes)}",
        [(SESSIONS[name], found[name]) for name in names if found[name]],
        charts.speedups((f"{s['of']} beside {s['beside']}", s["times"]) for s in found["speedups"]),
        found["pairs"],
    )
