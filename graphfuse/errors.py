"""The error tree. Every error that a user can meet names the fact, the place and the way out.

Exit codes of the command line: 0 ok; 1 a check failed and nothing was written; 2 usage; 3 the model
is unreadable or unsafe; 4 the original model itself does not run; 5 an execution provider or a
package is missing; 6 a gate was missed.
"""

from __future__ import annotations

import re

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def printable(text: str) -> str:
    """A text whose control characters are written as escapes, as Python writes them.

    Names come from files that others made: what moves a cursor, turns the direction of writing or
    ends a line is shown, not done. So are bytes of a file name that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_one_line(error: BaseException, length: int = 300) -> str:
    """What another package's error says, on one line and not too long.

    Of a long one the middle is left out: what failed stands first, the cause last.
    """
    text = " ".join(str(error).split())
    if len(text) <= length:
        return text
    first = length // 3
    return f"{text[:first]} ... {text[first + 5 - length :]}"


IN_PYTHON = {
    "--allow-links": "Limits(allow_links=True)",
    "--autotune": 'Selection(costs="autotune")',
    "--certify": "certify=True",
    "--data-loader-script": "feeds=[{...}, {...}]",
    "--dry-run": "output=None",
    "--ep": "ep=",
    "--exclude": "Selection(exclude=...)",
    "--fold-bias": "Selection(fold_bias=True)",
    "--force": "Output(path, force=True)",
    "--genai": "genai=True",
    "--in-place": "Output(path, in_place=True)",
    "--include": "Selection(include=...)",
    "--input-shapes": "Feeds(input_shapes=...)",
    "--iterations": "Feeds(iterations=...)",
    "--load-inputs": "feeds={name: array}",
    "--max-expanded-nodes": "Limits(expanded_nodes=...)",
    "--max-names-mib": "Limits(name_bytes=...)",
    "--max-nodes": "Limits(nodes=...)",
    "--max-proto-gib": "Limits(proto_bytes=...)",
    "--min-fused": "min_fused=",
    "--no-costs": 'Selection(costs="none")',
    "--only-if-changed": "Output(path, only_if_changed=True)",
    "--output": "output=",
    "--run-limit": "Feeds(run_limit=...)",
    "--runtime": "runtime=",
    "--seed": "Feeds(seed=...)",
    "--site": "sites=",
    "--strict": "strict=",
    "--strict-mode": "strict_mode=",
    "--symbol": "Feeds(symbols=...)",
    "--val-range": "Feeds(val_range=...)",
    "--validate": "level=",
    "--weights": "Output(path, weights=...)",
}
"""What the options that remedies name are called in Python."""


class GraphfuseError(Exception):
    """Base of all errors that graphfuse raises on purpose.

    `message` says what is wrong and where; `remedy` says what to do next. Options of the command
    line that they name are called as the error's notes say in Python.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = printable(message)
        self.remedy = printable(remedy)
        super().__init__(f"{self.message}; {self.remedy}" if remedy else self.message)
        for option in dict.fromkeys(OPTION.findall(str(self))):
            if option in IN_PYTHON:
                self.add_note(f"in Python {option} is {IN_PYTHON[option]}")


class ValidationError(GraphfuseError):
    """The fused model failed the acceptance rule. Nothing was written."""

    exit_code = 1


class InternalError(GraphfuseError):
    """graphfuse broke one of its own promises. Never the user's fault."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(
            f"internal error in graphfuse: {message}",
            "the model was left as it was; please report this with the model's graph",
        )


class WriteError(GraphfuseError):
    """The output could not be written (a full disk, a missing right); what was there still is."""

    exit_code = 1


class UsageError(GraphfuseError):
    """An argument is wrong: an unknown name, an output that exists, an empty selection."""

    exit_code = 2


class ModelError(GraphfuseError):
    """The model file is missing, unreadable, not ONNX, or points outside its own folder."""

    exit_code = 3


class ChangedError(ModelError):
    """A file of the model changed while it was worked on, so what was found holds of none."""

    exit_code = 1

    def __init__(self, path: object, how: str = "changed") -> None:
        super().__init__(
            f"{path} {how} while graphfuse worked on it", "run it again when nobody writes to it"
        )


class OriginalModelError(GraphfuseError):
    """The original model does not run on the feeds, so nothing can be said about the fused one."""

    exit_code = 4


class ProviderError(GraphfuseError):
    """An execution provider, or a package that provides it, is not installed."""

    exit_code = 5


class MachineError(GraphfuseError):
    """Memory, threads or files gave out: it says nothing of any model, and nothing was written."""

    exit_code = 1


class GateError(GraphfuseError):
    """A threshold that the user set (--min-fused) was missed; `result` is what there is, if any."""

    exit_code = 6
    result: object = None
