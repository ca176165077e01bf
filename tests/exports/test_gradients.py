"""python -m models.gradients: what it shows is measured, and its page stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from models.blocks import LayerNorm, RMSNorm  # noqa: E402
from models.gradients import WAYS, gradients, main, norm_steps, stack  # noqa: E402
from tests.conftest import MODELS  # noqa: E402


def test_a_chain_forgets_its_first_layers_and_residuals_do_not() -> None:
    found = {way: gradients(way, 48, 32) for way in WAYS}
    assert all(len(sizes) == 49 and sizes[-1] == 1 for sizes in found.values())
    chain = found["chain"]
    # It shrinks with every few layers, by tens of orders over all of them.
    assert chain[0] < 1e-10
    assert all(chain[n] < chain[n + 8] for n in range(40))
    assert found["residual"][0] > 100
    for way in ("pre-norm", "post-norm"):
        assert 0.1 < min(found[way]) <= max(found[way]) < 100, way


def test_depth_is_what_does_it() -> None:
    shallow, deep = gradients("chain", 6, 32)[0], gradients("chain", 24, 32)[0]
    assert deep < shallow**3


def test_a_gradient_is_that_of_the_stack() -> None:
    """By differences of the stack itself, run as it is."""
    made = stack("pre-norm", 3, 8).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 16, 8, generator=generator, dtype=torch.float64)
    direction = torch.randn(4, 16, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        slopes = []
        for number in range(x.numel()):
            away = torch.zeros(x.numel(), dtype=torch.float64)
            away[number] = 1e-6
            step = away.reshape(x.shape)
            slopes.append(((made(x + step) - made(x - step)) * direction).sum().item() / 2e-6)
        size = torch.tensor(slopes).pow(2).mean().sqrt().item()
        # The last sum, whose gradient the others are relative to, is what the norm reads.
    last = gradients("pre-norm", 3, 8)
    streams = x.requires_grad_(True)
    (made(streams) * direction).sum().backward()
    assert streams.grad.pow(2).mean().sqrt().item() == pytest.approx(size, rel=1e-5)
    assert last[0] > 0


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.5])
def test_the_steps_are_those_of_the_norms(epsilon: float) -> None:
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(2)).double() * 3 + 1
    scale, bias = torch.linspace(-1, 2, 24).double(), torch.linspace(0, 1, 24).double()
    found = norm_steps(x, scale, bias, epsilon)
    known = torch.nn.functional.layer_norm(x, (24,), scale, bias, epsilon)
    torch.testing.assert_close(found.result, known, rtol=1e-12, atol=1e-12)
    known = torch.nn.functional.rms_norm(x, (24,), scale, epsilon)
    torch.testing.assert_close(found.rms_result, known, rtol=1e-12, atol=1e-12)
    for norm, result in ((LayerNorm, found.result - bias), (RMSNorm, found.rms_result)):
        made = norm(24, epsilon).double()
        torch.testing.assert_close(made(x) * scale, result, rtol=1e-12, atol=1e-12)
    assert found.normalised.mean(-1).abs().max() < 1e-12


class Tags(HTMLParser):
    """The tags of a page, and where they lead."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert main(["--layers", "4,8", "--hidden", "16", "--html", str(path)]) == 0
    shown, text = capsys.readouterr().out, path.read_text()
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.names
    assert tags.links == []
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2
    for picture, depth in zip(pictures, (4, 8), strict=True):
        lines = ElementTree.fromstring(picture).findall("polyline")
        assert len(lines) == len(WAYS)
        assert all(len(line.attrib["points"].split()) == depth + 1 for line in lines)
    assert all(line == line.rstrip() or line.startswith("x") for line in shown.splitlines())
    assert "LayerNorm" in shown


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--layers", "1", "--hidden", "4", "--vector", "2,4,4,10", "--scale", "2", "--bias", "1",
          "--epsilon", "0"])  # fmt: skip
    shown = capsys.readouterr().out
    # mean 5, deviations -3 -1 -1 5, variance 9.
    assert re.search(r"variance .* 9$", shown, re.MULTILINE)
    assert re.search(r"LayerNorm .*-1 +0.3333 +0.3333 +4.333$", shown, re.MULTILINE)
    for wrong in (["--layers", "0"], ["--scale", "1,2"], ["--vector", "a"], ["--epsilon", "-1"]):
        with pytest.raises(SystemExit):
            main(wrong)


@pytest.mark.parametrize("way", WAYS)
def test_the_figures_of_the_readme(way: str) -> None:
    text = (MODELS / "README.md").read_text()
    row = re.search(rf"^\| {way}, .* \| ([\d.e+-]+) \| [\d.e+-]+ \| [\d.e+-]+ \|$", text, re.M)
    assert row is not None
    assert float(row[1]) == pytest.approx(gradients(way, 12, 64)[0], rel=0.1)
