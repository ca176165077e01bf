"""The bill of materials (CycloneDX 1.6): what a user of a release gets with it, and its licences.

It is made of pyproject.toml and the names below, and of nothing that hangs on the day or the
machine: the same commit gives the same bytes.
"""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOT_USERS = ("test", "dev")
"""Extras for those who work on graphfuse."""

LICENCES = {
    "fsspec": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "olive-ai": "MIT",
    "onnx": "Apache-2.0",
    "onnx-graphsurgeon": "Apache-2.0",
    "onnx-ir": "Apache-2.0",
    "onnxruntime": "MIT",
    "onnxruntime-gpu": "MIT",
    "onnxscript": "MIT",
    "protobuf": "BSD-3-Clause",
    "ray": "Apache-2.0",
    "requests": "Apache-2.0",
    "rich": "MIT",
    "safetensors": "Apache-2.0",
    "torch": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    "typer": "MIT",
    "virtualenv": "MIT",
}
"""What each dependency says of its own code; the command compares those that it installs."""

BY_GCC = {
    "libstdc++": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libgcc": "GPL-3.0-or-later WITH GCC-exception-3.1",
}
"""What becomes part of the kernels' library where GCC builds it (kernels/CMakeLists.txt). The
exception lets the library be under any licence."""

BY_ZIG = {
    "libc++": "Apache-2.0 WITH LLVM-exception",
    "libc++abi": "Apache-2.0 WITH LLVM-exception",
    "libunwind": "Apache-2.0 WITH LLVM-exception",
    "compiler-rt": "MIT",
    "mingw-w64": "ZPL-2.1",
}
"""The same of the wheels, which zig builds (tests/campaigns/kernels/wheels). Its compiler-rt is its
own, under its own licence; the start of a DLL is of mingw-w64."""

LINKED = {**BY_GCC, **BY_ZIG}


def promised(root: Path) -> Iterator[tuple[Requirement, str]]:
    """What pyproject.toml asks for, each with its extra, '' for what is always needed."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras: Mapping[str, list[str]] = project["optional-dependencies"]
    parts = {"": project["dependencies"], **extras}
    for extra, lines in parts.items():
        if extra in NOT_USERS:
            continue
        for requirement in map(Requirement, lines):
            if canonicalize_name(requirement.name) != "graphfuse":
                yield requirement, extra


def document(root: Path, version: str, commit: str) -> bytes:
    """The bill of materials of what is built of a commit."""
    asked: dict[str, dict[str, set[str]]] = {}
    for requirement, extra in promised(root):
        name = canonicalize_name(requirement.name)
        marker = f"; {requirement.marker}" if requirement.marker else ""
        spelt = f"{requirement.specifier}{marker}"
        asked.setdefault(name, {}).setdefault(extra, set()).add(spelt)
    parts = [_dependency(name, asked[name]) for name in sorted(asked)]
    linked = [_linked(name, LINKED[name]) for name in sorted(LINKED)]
    own = _component("graphfuse", "Apache-2.0", "graphfuse", version)
    own["properties"] = [{"name": "graphfuse:commit", "value": commit}]
    found: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": [*parts, *linked],
        "dependencies": [
            {"ref": "graphfuse", "dependsOn": sorted(each["bom-ref"] for each in (*parts, *linked))}
        ],
    }
    text = json.dumps(found, sort_keys=True)
    # A name of its own for each content, as a serial number is one; none is drawn.
    found["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, text).urn
    return (json.dumps(found, indent=2, sort_keys=True) + "\n").encode()


def _component(name: str, licence: str, ref: str, version: str = "") -> dict[str, Any]:
    key = "expression" if " " in licence else "license"
    value: Any = licence if key == "expression" else {"id": licence}
    purl = f"pkg:pypi/{name}@{version}" if version else f"pkg:pypi/{name}"
    made = {"type": "library", "bom-ref": ref, "name": name, "licenses": [{key: value}]}
    made |= {"version": version} if version else {}
    return made if name in LINKED else {**made, "purl": purl}


def _dependency(name: str, extras: Mapping[str, set[str]]) -> dict[str, Any]:
    told = [
        {"name": f"graphfuse:requires{f':{extra}' if extra else ''}", "value": spelt}
        for extra in sorted(extras)
        for spelt in sorted(extras[extra])
    ]
    made = _component(name, LICENCES[name], f"pypi:{name}")
    return {**made, "scope": "required" if "" in extras else "optional", "properties": told}


def _linked(name: str, licence: str) -> dict[str, Any]:
    made = _component(name, licence, f"linked:{name}")
    where = "the kernels' library of a wheel that GCC built, linked statically"
    return {**made, "properties": [{"name": "graphfuse:part-of", "value": where}]}
