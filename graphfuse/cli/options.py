"""Options in groups, written once: a command takes each group as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from graphfuse.cli.invocation import JSON, invocation
from graphfuse.cli.isolation import run_isolated
from graphfuse.cli.parsing import parse_ranges, parse_shapes, parse_symbols
from graphfuse.cli.saying import saying
from graphfuse.errors import UsageError
from graphfuse.files.limits import Limits
from graphfuse.records.requests import (
    RUN_LIMIT,
    Costs,
    Feeds,
    Level,
    Output,
    Selection,
    Weights,
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
CertifyOption = Annotated[
    bool,
    typer.Option(
        "--certify", help="Show that each fused node is what it replaced, to 90 digits (mpmath)."
    ),
]
JsonOption = Annotated[bool, typer.Option(JSON, help="Print one JSON document.")]

LevelOption = Annotated[
    Level,
    typer.Option("--validate", help="How much to validate; sites: each fused node alone."),
]
ProviderOption = Annotated[
    str, typer.Option(help="cpu, cuda, portable, auto, or several: one file for cpu,cuda.")
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(help="The onnxruntime that will run it, such as 1.29 [the installed one]."),
]
StrictModeOption = Annotated[
    bool,
    typer.Option(
        "--strict-mode",
        help="CUDA sessions will have enable_skip_layer_norm_strict_mode: float16 before 1.27.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Fail when a site does, instead of putting it back.")
]
GateOption = Annotated[
    int, typer.Option(min=0, help="Exit with 6 and write nothing when fewer sites are fused.")
]


def _isolation(
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Run in a child process with limits.")
    ] = False,
    memory_limit: Annotated[
        float, typer.Option(min=0, help="GiB that --isolate allows; 0: the machine's memory.")
    ] = 0,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds that --isolate allows.")] = 600,
) -> None:
    """Do the same in a child process, and end with its exit code."""
    if not isolate:
        return
    words = [word for word in invocation.words if word != "--isolate"]
    code = run_isolated(words, memory_limit, time_limit)
    # What there was to say, the child has said.
    invocation.printed = True
    raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class Repeated(Feeds):
    """Feeds, and the `options` that name the user's own: a command that repeats a check."""

    options: tuple[str, ...] = ()

    @staticmethod
    def words(feeds: Feeds) -> tuple[str, ...]:
        """Those options, of feeds that came from a command line."""
        return feeds.options if isinstance(feeds, Repeated) else ()


def _feeds(
    input_shapes: Annotated[
        list[str] | None,
        typer.Option(help="Shape of an input, such as ids:[1,128]. May be repeated."),
    ] = None,
    symbol: Annotated[
        list[str] | None,
        typer.Option(help="Extent of all inputs by its symbol, such as batch=1. May be repeated."),
    ] = None,
    val_range: Annotated[
        list[str] | None,
        typer.Option(help="Range of drawn numbers, [0,1] or name:[0,1]. May be repeated."),
    ] = None,
    load_inputs: Annotated[
        str | None,
        typer.Option("--load-inputs", help="Feeds: an .npz file with an array per input."),
    ] = None,
    data_loader_script: Annotated[
        str | None,
        typer.Option(help="Feeds: a function that yields them, such as file.py:load_data."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random feeds.")] = 0,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="How many feeds to draw, each with its own seed.")
    ] = None,
    run_limit: Annotated[
        float, typer.Option(min=1, help="Seconds that a run of the original may take.")
    ] = RUN_LIMIT,
) -> Feeds:
    from graphfuse.running import feeding

    if load_inputs is not None and data_loader_script is not None:
        raise UsageError(
            "feeds come from --load-inputs or from --data-loader-script", "pass one of them"
        )
    inputs: Any = None
    if data_loader_script is not None:
        inputs = feeding.load_script(data_loader_script, iterations)
    elif load_inputs is not None:
        inputs = feeding.load_inputs(load_inputs)
    named = (("--load-inputs", load_inputs), ("--data-loader-script", data_loader_script))
    return Repeated(
        seed=seed,
        iterations=iterations,
        inputs=inputs,
        input_shapes=parse_shapes(input_shapes),
        symbols=parse_symbols(symbol),
        val_range=parse_ranges(val_range),
        run_limit=run_limit,
        options=tuple(word for name, value in named if value for word in (name, value)),
    )


LAST = tuple(inspect.signature(saying).parameters)
"""What every command's options end with."""


def with_group(command: Callable[..., None], group: Callable[..., Any], into: str | None) -> Any:
    """A command with the options of a group before what it ends with; they become `into`."""
    names = list(inspect.signature(group).parameters)

    def wrapper(**given: Any) -> None:
        value = group(**{name: given.pop(name) for name in names})
        command(**given, **({} if into is None else {into: value}))

    own = dict(inspect.signature(command, eval_str=True).parameters)
    more = dict(inspect.signature(group, eval_str=True).parameters)
    if into is not None:
        own.pop(into)
    last = [own.pop(name) for name in LAST if name in own]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*own.values(), *more.values(), *last)
    ]
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapper


def ends(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --json, --html and --markdown; it gets them as `says`."""
    return with_group(command, saying, "says")


def can_isolate(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --isolate, --memory-limit and --time-limit."""
    return with_group(command, _isolation, None)


def takes_feeds(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its feeds; it gets them as `feeds`."""
    return with_group(command, _feeds, "feeds")


@dataclass(frozen=True)
class Destination:
    """Where the user wants the model, and how; `make` is given the path."""

    named: str | None
    in_place: bool
    dry_run: bool
    make: Callable[[str], Output]

    def of(self, model: str) -> Output | None:
        """The file to write, None for none. Raises UsageError when none is named, or two."""
        if self.in_place and self.named is not None:
            raise UsageError("--in-place has no other output", "pass either it or -o FILE")
        if self.named is None and not self.dry_run and not self.in_place:
            raise UsageError("no output is named", "pass -o FILE, --in-place or --dry-run")
        if self.named == "-":
            raise UsageError(
                "a model is not written to standard output: what is cut short would look whole",
                "name a file, or ./- for one of that name",
            )
        if self.named is not None and self.named.startswith("--"):
            raise UsageError(
                f"-o is followed by {self.named}", f"name a file, or ./{self.named} for that name"
            )
        return None if self.dry_run else self.make(model if self.named is None else self.named)


def _output(
    output: Annotated[str | None, typer.Option("--output", "-o", help="The file to write.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Let the result replace MODEL.")
    ] = False,
    only_if_changed: Annotated[
        bool, typer.Option("--only-if-changed", help="Write nothing when nothing is rewritten.")
    ] = False,
    weights: Annotated[Weights, typer.Option(help="Where weights go.")] = Weights.AUTO,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")] = False,
) -> Destination:
    make = partial(
        Output, weights=weights, force=force, in_place=in_place, only_if_changed=only_if_changed
    )
    return Destination(output, in_place, dry_run, make)


def writes(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its output; it gets them as `output`."""
    return with_group(command, _output, "output")


def _selection(
    include: Annotated[
        list[str] | None,
        typer.Option(help="Only this site: an id or a pattern of outputs. May be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Not this site: an id or a pattern of outputs. May be repeated."),
    ] = None,
    fold_bias: Annotated[
        bool | None,
        typer.Option(
            help="Let the fused node add a bias vector before the residual [where it wins]."
        ),
    ] = None,
    autotune: Annotated[
        bool, typer.Option("--autotune", help="Time each distinct site here; keep what wins.")
    ] = False,
    no_costs: Annotated[
        bool, typer.Option("--no-costs", help="Fuse sites that would not win as well.")
    ] = False,
) -> Selection:
    if autotune and no_costs:
        raise UsageError("--autotune and --no-costs exclude each other", "pass one of them")
    costs = Costs.AUTOTUNE if autotune else Costs.NONE if no_costs else Costs.TABLE
    return Selection(include=include or (), exclude=exclude or (), costs=costs, fold_bias=fold_bias)


def takes_selection(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose sites; it gets them as `selection`."""
    return with_group(command, _selection, "selection")


def _limits(
    allow_links: Annotated[
        bool,
        typer.Option("--allow-links", help="Follow links to weight files, wherever they lead."),
    ] = False,
    max_proto_gib: Annotated[
        float, typer.Option(min=0, help="GiB of protobuf, inline weights not counted.")
    ] = 2.0,
    max_nodes: Annotated[int, typer.Option(min=0, help="Nodes of a model.")] = 2_000_000,
    max_expanded_nodes: Annotated[
        int, typer.Option(min=0, help="Nodes when all functions are expanded.")
    ] = 1_000_000,
    max_names_mib: Annotated[float, typer.Option(min=0, help="MiB of names.")] = 64.0,
) -> Limits:
    return Limits(
        proto_bytes=int(max_proto_gib * 2**30),
        nodes=max_nodes,
        expanded_nodes=max_expanded_nodes,
        name_bytes=int(max_names_mib * 2**20),
        allow_links=allow_links,
    )


def takes_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the budgets of what is admitted; it gets them as `limits`."""
    return with_group(command, _limits, "limits")
