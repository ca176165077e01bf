"""The architectures that graphfuse is for, from the blocks of `models.blocks`, in four sizes.

`ZOO` maps a name to an `Architecture`; `build(name, size)` gives an `Example` of it. `tiny`,
`small` and `base` have seeded random weights; `published` has the shape of the largest model that
the architecture's paper describes, on the meta device: its weights are never allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from models.blocks import (
    Attention,
    FeedForward,
    GatedFeedForward,
    Heads,
    LayerNorm,
    OnePlusRMSNorm,
    Parallel,
    Plain,
    Post,
    Pre,
    RMSNorm,
    Sandwich,
)
from models.example import Example, randomize_norms
from models.stacks import Blocks, Decoder, Encoder, EncoderDecoder, ResidualStack, Shape

PUBLISHED = "published"
SIZES = ("tiny", "small", "base", PUBLISHED)

BATCH, SEQUENCE, TARGET, PAST = 2, 7, 5, 3

_SIZED = {
    "tiny": Shape(2, 32, 4, 0, 96, 64),
    "small": Shape(4, 128, 8, 0, 512, 256),
    "base": Shape(12, 768, 12, 0, 32000, 1024),
}


@dataclass(frozen=True)
class Architecture:
    """An architecture: how it is built, and how many sums a norm reads for a number of layers.

    `formula` is `sites` in words. `takes` names the inputs: ids, ids and segments, two sequences of
    ids, or the hidden states themselves. `decodes` says that it can have caches of keys and values.
    """

    summary: str
    make: Callable[[Shape], nn.Module]
    sites: Callable[[int], int]
    formula: str
    published: Shape
    takes: tuple[str, ...] = ("ids",)
    decodes: bool = False
    gated: bool = False
    grouped: bool = False
    layers: int = 0
    """How many layers every size has, where depth is the point; 0: the size's own."""

    def shape(self, size: str, layers: int | None = None) -> Shape:
        """The shape of a size, with another number of layers on request."""
        shape = self.published if size == PUBLISHED else _SIZED[size]
        if size != PUBLISHED:
            inner = 8 * shape.hidden // 3 // 8 * 8 if self.gated else 4 * shape.hidden
            groups = shape.heads // 2 if self.grouped else shape.heads
            shape = replace(shape, inner=inner, groups=groups, layers=self.layers or shape.layers)
        return shape if layers is None else replace(shape, layers=layers)


def _tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


def _attend(shape: Shape, **kind: object) -> Attention:
    return Attention(shape.hidden, replace(_heads(shape), **kind))


def _heads(shape: Shape) -> Heads:
    return Heads(shape.heads, shape.head, shape.groups)


def _transformer(shape: Shape) -> nn.Module:
    def block(inner: nn.Module) -> nn.Module:
        return Post(inner, LayerNorm(shape.hidden))

    def encoder(_: int) -> Blocks:
        feed = FeedForward(shape.hidden, shape.inner, functional.relu)
        return [block(_attend(shape, causal=False)), block(feed)]

    def decoder(_: int) -> Blocks:
        feed = FeedForward(shape.hidden, shape.inner, functional.relu)
        cross = _attend(shape, crosses=True)
        return [block(_attend(shape)), block(cross), block(feed)]

    return EncoderDecoder(shape, encoder, decoder)


def _t5(shape: Shape) -> nn.Module:
    def block(inner: nn.Module) -> nn.Module:
        return Pre(inner, RMSNorm(shape.hidden))

    def feed() -> nn.Module:
        return block(FeedForward(shape.hidden, shape.inner, functional.relu, bias=False))

    def encoder(_: int) -> Blocks:
        return [block(_attend(shape, causal=False, bias=False, scaled=False)), feed()]

    def decoder(_: int) -> Blocks:
        own = _attend(shape, bias=False, scaled=False)
        cross = _attend(shape, bias=False, scaled=False, crosses=True)
        return [block(own), block(cross), feed()]

    norm = (RMSNorm(shape.hidden), RMSNorm(shape.hidden))
    return EncoderDecoder(shape, encoder, decoder, norm, relative=True)


def _post_encoder(shape: Shape) -> Callable[[int], Blocks]:
    def layer(_: int) -> Blocks:
        feed = FeedForward(shape.hidden, shape.inner, functional.gelu)
        inner = (_attend(shape, causal=False), feed)
        return [Post(part, LayerNorm(shape.hidden)) for part in inner]

    return layer


def _bert(shape: Shape) -> nn.Module:
    return Encoder(shape, _post_encoder(shape), LayerNorm(shape.hidden))


def _deep(shape: Shape) -> nn.Module:
    return Encoder(shape, _post_encoder(shape))


def _pre_decoder(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Shape], nn.Module]:
    def make(shape: Shape) -> nn.Module:
        def layer(_: int) -> Blocks:
            inner = (_attend(shape), FeedForward(shape.hidden, shape.inner, f))
            return [Pre(part, LayerNorm(shape.hidden)) for part in inner]

        return Decoder(shape, layer, LayerNorm(shape.hidden), learned=True)

    return make


def _llama(window: int = 0) -> Callable[[Shape], nn.Module]:
    def make(shape: Shape) -> nn.Module:
        def layer(_: int) -> Blocks:
            inner = (
                _attend(shape, bias=False, rotary=shape.head, window=window),
                GatedFeedForward(shape.hidden, shape.inner, functional.silu),
            )
            return [Pre(part, RMSNorm(shape.hidden)) for part in inner]

        return Decoder(shape, layer, RMSNorm(shape.hidden), tied=False)

    return make


def _gemma(shape: Shape) -> nn.Module:
    def layer(_: int) -> Blocks:
        inner = (
            _attend(shape, bias=False, rotary=shape.head),
            GatedFeedForward(shape.hidden, shape.inner, _tanh_gelu),
        )
        return [Pre(part, OnePlusRMSNorm(shape.hidden)) for part in inner]

    return Decoder(shape, layer, OnePlusRMSNorm(shape.hidden), scale=shape.hidden**0.5)


def _gemma2(shape: Shape) -> nn.Module:
    def layer(number: int) -> Blocks:
        window = 4096 if number % 2 == 0 else 0
        inner = (
            _attend(shape, bias=False, rotary=shape.head, window=window, cap=50.0),
            GatedFeedForward(shape.hidden, shape.inner, _tanh_gelu),
        )
        return [
            Sandwich(part, OnePlusRMSNorm(shape.hidden), OnePlusRMSNorm(shape.hidden))
            for part in inner
        ]

    norm = OnePlusRMSNorm(shape.hidden)
    return Decoder(shape, layer, norm, scale=shape.hidden**0.5, cap=30.0)


def _gpt_neox(shape: Shape) -> nn.Module:
    def layer(_: int) -> Blocks:
        attention = _attend(shape, rotary=shape.head // 4)
        feed = FeedForward(shape.hidden, shape.inner, functional.gelu)
        return [Parallel(attention, feed, LayerNorm(shape.hidden), LayerNorm(shape.hidden))]

    return Decoder(shape, layer, LayerNorm(shape.hidden), tied=False)


def _stack(around: str) -> Callable[[Shape], nn.Module]:
    def make(shape: Shape) -> nn.Module:
        def layer(_: int) -> Blocks:
            inner = FeedForward(shape.hidden, shape.inner, functional.gelu)
            if around == "post":
                return [Post(inner, LayerNorm(shape.hidden))]
            return [Pre(inner, LayerNorm(shape.hidden)) if around == "pre" else Plain(inner)]

        return ResidualStack(shape, layer, LayerNorm(shape.hidden) if around == "pre" else None)

    return make


def _decoder(
    summary: str, make: Callable[[Shape], nn.Module], published: Shape, extra: int = 0, **more: bool
) -> Architecture:
    """A decoder of two sums a layer, and `extra` where an embedding sum feeds a norm."""
    formula = "2L + 1" if extra else "2L"
    return Architecture(
        summary, make, lambda n: 2 * n + extra, formula, published, ("ids",), decodes=True, **more
    )


ZOO: Mapping[str, Architecture] = {
    "transformer": Architecture(
        "The original encoder-decoder, post-norm (Vaswani et al., 2017); L layers each",
        _transformer, lambda n: 5 * n, "2L + 3L", Shape(6, 1024, 16, 4096, 37000, 1024),
        takes=("source", "target"),
    ),
    "bert": Architecture(
        "BERT: post-norm encoder, and a norm after the embeddings (Devlin et al., 2018)",
        _bert, lambda n: 2 * n + 1, "2L + 1", Shape(24, 1024, 16, 4096, 30522, 512),
        takes=("ids", "segments"),
    ),
    "gpt2": _decoder(
        "GPT-2: pre-norm decoder (Radford et al., 2019)",
        _pre_decoder(_tanh_gelu), Shape(48, 1600, 25, 6400, 50257, 1024), 1,
    ),
    "gpt3": _decoder(
        "GPT-3's shape, its attention dense in every layer (Brown et al., 2020)",
        _pre_decoder(_tanh_gelu), Shape(96, 12288, 96, 49152, 50257, 2048), 1,
    ),
    "llama": _decoder(
        "LLaMA: RMSNorm, pre-norm, rotary positions, SwiGLU (Touvron et al., 2023)",
        _llama(), Shape(80, 8192, 64, 22016, 32000, 2048), gated=True,
    ),
    "llama2": _decoder(
        "LLaMA 2: LLaMA with grouped queries (Touvron et al., 2023)",
        _llama(), Shape(80, 8192, 64, 28672, 32000, 4096, 8), gated=True, grouped=True,
    ),
    "mistral": _decoder(
        "Mistral: grouped queries, a window of 4,096 tokens (Jiang et al., 2023)",
        _llama(4096), Shape(32, 4096, 32, 14336, 32000, 32768, 8), gated=True, grouped=True,
    ),
    "gemma": _decoder(
        "Gemma: RMSNorm with the scale 1 + w, GeGLU (Gemma Team, 2024)",
        _gemma, Shape(28, 3072, 16, 24576, 256000, 8192, 16, 256), gated=True,
    ),
    "gemma2": _decoder(
        "Gemma 2: a norm before and after each part (Gemma Team, 2024)",
        _gemma2, Shape(46, 4608, 32, 36864, 256000, 8192, 16, 128), gated=True, grouped=True,
    ),
    "t5": Architecture(
        "T5: encoder-decoder with RMSNorm and relative positions (Raffel et al., 2019)",
        _t5, lambda n: 5 * n, "2L + 3L", Shape(24, 1024, 128, 65536, 32128, 512, 128, 128),
        takes=("source", "target"),
    ),
    "gpt-neox": Architecture(
        "GPT-NeoX: attention and feed-forward in parallel (Black et al., 2022)",
        _gpt_neox, lambda n: n, "L", Shape(44, 6144, 64, 24576, 50432, 2048), decodes=True,
    ),
    "opt": _decoder(
        "OPT: pre-norm decoder with ReLU (Zhang et al., 2022)",
        _pre_decoder(functional.relu), Shape(96, 12288, 96, 49152, 50272, 2048), 1,
    ),
    "deep": Architecture(
        "A post-norm encoder of 120 layers, without learned positions",
        _deep, lambda n: 2 * n, "2L", Shape(120, 1024, 16, 4096, 32000, 512), layers=120,
    ),
    "stack-plain": Architecture(
        "Residual blocks y = x + F(x) without a norm: nothing to fuse",
        _stack("plain"), lambda n: 0, "0", Shape(96, 1024, 1, 4096, 0, 0),
        takes=("x",), layers=96,
    ),
    "stack-pre": Architecture(
        "Residual blocks y = x + F(LayerNorm(x)), and a last norm",
        _stack("pre"), lambda n: n, "L", Shape(96, 1024, 1, 4096, 0, 0),
        takes=("x",), layers=96,
    ),
    "stack-post": Architecture(
        "Residual blocks y = LayerNorm(x + F(x))",
        _stack("post"), lambda n: n, "L", Shape(96, 1024, 1, 4096, 0, 0),
        takes=("x",), layers=96,
    ),
}  # fmt: skip

OUTPUT = {"ids": "logits", "source": "logits", "x": "y"}


def build(
    name: str, size: str = "tiny", *, cache: bool = False, seed: int = 0, layers: int | None = None
) -> Example:
    """Build an architecture in eval mode, norms' parameters drawn; `published` on the meta device.

    With `cache` a decoder also takes the keys and values of earlier tokens, and gives them with
    those of this step. Raises ValueError for one that does not decode, or has no layers.
    """
    architecture = ZOO[name]
    if cache and not architecture.decodes:
        raise ValueError(f"{name} has no caches: it is no decoder alone")
    if layers is not None and layers < 1:
        raise ValueError(f"{layers} layers were asked for; the least is 1")
    shape = architecture.shape(size, layers)
    torch.manual_seed(seed)
    with torch.device("meta" if size == PUBLISHED else "cpu"):
        module = architecture.make(shape).eval()
    if size != PUBLISHED:
        randomize_norms(module, seed)
    inputs, axes = _inputs(architecture, shape, size)
    outputs = ["hidden" if isinstance(module, Encoder) else OUTPUT[architecture.takes[0]]]
    if cache:
        _add_caches(shape, inputs, axes, outputs)
    if size == PUBLISHED:
        inputs = {name: tensor.to("meta") for name, tensor in inputs.items()}
    return Example(module, inputs, outputs, axes)


def _inputs(
    architecture: Architecture, shape: Shape, size: str
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    generator = torch.Generator().manual_seed(1)
    inputs: dict[str, torch.Tensor] = {}
    axes: dict[str, dict[int, str]] = {}
    for name in architecture.takes:
        length = TARGET if name == "target" else SEQUENCE
        axes[name] = {0: "batch", 1: "target" if name == "target" else "sequence"}
        if name == "x":
            inputs[name] = torch.randn(BATCH, length, shape.hidden, generator=generator)
        else:
            high = 2 if name == "segments" else shape.vocabulary
            inputs[name] = torch.randint(0, high, (BATCH, length), generator=generator)
    return inputs, axes


def _add_caches(
    shape: Shape,
    inputs: dict[str, torch.Tensor],
    axes: dict[str, dict[int, str]],
    outputs: list[str],
) -> None:
    """Inputs `past.N.key` and outputs `present.N.key`, and of values, for each layer N."""
    generator = torch.Generator().manual_seed(2)
    extents = (BATCH, shape.groups or shape.heads, PAST, shape.head)
    for layer in range(shape.layers):
        for kind in ("key", "value"):
            inputs[f"past.{layer}.{kind}"] = torch.randn(extents, generator=generator)
            axes[f"past.{layer}.{kind}"] = {0: "batch", 2: "past"}
            outputs.append(f"present.{layer}.{kind}")
