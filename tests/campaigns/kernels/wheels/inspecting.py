"""What a wheel's library exports, asks for and was made for, read from its headers by lief.

    python inspecting.py WHEEL    in an environment that has lief; prints JSON

It is a script of its own, run by the Python of the campaign's environment.
"""

from __future__ import annotations

import json
import sys
import zipfile
from typing import Any


def library(wheel: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        ends = (".so", ".dylib", ".dll")
        (name,) = (name for name in archive.namelist() if name.endswith(ends))
        return archive.read(name)


def elf(binary: Any) -> dict[str, Any]:
    versions = [
        tuple(map(int, aux.name.removeprefix("GLIBC_").split(".")))
        for requirement in binary.symbols_version_requirement
        for aux in requirement.get_auxiliary_symbols()
    ]
    tags = [str(entry.tag).rsplit(".", 1)[-1] for entry in binary.dynamic_entries]
    flags = [entry for entry in binary.dynamic_entries if str(entry.tag).endswith("FLAGS_1")]
    return {
        "machine": str(binary.header.machine_type).rsplit(".", 1)[-1],
        "exports": sorted(symbol.name for symbol in binary.exported_symbols),
        "needs": list(binary.libraries),
        "glibc": list(max(versions)),
        "paths": [tag for tag in tags if tag in ("RPATH", "RUNPATH")],
        "stays": any(entry.value & 0x8 for entry in flags),
        "executable stack": any(
            str(segment.type).endswith("GNU_STACK") and bool(int(segment.flags) & 1)
            for segment in binary.segments
        ),
    }


def macho(binary: Any) -> dict[str, Any]:
    version = binary.build_version
    trie = binary.dyld_exports_trie or binary.dyld_info
    return {
        "machine": str(binary.header.cpu_type).rsplit(".", 1)[-1],
        # What dyld looks up; the symbol table has names of the linker's own beside.
        "exports": sorted(each.symbol.name for each in trie.exports if each.symbol),
        "needs": [each.name for each in binary.libraries if not each.name.startswith("@rpath/")],
        "minos": list(version.minos)[:2],
        "platform": str(version.platform).rsplit(".", 1)[-1],
        "signed": binary.has_code_signature,
    }


def pe(binary: Any) -> dict[str, Any]:
    return {
        "machine": str(binary.header.machine).rsplit(".", 1)[-1],
        "exports": sorted(entry.name for entry in binary.get_export().entries),
        "needs": sorted(each.name for each in binary.imports),
        "stamp": binary.header.time_date_stamps,
    }


def main(wheel: str) -> None:
    import lief

    binary = lief.parse(list(library(wheel)))
    look = {"ELF": elf, "MACHO": macho, "PE": pe}[str(binary.format).rsplit(".", 1)[-1]]
    print(json.dumps(look(binary)))


if __name__ == "__main__":
    main(sys.argv[1])
