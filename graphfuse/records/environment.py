"""What graphfuse found where it runs: versions, execution providers, the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An installation.

    Args:
        python: Version of Python.
        platform: System and processor, such as `Linux-6.1-x86_64-with-glibc2.36`.
        versions: Version of each package by its name; None for one that is not installed.
        providers: The execution providers of onnxruntime, the preferred one first.
        kernels: The path of graphfuse's library of kernels; None where it cannot be used.
        kernels_missing: Why not; empty where it can.
        notes: What else is to be said, such as why onnxruntime cannot be imported.
    """

    python: str
    platform: str
    versions: Mapping[str, str | None]
    providers: tuple[str, ...]
    kernels: str | None
    kernels_missing: str
    notes: tuple[str, ...]
