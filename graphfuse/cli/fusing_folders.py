"""graphfuse fuse, of a folder: every model in it, and one report."""

from __future__ import annotations

from typing import Any

from graphfuse.cli.options import Destination, Repeated
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.errors import GateError


def fuse_all(
    folder: str, output: Destination, options: dict[str, Any], genai: bool, says: Saying
) -> None:
    """Fuse each model of a folder as `options` say, and show what came of all.

    Ends with the error of the worst, where any failed.
    """
    from graphfuse.api.whole_folders import fuse_folder
    from graphfuse.records.folder_results import FolderResult
    from graphfuse.report.folder_document import fuse_folder_document
    from graphfuse.report.folder_table import print_folder

    with progress() as shown:
        try:
            result = fuse_folder(folder, output.of(folder), **options, genai=genai, progress=shown)
            error = result.error
        except GateError as missed:
            if not says.wants_document or not isinstance(missed.result, FolderResult):
                raise
            # The report says what was fused, and why the rest was not.
            result, error = missed.result, missed
    says.say(
        lambda: fuse_folder_document(result, Repeated.words(options["feeds"])),
        lambda console: print_folder(console, result),
        result.written,
        error,
    )
    if error is not None:
        raise error
