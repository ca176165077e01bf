"""graphfuse explain."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.options import JsonOption, ModelArgument, takes_limits
from graphfuse.cli.show import console, print_json
from graphfuse.cli.streams import reporting
from graphfuse.files.limits import Limits


@takes_limits
def explain(
    model: ModelArgument,
    site: Annotated[
        str, typer.Argument(metavar="SITE", help="An id (s1, m1) or an output, as scan shows them.")
    ],
    limits: Limits,
    as_json: JsonOption = False,
) -> None:
    """Show why a site is or is not fused: what was seen, beside the definition."""
    from graphfuse.api import looking

    found = looking.explain(model, site, limits=limits)
    with reporting():
        if as_json:
            from graphfuse.report.document import explain_document

            print_json(explain_document(model, found))
        else:
            from graphfuse.report.explanation import print_explanation

            print_explanation(console(), found)
