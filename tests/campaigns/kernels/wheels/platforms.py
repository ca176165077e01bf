"""The wheels there are: which compiler's target each has, and what its library may need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Platform:
    """A wheel: its tag, and how its library comes to be; no `target`: there is no library in it."""

    name: str
    tag: str
    target: str = ""
    """In zig's words."""
    system: str = ""
    processor: str = ""
    """Both in CMake's words."""
    library: str = ""
    """The file that graphfuse/kernels/__init__.py looks for there."""
    needs: frozenset[str] = frozenset()
    """Libraries of the system that it may ask for."""


GLIBC = (2, 17)
"""The oldest that both Linux libraries run on, which is manylinux2014's."""
MACOS = (11, 0)
"""The first on this processor."""
WINDOWS = frozenset({"kernel32.dll", "ntdll.dll"})
"""Beside the C runtime, which is split into api-ms-win-crt-*.dll."""


def _glibc(processor: str, loader: str) -> Platform:
    version = "_".join(map(str, GLIBC))
    libraries = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", loader)
    return Platform(
        f"linux-{processor}",
        f"manylinux_{version}_{processor}.manylinux2014_{processor}",
        f"{processor}-linux-gnu.{'.'.join(map(str, GLIBC))}",
        "Linux",
        processor,
        "libgraphfuse_kernels.so",
        frozenset(libraries),
    )


PLATFORMS = (
    _glibc("x86_64", "ld-linux-x86-64.so.2"),
    _glibc("aarch64", "ld-linux-aarch64.so.1"),
    Platform(
        "macos-arm64",
        f"macosx_{MACOS[0]}_{MACOS[1]}_arm64",
        f"aarch64-macos.{MACOS[0]}.{MACOS[1]}",
        "Darwin",
        "arm64",
        "libgraphfuse_kernels.dylib",
        frozenset({"/usr/lib/libSystem.B.dylib"}),
    ),
    Platform(
        "windows-amd64",
        "win_amd64",
        "x86_64-windows-gnu",
        "Windows",
        "AMD64",
        "graphfuse_kernels.dll",
        WINDOWS,
    ),
    Platform("any", "any"),
)
"""The last one is for all other machines."""
