"""The recognisers inside two OCR packages: Paddle exports whose every residual site is fused.

The models lie in the packages' wheels. The packages themselves are not imported, and nothing is
downloaded: a package that is not installed is a skip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.records.reasons import Reason

OPSETS = {"rapidocr": 11, "rapidocr_onnxruntime": 12}
"""Packages, and the opset of the recogniser that each ships: PP-OCRv6 and PP-OCRv4."""

TEXTS = ("Residual sums, fused", "LayerNorm 120", "0123456789", "add@graphfuse.org")

HEIGHT = 48
"""What the recognisers were trained on; the width is free."""

packages = pytest.mark.parametrize("package", OPSETS)


@cache
def recogniser(package: str) -> Path:
    """The recogniser's file in an installed package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            f"{package} is not installed: the extra `test` has it, "
            "rapidocr-onnxruntime for Python before 3.13 alone"
        )
    (path,) = Path(spec.submodule_search_locations[0], "models").glob("*rec*.onnx")
    return path


def rendered(text: str) -> np.ndarray:
    """A line of black text on white as the recognisers take it: (1, 3, 48, width) in [-1, 1]."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=36)
    image = Image.new("RGB", (int(font.getlength(text)) + 24, HEIGHT), "white")
    ImageDraw.Draw(image).text((12, 2), text, font=font, fill="black")
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None]
    return (pixels / 255 - 0.5) / 0.5


def reader(path: Path) -> Callable[[np.ndarray], str]:
    """A function from an image to its text: greedy CTC over the characters in the metadata."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    listed = session.get_modelmeta().custom_metadata_map["character"]
    # Class 0 is CTC's blank; the last is the space, which the list leaves out.
    characters = ["", *listed.splitlines(), " "]

    def read(image: np.ndarray) -> str:
        (probabilities,) = session.run(None, {"x": image})
        assert probabilities.shape[-1] == len(characters)
        classes = probabilities[0].argmax(-1)
        # A class that is repeated without a blank between is one character.
        starts = np.diff(classes, prepend=0) != 0
        return "".join(characters[index] for index in classes[starts])

    return read


def norm_inputs(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The node that computes the input of each LayerNorm, counted without graphfuse.

    Paddle writes every LayerNorm as (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon), and a
    Sqrt nowhere else: so there is one norm for each Sqrt, and walking back from it through
    Sqrt <- Add <- ReduceMean <- Pow <- Sub leads to x. Identities (dropout at inference) between
    are passed over.
    """
    producers = {name: node for node in graph.node for name in node.output}

    def made(name: str) -> onnx.NodeProto:
        node = producers[name]
        return made(node.input[0]) if node.op_type == "Identity" else node

    sources = []
    for node in graph.node:
        if node.op_type != "Sqrt":
            continue
        walked = node
        for expected in ("Add", "ReduceMean", "Pow", "Sub"):
            walked = made(walked.input[0])
            assert walked.op_type == expected
        sources.append(made(walked.input[0]))
    return sources


def residuals(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The Adds of two activations that a LayerNorm reads."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    adds = [node for node in norm_inputs(graph) if node.op_type == "Add"]
    return [node for node in adds if constants.isdisjoint(node.input)]


@packages
def test_every_residual_site_is_found(package: str) -> None:
    path = recogniser(package)
    graph = onnx.load(path).graph

    found = graphfuse.scan(path)

    # Two blocks of attention and feed-forward. The first block's norm, the fifth, has no sum
    # before it but a Transpose of the image's features.
    assert sorted(node.op_type for node in norm_inputs(graph)) == ["Add"] * 4 + ["Transpose"]
    assert [site.sum for site in found.sites] == [node.output[0] for node in residuals(graph)]
    assert {site.kind for site in found.sites} == {"LayerNorm"}
    assert all(site.scale and site.bias for site in found.sites)


@packages
def test_what_is_left_is_a_sum_of_images(package: str) -> None:
    # PP-OCRv6 sums two images, and the norm reads them flattened and transposed to sequences:
    # another axis is the last one, so no fused operator computes this norm of that sum.
    left = [miss.reason for miss in graphfuse.scan(recogniser(package)).near_misses]

    assert left == {"rapidocr": [Reason.SUM_RESHAPED], "rapidocr_onnxruntime": []}[package]


@packages
def test_the_text_stays_the_same(package: str, tmp_path: Path) -> None:
    path, fused = recogniser(package), tmp_path / "fused.onnx"
    images = [rendered(text) for text in TEXTS]

    result = graphfuse.optimize(path, fused, feeds={"x": images[0]})

    model = onnx.load(fused)
    assert {entry.version for entry in onnx.load(path).opset_import} == {OPSETS[package]}
    assert len(result.fused) == len(residuals(onnx.load(path).graph))
    assert not residuals(model.graph)
    assert result.validation is not None
    assert result.validation.passed
    before, after = reader(path), reader(fused)
    texts = [before(image) for image in images]
    assert [after(image) for image in images] == texts
    # The text is right, up to spaces, so that it is no accident that it is the same.
    assert [text.replace(" ", "") for text in texts] == [text.replace(" ", "") for text in TEXTS]
