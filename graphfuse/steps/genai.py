"""genai_config.json of onnxruntime-genai: it names the models of its folder, and a library of ours.

Each part of `model` (the decoder; where there are, an encoder, a vision model, the stages of a
pipeline) names its file in `filename`, and in `session_options` what its session is made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from graphfuse import kernels
from graphfuse.errors import ModelError, ProviderError, UsageError
from graphfuse.files.exports import copy_file, write_file
from graphfuse.planning.targets import Target
from graphfuse.records import HashedFile

CONFIG = "genai_config.json"
LIBRARY_OPTION = "custom_ops_library"
"""The session option that names a library of kernels, by its path inside the folder."""


@dataclass(frozen=True)
class GenaiConfig:
    """The configuration of a folder, and what is to be said of it.

    `library` is that of graphfuse's kernels; None where sessions are to have no kernels for the
    CPU.
    """

    path: Path
    document: dict[str, Any]
    library: Path | None
    notes: tuple[str, ...] = ()

    @staticmethod
    def read(folder: Path, target: Target) -> GenaiConfig:
        """The configuration of a folder, for what is fused for a target.

        Raises UsageError where there is none, ModelError for one that cannot be read, and
        ProviderError where its sessions would need kernels that were not built.
        """
        path = folder / CONFIG
        if not path.is_file() or path.is_symlink():
            raise UsageError(
                f"--genai is for folders of onnxruntime-genai, and {folder} has no file {CONFIG}",
                "leave it out, or name a folder that onnxruntime_genai.models.builder wrote",
            )
        try:
            document = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(
                f"{path} cannot be read ({type(error).__name__}: {error})", "build it again"
            ) from error
        parts = _parts(document)
        if not parts or not all(_is_sound(part) for part in (document["model"], *parts)):
            raise ModelError(f"{path} is no configuration that names a model", "build it again")
        config = GenaiConfig(path, document, None)
        elsewhere = _providers(parts)
        if elsewhere or not _on_the_cpu(target):
            where = ", ".join(elsewhere) or target.name
            said = f"graphfuse's kernels are for the CPU: {CONFIG}, for {where}, names no library"
            return replace(config, notes=(said,))
        library = kernels.find()
        if library is None:
            raise ProviderError(
                f"--genai needs a library for {LIBRARY_OPTION}: {kernels.MISSING}",
                f"leave --genai out, or {kernels.REMEDY}",
            )
        return replace(config, library=library)

    def naming(self, fused: Mapping[str, str]) -> GenaiConfig:
        """The configuration that names the fused files; all else in it is as it was.

        `fused` are their names by those of the originals.
        """
        document = json.loads(json.dumps(self.document))
        named = [part for part in _parts(document) if part["filename"] in fused]
        if not named:
            said = f"{CONFIG} names none of the models that were fused, and is as it was"
            return replace(self, library=None, notes=(*self.notes, said))
        for part in named:
            part["filename"] = fused[part["filename"]]
            if self.library is not None:
                # A session without options of its own has those of the decoder.
                own = "session_options" in part
                holder = part if own else document["model"].setdefault("decoder", {})
                holder.setdefault("session_options", {})[LIBRARY_OPTION] = self.library.name
        names = ", ".join(dict.fromkeys(part["filename"] for part in named))
        said = f"{CONFIG} names {names}"
        return replace(self, document=document, notes=(said, *self.notes))

    def write(self, folder: Path, in_place: bool) -> tuple[HashedFile, ...]:
        """Write it to a folder, after the library that it names; gives the files.

        The new configuration takes the place of the old one in one rename.
        """
        files: list[HashedFile] = []
        if self.library is not None:
            files.append(copy_file(self.library, folder / self.library.name, replace=True))
        text = json.dumps(self.document, indent=4, ensure_ascii=False)
        files.append(write_file(folder / CONFIG, [text.encode()], self.path, replace=True))
        return tuple(files)

    @staticmethod
    def advice(source: Path, folder: Path, models: Sequence[str]) -> tuple[str, ...]:
        """What is to be said of a folder that has such a configuration, and is fused without."""
        try:
            parts = _parts(json.loads((source / CONFIG).read_text("utf-8")))
        except (OSError, ValueError, RecursionError):
            return ()
        here = "" if source == folder else ", which is not here"
        names = dict.fromkeys(part["filename"] for part in parts if part["filename"] in models)
        return tuple(
            f"{CONFIG} names {name}{here}: --genai makes it name the fused file" for name in names
        )


def _parts(document: Any) -> list[dict[str, Any]]:
    """What of a configuration names a file: below `model`, at any depth."""
    found: list[dict[str, Any]] = []
    left = [_table(document).get("model")]
    while left:
        item = left.pop(0)
        table = _table(item)
        if isinstance(table.get("filename"), str):
            found.append(table)
        left += [*table.values(), *(cast("list[Any]", item) if isinstance(item, list) else ())]
    return found


def _table(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _is_sound(part: dict[str, Any]) -> bool:
    """Whether what is to be written to is an object, where it is there."""
    return all(
        isinstance(part[name], dict) for name in ("decoder", "session_options") if name in part
    )


def _providers(parts: Sequence[dict[str, Any]]) -> list[str]:
    """The execution providers that sessions of a configuration ask for, beside the CPU's."""
    asked = [_table(part.get("session_options")).get("provider_options") for part in parts]
    lists = [cast("list[Any]", each) for each in asked if isinstance(each, list)]
    names = dict.fromkeys(name for each in lists for one in each for name in _table(one))
    return [name for name in names if name.lower() != "cpu"]


def _on_the_cpu(target: Target) -> bool:
    """Whether a session on the CPU runs nodes of a target with our kernels."""
    return "CPUExecutionProvider" in target.providers.values()
