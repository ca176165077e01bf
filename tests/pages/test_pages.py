"""Pages: whole, harmless whatever the names are, and the same from --html as from the document."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from markdown_it import MarkdownIt

import graphfuse
from graphfuse.api import looking
from graphfuse.pages import page
from graphfuse.report.document import fuse_document, scan_document
from tests.conftest import MODELS, Shell
from tests.support.commands import Commands

VOID = {"meta", "br", "path", "rect", "line", "circle", "link", "img", "input"}
HOSTILE = (
    "</title></style></script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7*7 }}{% raw %}",
    "]]><!--",
    "a|b`c``d\\`e",
    "@somebody #1 https://example.org [x](javascript:alert(1)) ![y](http://example.org/z.png)",
    "\u202eonce\x1b[31m\nagain",
    "<b>" * 40,
)


class Reader(HTMLParser):
    """The elements of a page, and its text; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(text: str) -> Reader:
    """A page that runs nothing, asks for nothing, and has each id once."""
    found = Reader(text)
    tags = {tag for tag, _ in found.elements}
    assert tags.isdisjoint(
        {"script", "img", "iframe", "object", "embed", "link", "form", "b", "base"}
    )
    for _, attributes in found.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#"), attributes
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"] for _, attributes in found.elements if "href" in attributes}
    assert targets <= {f"#{name}" for name in ids}
    policies = [a for tag, a in found.elements if tag == "meta" and a.get("http-equiv")]
    assert [a["content"] for a in policies] == ["default-src 'none'; style-src 'unsafe-inline'"]
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tensors and nodes are called so as to break pages; some of it is left."""
    model = onnx.load(MODELS / "gpt2.onnx")
    names = sorted({name for node in model.graph.node for name in node.output})
    new = {name: f"{HOSTILE[n % len(HOSTILE)]} {n}" for n, name in enumerate(names)}
    for n, node in enumerate(model.graph.node):
        node.name = f"{HOSTILE[n % len(HOSTILE)]} node {n}"
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new[name] for name in node.output]
    for value in (*model.graph.output, *model.graph.value_info):
        value.name = new.get(value.name, value.name)
    # One site becomes a near miss: its epsilon is no constant any more, an input overrides it.
    path = tmp_path_factory.mktemp("hostile") / "a <script>`|@x .onnx"
    onnx.save(model, path)
    return path


def pages_of(path: Path) -> list[dict[str, Any]]:
    """Documents of a scan and a fusion; exclusion gives near misses with names in them."""
    scan = looking.scan(path, pictures=True)
    fused = graphfuse.optimize(path, None, selection=graphfuse.Selection(include="s2"))
    left = graphfuse.fuse(path, ep="cuda", runtime="1.20.1")
    return [
        scan_document(str(path), scan, graphfuse.activations(path)),
        fuse_document(str(path), fused),
        fuse_document(str(path), left),
    ]


def test_names_inject_nothing_into_html(hostile: Path) -> None:
    for document in pages_of(hostile):
        text = page.html(document)
        found = harmless(text)
        assert "{{ 7*7 }}" in found.text
        assert "\u202e" not in text
        assert "\x1b" not in text
        assert "\\u202e" in found.text


def test_names_inject_nothing_into_markdown(hostile: Path) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    for document in pages_of(hostile):
        text = page.markdown(document)
        kinds = {
            inner.type for token in reader.parse(text) for inner in (token, *(token.children or ()))
        }
        assert "table_open" in kinds
        assert "code_inline" in kinds
        assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "image"})
        # Outside of code there is neither a mention nor a reference to an issue.
        plain = "".join(
            inner.content
            for token in reader.parse(text)
            for inner in (token.children or ())
            if inner.type == "text"
        )
        assert "@s" not in plain
        assert "https://example" not in plain
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 5


@pytest.mark.parametrize("model", ["bert", "gpt2", "llama", "vit"])
def test_a_page_is_whole(model: str) -> None:
    result = graphfuse.optimize(MODELS / f"{model}.onnx", None)
    found = harmless(page.html(fuse_document("m.onnx", result)))
    for fusion in result.fused:
        assert fusion.site.output in found.text
        assert fusion.operator in found.text
    assert "bound" in found.text
    drawings = [a["aria-label"] or "" for tag, a in found.elements if tag == "svg" and "role" in a]
    assert sum("Before" in label for label in drawings) == len(result.pictures)
    assert sum("After" in label for label in drawings) == len(result.pictures)
    assert any("(comes)" in label for label in drawings)


def deep(layers: int, path: Path) -> None:
    """A pre-norm stack: each sum is normed, and read by the next sum."""
    make = onnx.helper.make_node
    graph_nodes = [make("Abs", ["x"], ["sum"])]
    total = "sum"
    for n in range(layers):
        norm, out, new = (f"layers.{n}.{name}" for name in ("norm", "out", "sum"))
        graph_nodes += [
            make("LayerNormalization", [total, "scale", "bias"], [norm], f"layers.{n}.norm"),
            make("Tanh", [norm], [out], f"layers.{n}.tanh"),
            make("Add", [total, out], [new], f"layers.{n}.add"),
        ]
        total = new
    value = onnx.helper.make_tensor_value_info
    vector = onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        graph_nodes,
        "deep",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 8])],
        [value(total, onnx.TensorProto.FLOAT, ["batch", 8])],
        [vector(np.ones(8, np.float32), "scale"), vector(np.zeros(8, np.float32), "bias")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@pytest.mark.parametrize("layers", [97, 1201])
def test_equal_sites_are_folded_and_all_are_there(tmp_path: Path, layers: int) -> None:
    deep(layers, tmp_path / "deep.onnx")
    document = scan_document("deep.onnx", looking.scan(tmp_path / "deep.onnx", pictures=True))
    text = page.html(document)
    assert len(text) < 1_500_000
    found = harmless(text)
    sites = layers - 1
    assert f"{sites} \N{MULTIPLICATION SIGN} LayerNorm, pre-norm, layers 1-{sites}" in found.text
    listed = sum(f">{site['id']}<" in text for site in document["sites"])
    assert listed == min(sites, 1000)
    assert ("200 more: the JSON document has all" in found.text) == (sites > 1000)


def test_later_from_the_document_is_the_same(commands: Commands, tmp_path: Path) -> None:
    bert = str(MODELS / "bert.onnx")
    pages = ("--html", "now.html", "--markdown", "now.md")
    run = commands.run("fuse", bert, "-o", "out.onnx", "--json", *pages, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (tmp_path / "run.json").write_text(run.stdout)
    for name in ("later.html", "later.md"):
        again = commands.run("report", "run.json", "-o", name, cwd=tmp_path)
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (tmp_path / "now.html").read_bytes() == (tmp_path / "later.html").read_bytes()
    assert (tmp_path / "now.md").read_bytes() == (tmp_path / "later.md").read_bytes()


@pytest.mark.parametrize("command", ["scan", "unfuse", "validate", "bench", "activations"])
def test_every_command_has_a_page(commands: Commands, tmp_path: Path, command: str) -> None:
    bert = str(MODELS / "bert.onnx")
    graphfuse.optimize(bert, tmp_path / "fused.onnx", level="none")
    calls = {
        "scan": ("scan", bert),
        "activations": ("scan", bert, "--activations"),
        "unfuse": ("unfuse", "fused.onnx", "-o", "plain.onnx"),
        "validate": ("validate", bert, "fused.onnx", "--validate", "fast", "--certify"),
        "bench": ("bench", bert, "fused.onnx", "--seconds", "0", "--sizes", "1x8"),
    }
    run = commands.run(*calls[command], "--html", "p.html", "--markdown", "p.md", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    found = harmless((tmp_path / "p.html").read_text())
    expected = {
        "scan": "5 sites, 0 near misses",
        "activations": "Residual stream",
        "unfuse": "5 fused nodes written out",
        "validate": "identical",
        "bench": "times as fast",
    }
    assert expected[command] in found.text
    if command == "validate":
        assert "Before and after" in found.text
        assert "graphfuse::AddBiasLayerNormalization" in found.text
    assert (tmp_path / "p.md").read_text().startswith(f"## graphfuse {calls[command][0]}: ")


def test_a_failure_has_a_page(commands: Commands, tmp_path: Path) -> None:
    model = onnx.load(MODELS / "bert.onnx")
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(each for each in norm.attribute if each.name == "epsilon").f = 0.1
    onnx.save(model, tmp_path / "wrong.onnx")
    bert = str(MODELS / "bert.onnx")
    run = commands.run("validate", bert, "wrong.onnx", "--html", "p.html", cwd=tmp_path)
    assert run.returncode == 1
    found = harmless((tmp_path / "p.html").read_text())
    assert "FAILED" in found.text
    assert "exit code 1" in found.text
    assert "again: graphfuse validate" in found.text
    run = commands.run(
        "fuse", bert, "-o", "o.onnx", "--min-fused", "9", "--html", "q.html", cwd=tmp_path
    )
    assert run.returncode == 6
    assert "5 of 9 sites" in harmless((tmp_path / "q.html").read_text()).text
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--html", "nowhere/p.html"), "there is no folder nowhere"),
        (("--html", "."), "names the folder ."),
        (("--html", "-"), "has no file"),
        (("--html", "in"), "does not end in .html"),
        (("--markdown", "out.onnx"), "does not end in .md"),
        (("--html", "load.py"), "does not end in .html"),
        (("--html", "notes.md"), "does not end in .html"),
    ],
)
def test_pages_that_cannot_be_written_are_refused_before_anything_is_done(
    commands: Commands, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "in").write_bytes((MODELS / "bert.onnx").read_bytes())
    run = commands.run("fuse", "in", "-o", "out.onnx", *options, cwd=tmp_path)
    assert run.returncode == 2
    assert said in run.stderr
    assert run.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_page_is_never_written_over_a_model(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "in.html").write_bytes((MODELS / "bert.onnx").read_bytes())
    run = commands.run("scan", "in.html", "--html", "./in.html", cwd=tmp_path)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "is the model's file" in run.stderr
    assert (tmp_path / "in.html").read_bytes() == (MODELS / "bert.onnx").read_bytes()


@pytest.mark.parametrize("words", [("explain", str(MODELS / "bert.onnx"), "s1"), ("env",)])
def test_what_has_no_page_says_so(
    commands: Commands, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "run.json").write_text(commands.run(*words, "--json", cwd=tmp_path).stdout)
    run = commands.run("report", "run.json", "-o", "p.html", cwd=tmp_path)
    assert run.returncode == 2
    assert f"`graphfuse {words[0]}` has no page" in run.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is no document of graphfuse"),
        ('{"schema": 1, "command": "scan", "exit_code": 0}', "version 1"),
        ('{"schema": 2, "command": "scan", "exit_code": 0}', "is not as graphfuse makes one"),
        ('{"schema": 2, "command": 7, "exit_code": "x", "error": 3, "graphfuse": {}, "notes": 4}',
         "is not as graphfuse makes one"),
    ],
)  # fmt: skip
def test_a_document_that_is_none_is_refused(
    shell: Shell, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "run.json").write_text(text)
    run = shell("report", tmp_path / "run.json", "-o", tmp_path / "p.html")
    assert run.returncode == 2
    assert said in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize("field", ["sites", "near_misses", "pictures", "read", "notes"])
@pytest.mark.parametrize("value", [7, "text", [7], [{}], {"a": 1}])
def test_a_document_that_was_changed_is_a_line(
    shell: Shell, tmp_path: Path, field: str, value: Any
) -> None:
    document = scan_document("m.onnx", looking.scan(MODELS / "bert.onnx", pictures=True))
    (tmp_path / "run.json").write_text(json.dumps({**document, field: value}))
    run = shell("report", tmp_path / "run.json", "-o", tmp_path / "p.html")
    assert run.returncode in (0, 2), run.stderr
    assert run.stderr.count("\n") == (1 if run.returncode else 0)


def test_what_is_written_stays_written_when_the_page_fails(tmp_path: Path) -> None:
    from graphfuse.cli.saying import write_page
    from graphfuse.cli.streams import ReportError
    from graphfuse.records import HashedFile

    with pytest.raises(ReportError, match=r"the page .* cannot be written") as failed:
        write_page(str(tmp_path / "gone" / "p.html"), "x", [HashedFile("m.onnx", 1, "")])
    assert failed.value.exit_code == 7
    assert "m.onnx is written" in str(failed.value)


def test_a_folder_is_one_page_the_worst_first(commands: Commands, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.onnx").write_bytes((MODELS / "bert.onnx").read_bytes())
    (source / "b.onnx").write_text("<script>")
    (source / "config.json").write_text("{}")
    run = commands.run(
        "fuse", "in", "-o", "out", "--html", "p.html", "--markdown", "p.md", cwd=tmp_path
    )
    assert run.returncode == 3, run.stderr
    found = harmless((tmp_path / "p.html").read_text())
    assert "1 of 2 models done, 1 failed" in found.text
    assert found.text.index("b.onnx") < found.text.index("a.onnx")
    assert "is not an ONNX model" in found.text
    assert (tmp_path / "p.md").read_text().count("### graphfuse fuse: ") == 2
