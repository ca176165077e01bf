"""What comes of a folder of models: a record for each model, and one for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from graphfuse.errors import GraphfuseError
from graphfuse.records.results import FuseResult, HashedFile

SEVERITY = (1, 3, 4, 5, 2, 6)
"""Exit codes, the worst first: a check that failed, and last a gate that was missed."""


@dataclass(frozen=True, kw_only=True)
class FolderModel:
    """One model of a folder: its path there, and what came of it.

    `path` is where it was read. `result` is None where there is an `error` instead; both are there
    where all sites were put back.
    """

    name: str
    path: str
    result: FuseResult | None = None
    error: GraphfuseError | None = None

    @property
    def exit_code(self) -> int:
        """That of the command line for this model."""
        return 0 if self.error is None else self.error.exit_code

    @property
    def fused(self) -> int:
        """How many sites are one node, those that were before included."""
        return 0 if self.result is None else len(self.result.fused) + self.result.kept

    @property
    def written(self) -> str:
        """The file that was written, or an empty text."""
        files = () if self.result is None else self.result.written
        return files[0].path if files else ""


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """The outcome of `fuse_folder`.

    `output` is the folder that was written to, empty for none. `copied` are the files that came
    along, and `notes` what else is to be said.
    """

    folder: str
    output: str
    models: tuple[FolderModel, ...]
    copied: tuple[HashedFile, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        done = f"{self.fused} sites in {len(self.models)} models, {len(self.failed)} failed"
        return f"<FolderResult: {done}, written to {self.output or 'nothing'}>"

    @property
    def fused(self) -> int:
        """How many sites of all models are one node."""
        return sum(model.fused for model in self.models)

    @property
    def failed(self) -> tuple[FolderModel, ...]:
        """The models that have an error."""
        return tuple(model for model in self.models if model.error is not None)

    @property
    def written(self) -> tuple[HashedFile, ...]:
        """Every file that was written, those of the models first."""
        results = (model.result for model in self.models)
        return (*(file for each in results if each for file in each.written), *self.copied)

    @property
    def exit_code(self) -> int:
        """The worst of the models' (`SEVERITY`), 0 when none has an error."""
        codes = {model.exit_code for model in self.failed}
        return next((code for code in SEVERITY if code in codes), max(codes, default=0))

    @property
    def error(self) -> GraphfuseError | None:
        """What to tell of the models that failed: how many, and the worst; None when none did."""
        worst = next((each for each in self.failed if each.exit_code == self.exit_code), None)
        if worst is None or worst.error is None:
            return None
        text = f"{len(self.failed)} of {len(self.models)} models failed: {worst.name}: "
        # Whatever its class takes, an error is a message and a remedy.
        told = type(worst.error).__new__(type(worst.error))
        GraphfuseError.__init__(told, text + worst.error.message, worst.error.remedy)
        return told
