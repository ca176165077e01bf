"""Blocks put together: encoders, decoders with caches, encoder-decoders, residual stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.blocks import Embedding, RelativePositions, Step, sinusoids

Blocks = list[nn.Module]


@dataclass(frozen=True)
class Shape:
    """How large a model is: `inner` is the feed-forward's width, `positions` the longest input.

    `groups` is the number of heads of keys and values (0: as many as of queries) and `size` the
    extent of a head (0: `hidden` divided by `heads`).
    """

    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    groups: int = 0
    size: int = 0

    @property
    def head(self) -> int:
        """The extent of a head."""
        return self.size or self.hidden // self.heads


def _layers(shape: Shape, layer: Callable[[int], Blocks]) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList(layer(number)) for number in range(shape.layers))


def _through(layers: Iterable[nn.Module], x: Tensor, step: Step) -> Tensor:
    for layer in layers:
        for block in layer.children():
            x = block(x, step)
    return x


class Decoder(nn.Module):
    """Tokens to the scores of the next ones, with or without the caches of earlier tokens.

    `learned` adds a table of positions to the embeddings, `scale` multiplies these, and `cap`
    bounds the scores, which `tied` takes from the table of the embeddings.
    """

    def __init__(
        self,
        shape: Shape,
        layer: Callable[[int], Blocks],
        norm: nn.Module,
        learned: bool = False,
        scale: float = 1.0,
        cap: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.tokens = Embedding(shape.vocabulary, shape.hidden)
        self.scores = self.tokens if tied else Embedding(shape.vocabulary, shape.hidden)
        self.positions = Embedding(shape.positions, shape.hidden) if learned else None
        self.layers = _layers(shape, layer)
        self.norm = norm
        self.scale, self.cap = scale, cap

    def forward(self, ids: Tensor, *past: Tensor) -> Tensor | tuple[Tensor, ...]:
        start = past[0].shape[2] if past else 0
        step = Step(start, list(past), cached=bool(past))
        x = self.tokens(ids)
        if self.scale != 1.0:
            x = x * self.scale
        if self.positions is not None:
            x = x + self.positions(start + torch.arange(ids.shape[1], device=ids.device))
        logits = self.scores.head(self.norm(_through(self.layers, x, step)))
        if self.cap:
            logits = self.cap * torch.tanh(logits / self.cap)
        return (logits, *step.present) if past else logits


class Encoder(nn.Module):
    """Tokens to hidden states. With a norm: BERT's, of words, positions and segments."""

    def __init__(
        self, shape: Shape, layer: Callable[[int], Blocks], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.tokens = Embedding(shape.vocabulary, shape.hidden)
        self.norm = norm
        if norm is not None:
            self.positions = Embedding(shape.positions, shape.hidden)
            self.segments = Embedding(2, shape.hidden)
        self.layers = _layers(shape, layer)

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        x = self.tokens(ids)
        if self.norm is None:
            x = x + sinusoids(0, ids.shape[1], x.shape[2], x)
        else:
            assert segments is not None, "BERT's embeddings have segments"
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.norm(x + self.segments(segments) + self.positions(places))
        return _through(self.layers, x, Step())


class EncoderDecoder(nn.Module):
    """Two sequences of tokens to the scores of the second's next ones, one table for all.

    Positions are sinusoids, or T5's relative ones; `norms` end the two stacks.
    """

    def __init__(
        self,
        shape: Shape,
        encoder: Callable[[int], Blocks],
        decoder: Callable[[int], Blocks],
        norms: tuple[nn.Module, nn.Module] | None = None,
        relative: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = Embedding(shape.vocabulary, shape.hidden)
        self.encoder, self.decoder = (
            nn.ModuleDict({"layers": _layers(shape, layer)}) for layer in (encoder, decoder)
        )
        self.ends = nn.ModuleList(norms or (nn.Identity(), nn.Identity()))
        self.relative = nn.ModuleList(
            RelativePositions(shape.heads, both_ways) for both_ways in (True, False) if relative
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self._stack(0, self.encoder, source, None)
        return self.tokens.head(self._stack(1, self.decoder, target, memory))

    def _stack(
        self, number: int, stack: nn.ModuleDict, ids: Tensor, memory: Tensor | None
    ) -> Tensor:
        x = self.tokens(ids)
        step = Step(memory=memory)
        if len(self.relative):
            step.relative = self.relative[number](ids.shape[1])
        else:
            x = x * x.shape[2] ** 0.5 + sinusoids(0, ids.shape[1], x.shape[2], x)
        return self.ends[number](_through(stack["layers"].children(), x, step))


class ResidualStack(nn.Module):
    """Residual blocks and nothing else, from hidden states to hidden states.

    Weights keep variance (LeCun et al., Efficient BackProp, 1998): without a norm each block then
    multiplies the variance of x by about 1.4.
    """

    def __init__(
        self, shape: Shape, layer: Callable[[int], Blocks], norm: nn.Module | None
    ) -> None:
        super().__init__()
        self.layers = _layers(shape, layer)
        self.norm = norm
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=part.in_features**-0.5)
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = _through(self.layers, x, Step())
        return x if self.norm is None else self.norm(x)
