"""External data that must be refused, each with the reason that is expected."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

SIZE = 4096
"""Bytes of the weight file; the tensor is the first 32 of them."""

Entries = Sequence[tuple[str, str]]
Change = Callable[[TensorProto], object]


@dataclass(frozen=True)
class Case:
    """What is wrong with a tensor: its entries, and what else is changed; and what is said."""

    name: str
    says: str
    entries: Entries
    change: Change = lambda _: None
    needs: str = ""


def at(location: str, says: str, needs: str = "") -> Case:
    return Case(f"at {location[:60]!r}", says, (("location", location),), needs=needs)


def with_offset(text: str, says: str) -> Case:
    return Case(f"offset {text[:40]!r}", says, (("location", "weights.bin"), ("offset", text)))


def with_length(text: str, says: str) -> Case:
    return Case(f"length {text[:40]!r}", says, (("location", "weights.bin"), ("length", text)))


def with_keys(name: str, says: str, *entries: tuple[str, str]) -> Case:
    return Case(name, says, entries)


def shaped(*dims: int, says: str) -> Case:
    def change(tensor: TensorProto) -> None:
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return Case(f"shape {dims}", says, HERE, change)


def typed(elem_type: int) -> Case:
    def change(tensor: TensorProto) -> None:
        tensor.data_type = elem_type

    return Case(f"type {elem_type}", "has no size", HERE, change)


def also_raw(tensor: TensorProto) -> None:
    tensor.raw_data = bytes(32)


def also_floats(tensor: TensorProto) -> None:
    tensor.float_data.extend([0.0] * 8)


HERE: Entries = (("location", "weights.bin"),)
LEAVES, LINK, ODD = "leaves the model's folder", "is a symbolic link", "a backslash or a control"
FOLDER, GONE, NO_FILE = "is not a regular file", "cannot be read", "names no file"
NUMBER, BEYOND = "is not a number below 2^63", "which has 4096"

CASES = (
    at("../secret", LEAVES),
    at("../../secret", LEAVES),
    at("./../secret", LEAVES),
    at("folder/../../secret", LEAVES),
    at("folder/../weights.bin", LEAVES),
    at("weights.bin/..", LEAVES),
    at("..", LEAVES),
    at("../model/weights.bin", LEAVES),
    at("/etc/hostname", LEAVES),
    at("//etc/hostname", LEAVES),
    at("/proc/self/environ", LEAVES),
    at("/dev/zero", LEAVES),
    at("/dev/stdin", LEAVES),
    at("/", LEAVES),
    at("C:secret", LEAVES),
    at("C:/secret", LEAVES),
    at("file:///etc/hostname", LEAVES),
    at("http://example.invalid/weights", LEAVES),
    at("C:\\secret", ODD),
    at("..\\secret", ODD),
    at("\\\\server\\share", ODD),
    at("folder\\weights.bin", ODD),
    at("a\nb", ODD),
    at("a\tb", ODD),
    at("weights.bin\0.png", ODD),
    at("weights.bin\x7f", ODD),
    at("\x1b[2Jweights.bin", ODD),
    at("", "its location is empty"),
    at(".", NO_FILE),
    at("./", NO_FILE),
    at("folder/", NO_FILE),
    at("weights.bin/", NO_FILE),
    at("folder//weights.bin", NO_FILE),
    at("weights.bin/.", NO_FILE),
    at("weights.bin/x", "Not a directory"),
    at("folder", FOLDER),
    at("missing.bin", GONE),
    at("missing/weights.bin", "No such file"),
    at("~/secret", "No such file"),
    at("$HOME/secret", "No such file"),
    at("%2e%2e/secret", "No such file"),
    at("\u2024\u2024/secret", "No such file"),
    at("..\uff0fsecret", GONE),
    at("x" * 5000, "too long"),
    at("/".join(["folder"] * 3000), "too long"),
    at("link.bin", LINK),
    at("alias.bin", LINK),
    at("chain.bin", LINK),
    at("dangling.bin", LINK),
    at("loop.bin", LINK),
    at("linked/secret", LINK),
    at("linked/model/weights.bin", LINK),
    at("inner/weights.bin", LINK),
    at("hard.bin", "has 2 hard links"),
    at("fifo", FOLDER),
    at("socket", FOLDER),
    at("device", FOLDER, needs="device"),
    at("model.onnx", "is the model itself"),
    at("./model.onnx", "is the model itself"),
    at("empty.bin", "which has 0"),
    at("*/_ORT_MEM_ADDR_/*", "is an address in memory"),
    with_offset("100000", BEYOND),
    with_offset(str(SIZE - 16), BEYOND),
    with_offset(str(2**63 - 1), BEYOND),
    with_offset(str(2**63), NUMBER),
    with_offset(str(2**64 - 8), NUMBER),
    with_offset("9" * 30, NUMBER),
    with_offset("9" * 6000, NUMBER),
    with_offset("-4", NUMBER),
    with_offset("+8", NUMBER),
    with_offset(" 8", NUMBER),
    with_offset("1_0", NUMBER),
    with_offset("0x10", NUMBER),
    with_offset("1e3", NUMBER),
    with_offset("four", NUMBER),
    with_offset("", NUMBER),
    with_offset("\uff18", NUMBER),
    with_length("4", "needs 32 bytes"),
    with_length("0", "needs 32 bytes"),
    with_length("100000", "needs 32 bytes"),
    with_length("-32", NUMBER),
    with_length(str(2**64 + 32), NUMBER),
    with_length("thirty", NUMBER),
    with_length("", NUMBER),
    shaped(-8, says="negative extent"),
    shaped(-2, -4, says="negative extent"),
    shaped(2**62, 4, says="more than 2^63"),
    shaped(2**31, 2**31, 2**31, says="more than 2^63"),
    shaped(*[2**62] * 50, says="more than 2^63"),
    shaped(2**32, says=BEYOND),
    typed(TensorProto.STRING),
    typed(TensorProto.UNDEFINED),
    typed(999),
    with_keys("unknown key", "unknown entry 'mode'", *HERE, ("mode", "rw")),
    with_keys("prepacked key", "unknown entry", *HERE, ("prepacked_0", "x|0|8|32")),
    with_keys("key in capitals", "unknown entry", ("Location", "weights.bin")),
    with_keys("two locations", "it has 2 entries 'location'", *HERE, ("location", "link.bin")),
    with_keys("no location", "it has 0 entries 'location'", ("offset", "0")),
    with_keys("no entry", "it has 0 entries 'location'"),
    with_keys("two offsets", "it has 2 entries", *HERE, ("offset", "0"), ("offset", "8")),
    with_keys("two lengths", "it has 2 entries", *HERE, ("length", "32"), ("length", "64")),
    Case("raw data too", "data of its own as well", HERE, also_raw),
    Case("float data too", "data of its own as well", HERE, also_floats),
)

FINE = (
    HERE,
    (("location", "./weights.bin"), ("offset", "8"), ("length", "32")),
    (("location", "folder/inside.bin"),),
    (("location", "onnx::MatMul_1"),),
    (("location", "sp ace \u6a21\u578b.bin"), ("checksum", "0" * 40)),
    (("location", "weights.bin"), ("offset", str(SIZE - 32))),
    (("location", "..."),),
)
"""Entries that look odd and are right."""


def furnish(folder: Path) -> set[str]:
    """A model's folder with traps in it, and a secret beside it. Gives what could be made."""
    folder.mkdir(parents=True)
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret" * 1000)
    names = ("weights.bin", "onnx::MatMul_1", "sp ace \u6a21\u578b.bin", "...")
    (folder / "folder").mkdir()
    for name in (*names, "folder/inside.bin", "folder/weights.bin"):
        (folder / name).write_bytes(bytes(SIZE))
    (folder / "empty.bin").touch()
    (folder / "link.bin").symlink_to(secret)
    (folder / "alias.bin").symlink_to("weights.bin")
    (folder / "chain.bin").symlink_to("alias.bin")
    (folder / "dangling.bin").symlink_to("nowhere")
    (folder / "loop.bin").symlink_to("loop.bin")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "inner").symlink_to("folder")
    (folder / "hard.bin").hardlink_to(secret)
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(SIZE))
    os.mkfifo(folder / "fifo")
    there = Path.cwd()
    os.chdir(folder)  # A socket's path is bounded.
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    os.chdir(there)
    try:
        os.mknod(folder / "device", 0o20600, os.makedev(1, 5))
    except PermissionError:
        return set()
    return {"device"}
