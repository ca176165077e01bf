"""graphfuse batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from graphfuse.cli.command_fuse import fuse
from graphfuse.cli.options import ends, with_group
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress

NEGATED = "no-"
"""What an option's name begins with that is turned off."""

OWN = (
    "model", "output", "in_place", "dry_run", "only_if_changed", "isolate", "memory_limit",
    "time_limit", "load_inputs", "data_loader_script", "include", "exclude", "as_json", "html",
    "markdown",
)  # fmt: skip
"""Parameters of `fuse` that are about one model, or that a batch has itself."""


def _option(parameter: inspect.Parameter) -> str:
    """What an option is called on the command line."""
    declared = parameter.annotation.__metadata__[0].param_decls or ()
    own = f"--{parameter.name.replace('_', '-')}"
    return next((name for name in declared if name.startswith("--")), own)


def _words(parameter: inspect.Parameter, value: Any) -> list[str]:
    """An option as it was given; none where it has its default."""
    if value == parameter.default or value is None:
        return []
    name = _option(parameter)
    if isinstance(value, bool):
        return [name if value else f"--{NEGATED}{name.removeprefix('--')}"]
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [f"{name}={each}" for each in values]


def _for_each() -> Callable[..., Any]:
    """The options of `fuse` that hold for every model, as a group that gives their words."""
    every = inspect.signature(fuse).parameters
    chosen = [every[name] for name in every if name not in OWN]

    def group(**given: Any) -> list[str]:
        return [word for each in chosen for word in _words(each, given[each.name])]

    group.__signature__ = inspect.Signature(chosen)  # type: ignore[attr-defined]
    return group


def takes_options_of_fuse(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that `fuse` has for any model; it gets them as `words`."""
    return with_group(command, _for_each(), "words")


@takes_options_of_fuse
@ends
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Folders, .onnx files, patterns, .jsonl lists; paths or URLs."
        ),
    ],
    says: Saying,
    words: list[str],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The folder of the results, or its URL.")
    ],
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many models at once [as many as processors].")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="The ledger [graphfuse-batch.jsonl in the folder].")
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast/--keep-going", help="End when one fails, or go on.")
    ] = False,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Run again what failed, and nothing else.")
    ] = False,
    memory_limit: Annotated[
        float, typer.Option(min=0, help="GiB for each model; 0: the machine's memory.")
    ] = 0,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds for each model.")] = 600,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on this cluster of Ray, or `auto`.")
    ] = None,
    ray_install: Annotated[
        bool, typer.Option("--ray-install", help="Its nodes install our versions by pip.")
    ] = False,
) -> None:
    """Fuse many models, several at once; a run that ended goes on where it was."""
    from graphfuse.api.whole_batches import fuse_batch
    from graphfuse.report.batch_document import batch_document, print_batch

    says.check_apart(*sources)
    with progress() as shown:
        result = fuse_batch(
            sources,
            output,
            options=words,
            workers=workers,
            ledger=ledger,
            fail_fast=fail_fast,
            only_failed=only_failed,
            memory_limit=memory_limit,
            time_limit=time_limit,
            ray=ray,
            ray_install=ray_install,
            progress=shown,
        )
    code = result.exit_code
    says.say(
        lambda: batch_document(output, result),
        lambda console: print_batch(console, result),
        [],
        code=code,
    )
    if code:
        raise typer.Exit(code)
