"""What a command says in the end: tables or JSON on standard output, and pages in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.invocation import JSON
from graphfuse.cli.show import console, print_json
from graphfuse.cli.streams import ReportError, reporting
from graphfuse.errors import GraphfuseError, UsageError

if TYPE_CHECKING:
    from graphfuse.records import HashedFile
    from graphfuse.report.console import SafeConsole

HTML = (".html", ".htm")
MARKDOWN = (".md", ".markdown")
"""What pages are called: a slip of the hand would replace a model, its feeds, a script."""


@dataclass(frozen=True)
class Saying:
    """Where a command's outcome goes: `as_json` to standard output, pages to files."""

    as_json: bool
    html: str | None
    markdown: str | None

    def __post_init__(self) -> None:
        """Refuse files that cannot be written, now and not after minutes of work."""
        for option, name, endings in (
            ("--html", self.html, HTML),
            ("--markdown", self.markdown, MARKDOWN),
        ):
            if name is not None:
                _check(option, name, endings)
        if self.html is not None and self.html == self.markdown:
            raise UsageError("--html and --markdown name one file", "name two")

    @property
    def wants_document(self) -> bool:
        """Whether the JSON document is asked for, or a page, which is made of it."""
        return self.as_json or self.html is not None or self.markdown is not None

    def check_apart(self, *models: str | None) -> None:
        """Raise UsageError for a page in the place of a model that is read or written."""
        for name in (self.html, self.markdown):
            for model in models:
                if name is not None and model is not None and _same(Path(name), Path(model)):
                    raise UsageError(f"{name} is the model's file", "name another for the page")

    def say(
        self,
        document: Callable[[], dict[str, Any]],
        tables: Callable[[SafeConsole], None],
        written: Sequence[HashedFile] = (),
        error: GraphfuseError | None = None,
        code: int = 0,
    ) -> None:
        """Write the pages, then print; `written` are model files that are there in any case.

        `error` is what the command ends with, `code` its exit code where there is none. Raises
        ReportError when something cannot be written.
        """
        from graphfuse.report.head import ended

        found = ended(document(), error, code) if self.wants_document else {}
        with reporting(written):
            if self.as_json:
                print_json(found)
            else:
                tables(console())
        try:
            self.write(found, written)
        except ReportError:
            raise
        except Exception as fault:
            # What is written is written: no fault of a template may say otherwise.
            raise ReportError(fault, written, "the page") from fault

    def write(self, found: dict[str, Any], written: Sequence[HashedFile] = ()) -> None:
        """Write the pages of a document. Raises ReportError when one cannot be written."""
        if self.html is None and self.markdown is None:
            return
        from graphfuse.pages import page

        for name, make in ((self.html, page.html), (self.markdown, page.markdown)):
            if name is not None:
                write_page(name, make(found), written)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _check(option: str, name: str, endings: Sequence[str]) -> None:
    """Raise UsageError for a file that a page cannot or should not be written to."""
    path = Path(name)
    if not name or name == "-":
        raise UsageError(f"{option} has no file", f"name one, such as run{endings[0]}")
    if path.is_dir():
        raise UsageError(f"{option} names the folder {name}", "name a file in it")
    if path.suffix.lower() not in endings:
        raise UsageError(
            f"{option} names {name}, which does not end in {endings[0]}",
            f"name it so, such as run{endings[0]}: a page replaces what is there",
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"{option} names {name}, and there is no folder {path.parent}", "make it first"
        )
    if not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"{option} names {name}, and nothing can be written in {path.parent}",
            "name another folder",
        )


def write_page(name: str, text: str, written: Sequence[HashedFile] = ()) -> None:
    """Write a page, whole or not at all; one that exists is replaced.

    Raises ReportError when it cannot be written.
    """
    import tempfile

    path = Path(name)
    draft = ""
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)
        with os.fdopen(
            descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(draft).chmod(0o666 & ~umask)
        Path(draft).replace(path)
    except OSError as error:
        raise ReportError(error, written, f"the page {name}") from error
    finally:
        if draft:
            with suppress(OSError):
                Path(draft).unlink()


HtmlOption = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write a report to look at as well.")
]
MarkdownOption = Annotated[
    str | None,
    typer.Option("--markdown", metavar="FILE", help="Write one for a pull request as well."),
]


def saying(
    html: HtmlOption = None,
    markdown: MarkdownOption = None,
    as_json: Annotated[bool, typer.Option(JSON, help="Print one JSON document.")] = False,
) -> Saying:
    """The group of options."""
    return Saying(as_json, html, markdown)
