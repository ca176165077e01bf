"""graphfuse report."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.saying import HTML, MARKDOWN, HtmlOption, MarkdownOption, Saying
from graphfuse.errors import UsageError


def report(
    document: Annotated[
        str, typer.Argument(metavar="JSON", help="What a command printed with --json.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The page: FILE.html or FILE.md.")
    ] = None,
    html: HtmlOption = None,
    markdown: MarkdownOption = None,
) -> None:
    """Make a page of what a command printed with --json."""
    from jinja2 import TemplateError

    from graphfuse.pages import page

    if output is not None:
        if html is not None or markdown is not None:
            raise UsageError("-o and --html or --markdown name pages", "pass -o, or the others")
        html, markdown = _by_name(output)
    if html is None and markdown is None:
        raise UsageError("no page is named", "pass -o run.html, or -o run.md")
    says = Saying(False, html, markdown)
    says.check_apart(document)
    found = page.read(document)
    try:
        says.write(found)
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise UsageError(
            f"{document} is not as graphfuse makes one ({type(error).__name__}: {error})",
            "give what `graphfuse COMMAND --json` printed, unchanged",
        ) from error


def _by_name(output: str) -> tuple[str | None, str | None]:
    """The names of an HTML and a Markdown page, by the ending of one."""
    if output.lower().endswith(HTML):
        return output, None
    if output.lower().endswith(MARKDOWN):
        return None, output
    raise UsageError(
        f"{output} ends neither in .html nor in .md",
        "name it so, or say which it is with --html or --markdown",
    )
