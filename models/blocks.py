"""The blocks of Transformers, from their equations.

x is a sequence of shape (batch, sequence, hidden); a norm works on the last axis of it. Nothing
here needs weights to have values, so every block can be built on the meta device. What a step has
to know beside x (positions, masks, caches, another sequence) travels in a `Step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6
"""In every norm, unless an architecture's own is given."""


@dataclass
class Step:
    """What the blocks of one forward pass share.

    `start` is how many tokens are in the caches; `past` their keys and values, two for each
    attention in order, and `present` the same with this step's tokens, filled as the pass goes.
    `memory` is the encoded other sequence, `relative` a bias of the scores by relative position.
    """

    start: int = 0
    past: list[Tensor] = field(default_factory=list)
    present: list[Tensor] = field(default_factory=list)
    memory: Tensor | None = None
    relative: Tensor | None = None
    cached: bool = False


def widened(x: Tensor) -> Tensor:
    """x in float32 where its own type is narrower: squares of float16 overflow beyond 255."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class LayerNorm(nn.Module):
    """y = gamma * (x - mean(x)) / sqrt(var(x) + eps) + beta; var divides by n, not by n - 1.

    Ba, Kiros and Hinton: Layer Normalization, 2016 (arXiv:1607.06450), equation 3.
    """

    def __init__(self, hidden: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(hidden))
        self.beta = nn.Parameter(torch.zeros(hidden))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)
        deviation = wide - wide.mean(-1, keepdim=True)
        variance = (deviation * deviation).mean(-1, keepdim=True)
        normal = deviation / torch.sqrt(variance + self.epsilon)
        return self.gamma * normal.to(x.dtype) + self.beta


class RMSNorm(nn.Module):
    """y = gamma * x / sqrt(mean(x^2) + eps).

    Zhang and Sennrich: Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467), equation 4.
    """

    def __init__(self, hidden: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(hidden))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)
        normal = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.gamma * normal.to(x.dtype)


class OnePlusRMSNorm(nn.Module):
    """y = (1 + w) * x / sqrt(mean(x^2) + eps), in float32 throughout, the scale included.

    Gemma's, so that weight decay pulls the scale to 1 (google-deepmind/gemma, `RMSNorm`).
    """

    def __init__(self, hidden: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(hidden))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)
        normal = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return ((1 + widened(self.w)) * normal).to(x.dtype)


class Plain(nn.Module):
    """A residual connection without a norm: y = x + F(x).

    He, Zhang, Ren and Sun: Deep Residual Learning for Image Recognition, 2015 (arXiv:1512.03385).
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x + self.inner(x, step)


class Post(nn.Module):
    """Post-norm: y = LayerNorm(x + F(x)).

    Vaswani et al.: Attention Is All You Need, 2017 (arXiv:1706.03762), section 3.1.
    """

    def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = norm

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.norm(x + self.inner(x, step))


class Pre(nn.Module):
    """Pre-norm: y = x + F(LayerNorm(x)).

    Xiong et al.: On Layer Normalization in the Transformer Architecture, 2020 (arXiv:2002.04745).
    """

    def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = norm

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x + self.inner(self.norm(x), step)


class Sandwich(nn.Module):
    """Sandwich: y = x + norm_2(F(norm_1(x))).

    Ding et al.: CogView, 2021 (arXiv:2105.13290), section 2.4; Gemma 2 (arXiv:2408.00118).
    """

    def __init__(self, inner: nn.Module, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.before = before
        self.after = after

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x + self.after(self.inner(self.before(x), step))


class Parallel(nn.Module):
    """Parallel: y = x + F(norm_1(x)) + G(norm_2(x)).

    Black et al.: GPT-NeoX-20B, 2022 (arXiv:2204.06745), section 2.1.
    """

    def __init__(
        self, first: nn.Module, second: nn.Module, norm: nn.Module, other: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.norm, self.other = norm, other

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x + self.first(self.norm(x), step) + self.second(self.other(x), step)


def rotate(x: Tensor, positions: Tensor, extent: int, base: float = 10000.0) -> Tensor:
    """Rotary positions on the first `extent` elements of each head of x (batch, heads, s, head).

    Element i and element i + extent/2 are turned by positions * base^(-2i/extent): Su et al.,
    RoFormer, 2021 (arXiv:2104.09864), in the halves that GPT-NeoX and LLaMA use.
    """
    half = extent // 2
    exponents = torch.arange(half, dtype=torch.float32, device=x.device) / half
    angles = positions.to(torch.float32)[:, None] * torch.exp(-math.log(base) * exponents)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second, rest = x[..., :half], x[..., half:extent], x[..., extent:]
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat((*turned, rest) if extent < x.shape[-1] else turned, -1)


@dataclass(frozen=True)
class Heads:
    """The kind of an attention: softmax(q k^T * scale + bias) v over `count` heads.

    `groups` is how many heads of keys and values there are (grouped queries: Ainslie et al., 2023,
    arXiv:2305.13245), `size` the extent of a head, `rotary` how much of it is turned by positions,
    `window` how many tokens a query sees back (Mistral), `cap` bounds scores by cap*tanh(s/cap)
    (Gemma 2). `crosses` takes keys and values from the other sequence.
    """

    count: int
    size: int
    groups: int = 0
    causal: bool = True
    bias: bool = True
    rotary: int = 0
    window: int = 0
    cap: float = 0.0
    scaled: bool = True
    crosses: bool = False


class Attention(nn.Module):
    """Multi-head attention: softmax(Q K^T / sqrt(d)) V, heads joined and projected.

    Vaswani et al., 2017 (arXiv:1706.03762), section 3.2; T5 leaves out the root of d.
    """

    def __init__(self, hidden: int, heads: Heads) -> None:
        super().__init__()
        self.heads = heads
        self.groups = heads.groups or heads.count
        self.query = nn.Linear(hidden, heads.count * heads.size, heads.bias)
        self.key = nn.Linear(hidden, self.groups * heads.size, heads.bias)
        self.value = nn.Linear(hidden, self.groups * heads.size, heads.bias)
        self.output = nn.Linear(heads.count * heads.size, hidden, heads.bias)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        heads, source = self.heads, x
        if heads.crosses:
            assert step.memory is not None, "an attention to another sequence needs one"
            source = step.memory
        query = self._split(self.query(x), heads.count)
        key, value = (self._split(f(source), self.groups) for f in (self.key, self.value))
        positions = step.start + torch.arange(x.shape[1], device=x.device)
        if heads.rotary:
            query, key = (rotate(part, positions, heads.rotary) for part in (query, key))
        if step.cached:
            at = len(step.present)
            key, value = (
                torch.cat((step.past[at + i], part), 2) for i, part in enumerate((key, value))
            )
            step.present += [key, value]
        scores = query @ self._repeat(key).transpose(2, 3)
        if heads.scaled:
            scores = scores * heads.size**-0.5
        if heads.cap:
            scores = heads.cap * torch.tanh(scores / heads.cap)
        if step.relative is not None and not heads.crosses:
            scores = scores + step.relative
        if heads.causal and not heads.crosses:
            seen = self._seen(positions, torch.arange(key.shape[2], device=x.device))
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        context = functional.softmax(scores, -1) @ self._repeat(value)
        joined = context.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)
        return self.output(joined)

    def _split(self, x: Tensor, count: int) -> Tensor:
        shape = (x.shape[0], x.shape[1], count, self.heads.size)
        return x.reshape(shape).transpose(1, 2)

    def _repeat(self, x: Tensor) -> Tensor:
        """Each head of keys or values as often as queries share it."""
        times = self.heads.count // self.groups
        if times == 1:
            return x
        batch, groups, length, size = x.shape
        wide = x[:, :, None].expand(batch, groups, times, length, size)
        return wide.reshape(batch, self.heads.count, length, size)

    def _seen(self, queries: Tensor, keys: Tensor) -> Tensor:
        seen = keys[None, :] <= queries[:, None]
        if self.heads.window:
            seen = seen & (keys[None, :] > queries[:, None] - self.heads.window)
        return seen


class FeedForward(nn.Module):
    """y = W_2 f(W_1 x + b_1) + b_2, f being ReLU or GELU.

    Vaswani et al., 2017 (arXiv:1706.03762), section 3.3; GELU: Hendrycks and Gimpel, 2016
    (arXiv:1606.08415).
    """

    def __init__(
        self, hidden: int, inner: int, f: Callable[[Tensor], Tensor], bias: bool = True
    ) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, inner, bias)
        self.down = nn.Linear(inner, hidden, bias)
        self.f = f

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.down(self.f(self.up(x)))


class GatedFeedForward(nn.Module):
    """y = W_2 (f(W x) * V x): SwiGLU with f = SiLU, GeGLU with f = GELU.

    Shazeer: GLU Variants Improve Transformer, 2020 (arXiv:2002.05202), equation 6.
    """

    def __init__(self, hidden: int, inner: int, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, inner, False)
        self.up = nn.Linear(hidden, inner, False)
        self.down = nn.Linear(inner, hidden, False)
        self.f = f

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.down(self.f(self.gate(x)) * self.up(x))


class Embedding(nn.Module):
    """A vector for each token; `head` gives the scores of tokens with the same table."""

    def __init__(self, count: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, hidden))
        nn.init.normal_(self.weight, std=hidden**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight)

    def head(self, x: Tensor) -> Tensor:
        """x times the transposed table: Press and Wolf, 2016 (arXiv:1608.05859)."""
        return functional.linear(x, self.weight)


def sinusoids(start: int, length: int, hidden: int, like: Tensor) -> Tensor:
    """sin(p / 10000^(2i/hidden)) and cos of the same, halves side by side, shape (length, hidden).

    Vaswani et al., 2017 (arXiv:1706.03762), section 3.5, whose columns alternate: a permutation.
    """
    half = hidden // 2
    positions = (start + torch.arange(length, device=like.device)).to(torch.float32)
    exponents = torch.arange(half, dtype=torch.float32, device=like.device) / half
    angles = positions[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat((angles.sin(), angles.cos()), -1).to(like.dtype)


class RelativePositions(nn.Module):
    """T5's bias of scores: a number per head and bucket of the distance between key and query.

    Half of the buckets are distances one by one, the others grow by a factor up to `farthest`:
    Raffel et al., 2019 (arXiv:1910.10683), section 2.1.
    """

    def __init__(self, heads: int, both_ways: bool, buckets: int = 32, farthest: int = 128) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.table)
        self.both_ways, self.buckets, self.farthest = both_ways, buckets, farthest

    def forward(self, length: int) -> Tensor:
        """The bias of shape (heads, length, length)."""
        places = torch.arange(length, device=self.table.device)
        distance = places[None, :] - places[:, None]
        buckets, offset = self.buckets, 0
        if self.both_ways:
            buckets //= 2
            offset = (distance > 0).to(torch.int64) * buckets
            distance = distance.abs()
        else:
            distance = torch.where(distance < 0, -distance, torch.zeros_like(distance))
        exact = buckets // 2
        steps = (buckets - exact) / math.log(self.farthest / exact)
        far = torch.log(distance.to(torch.float32).clamp(min=1) / exact) * steps
        far = exact + far.clamp(0, buckets - 1 - exact).to(torch.int64)
        bucket = torch.where(distance < exact, distance, far) + offset
        return functional.embedding(bucket, self.table).permute(2, 0, 1)
