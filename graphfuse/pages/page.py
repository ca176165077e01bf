"""A JSON document as a page: one HTML file that asks for nothing else, or Markdown.

It is made of the document alone, so that one that `--json` printed can become a page at any time.
Texts of the document are names that others chose: the templates escape every one.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graphfuse.errors import UsageError, printable
from graphfuse.pages import folding, plain_text
from graphfuse.pages.contents import Page
from graphfuse.records.sites import shape_text
from graphfuse.report.head import SCHEMA, Document

if TYPE_CHECKING:
    from jinja2 import Environment

WITHOUT_PAGES = ("explain", "env")
TEMPLATES = Path(__file__).parent / "templates"


def html(document: Document) -> str:
    """A document as one HTML file, without JavaScript and without requests to any network."""
    return _rendered("page.html.jinja", document)


def markdown(document: Document) -> str:
    """A document as Markdown, for the text of a pull request."""
    return _rendered("page.md.jinja", document)


def read(path: str) -> Document:
    """A document that `--json` printed.

    Raises UsageError for a file that is none, or of another version of the shape.
    """
    again = "give what `graphfuse COMMAND --json` printed"
    try:
        found: Any = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})", again) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error})", again) from error
    if not isinstance(found, dict) or not {"schema", "command", "exit_code"} <= found.keys():
        raise UsageError(f"{path} is no document of graphfuse", again)
    if found["command"] in WITHOUT_PAGES:
        raise UsageError(
            f"{path}: `graphfuse {found['command']}` has no page",
            "give what another command printed with --json",
        )
    if found["schema"] != SCHEMA:
        raise UsageError(
            f"{path} is a document of version {found['schema']}, and this graphfuse reads "
            f"version {SCHEMA}",
            "make it again with this version, or the page with the one that made it",
        )
    return cast("Document", found)


def _rendered(template: str, document: Document) -> str:
    values = {"page": Page(document), "document": document, "style": _style()}
    is_html = template.endswith(".html.jinja")
    return _environment(is_html).get_template(template).render(values).lstrip()


@cache
def _environment(is_html: bool) -> Environment:
    """Where texts are escaped as they are written; in Markdown filters do it, each in its way."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown if is_html else None,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "shape": shape_text,
        "ids": folding.ids,
        "node": folding.node,
        "figure": folding.figure,
        "value": folding.value,
        "code": plain_text.code,
        "text": plain_text.text,
    }
    return made


def _shown(value: Any) -> Any:
    """Control characters are shown, not obeyed: those that turn the direction of writing too."""
    return printable(value) if type(value) is str and not value.isprintable() else value


@cache
def _style() -> str:
    from markupsafe import Markup

    # The one text that is no name of anybody's.
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
