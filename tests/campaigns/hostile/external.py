"""Hostile external data: each case in each place, by each way to name the model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

import graphfuse
from tests.campaigns.hostile.cases import CASES, Case, Entries, furnish
from tests.campaigns.hostile.places import PLACES
from tests.support.graphs import residual

STYLES = ("bare", "relative", "absolute")
_opened: list[str] = []


def listen() -> None:
    """Write down what this process opens, from now on; it has imported what it needs."""
    graphfuse.scan(residual("y = LayerNormalization(x, scale, bias)"))
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        _opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else "")


@dataclass(frozen=True)
class Result:
    """What became of one hostile model: the error's text, or what it did not do."""

    label: str
    problem: str
    seconds: float


def write(folder: Path, place: str, entries: Entries, case: Case | None) -> Path:
    """A model with one site, and a tensor that is external in one place."""
    tensor = TensorProto(name="suspect", data_type=TensorProto.FLOAT, dims=[8])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    if case is not None:
        case.change(tensor)
    model = residual("y = LayerNormalization(x, scale, bias)")
    model.opset_import.add(domain="other", version=1)
    PLACES[place](model, tensor)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(
    root: Path, places: tuple[str, ...] = tuple(PLACES), styles: tuple[str, ...] = STYLES
) -> Iterator[Result]:
    """Every case in some places; what is opened is written down if `listen` was called."""
    folder = root / "model"
    made = furnish(folder)
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    before = Path.cwd()
    try:
        for case in CASES:
            if case.needs and case.needs not in made:
                print(f"left out, as it cannot be made here: {case.name}")
                continue
            for place in places:
                path = write(folder, place, case.entries, case)
                for style in styles:
                    os.chdir(folder if style == "bare" else elsewhere)
                    named = {"bare": "model.onnx", "relative": "../model/model.onnx"}
                    label = f"{case.name} in {place}, {style}"
                    yield _judged(named.get(style, str(path)), case, label)
    finally:
        os.chdir(before)


def _judged(name: str, case: Case, label: str) -> Result:
    _opened.clear()
    start = time.perf_counter()
    problem = f"was not refused: {label}"
    try:
        graphfuse.scan(name)
    except graphfuse.ModelError as error:
        told = "suspect" in error.message and case.says in error.message and error.remedy
        problem = "" if told and error.exit_code == 3 else f"says {error}"
    seconds = time.perf_counter() - start
    strange = {path for path in _opened if not _is_expected(path, name)}
    if strange:
        problem = f"opened {sorted(strange)}"
    return Result(label, problem, seconds)


def _is_expected(path: str, model: str) -> bool:
    """The model, its folder, and names within that: these are opened as folders, or not at all."""
    return path in (model, str(Path(model).parent)) or not {"/", "secret"} & {*path, path}
