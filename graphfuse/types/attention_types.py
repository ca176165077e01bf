"""Rules of `operator_types`: attention and what stands around it (bert_defs.cc)."""

from __future__ import annotations

from graphfuse.types.stand_ins import StandInRule, StandIns, first, same


def attention(rank: int = 3, typed: int = 0) -> StandInRule:
    """The values' part of input times weights."""

    def rule(s: StandIns) -> bool:
        sizes = s.attribute("qkv_hidden_sizes")
        if sizes:
            if len(sizes) != 3 or sizes[2] <= 0:
                return False
            s.to(0, s.last(s.input(0), sizes[2]))
            return True
        joined = s.add("MatMul", [s.input(0), s.input(1)])
        joined = s.like(joined, s.input(typed)) if typed else joined
        s.to(0, s.parts(joined, rank, 3))
        return True

    return rule


def multi_head(s: StandIns) -> bool:
    """(batch, sequence, hidden size of the values), packed or not."""
    query, key, value = (s.input(position) for position in range(3))
    if not key:
        # Packed: (batch, sequence, heads, 3, head size).
        one = s.add("Gather", [query, s.ints([0])], axis=3)
        s.to(0, s.add("Reshape", [one, s.ints([0, 0, -1])]))
        return True
    if not value:
        return first(s)
    _queries_by_values(s, query, value)
    return True


def _queries_by_values(s: StandIns, query: str, value: str) -> None:
    if s.around.rank(value) == 4:
        # (batch, heads, sequence, head size)
        moved = s.add("Transpose", [value], perm=[0, 2, 1, 3])
        value = s.add("Reshape", [moved, s.ints([0, 0, -1])])
    s.to(0, s.einsum("bsh,ctv->bsv", query, value))


def decoder_multi_head(s: StandIns) -> bool:
    """As multi_head; of what is packed, only the hidden sizes' sum is known."""
    if not s.input(1):
        return False
    _queries_by_values(s, s.input(0), s.input(2))
    return True


def packed_multi_head(s: StandIns) -> bool:
    """(tokens, hidden size of the values)."""
    if s.input(2):
        s.to(0, s.einsum("th,uv->tv", s.input(0), s.input(2)))
        return True
    # Packed: (tokens, heads, 3, head size).
    one = s.add("Gather", [s.input(0), s.ints([0])], axis=2)
    s.to(0, s.add("Reshape", [one, s.ints([0, -1])]))
    return True


def grouped_query(rank: int) -> StandInRule:
    """Attention whose keys have fewer heads; where they are packed, behind those of the queries."""

    def rule(s: StandIns) -> bool:
        heads, others = s.attribute("num_heads", 0), s.attribute("kv_num_heads", 0)
        if s.input(1):
            # Values of other heads than the keys' are a newer PagedAttention's alone.
            return not s.attribute("v_head_size") and first(s)
        if heads <= 0 or others <= 0:
            return False
        s.to(0, s.parts(s.input(0), rank, heads + 2 * others, heads))
        return True

    return rule


def linear_attention(s: StandIns) -> bool:
    """The values' shape, unless there are more heads of queries than of values."""
    queries, values = s.attribute("q_num_heads", 0), s.attribute("kv_num_heads", 0)
    if queries <= values:
        return bool(s.input(2)) and same(s, 2)
    return False


def relative_bias(s: StandIns) -> bool:
    """(1, heads, length of queries, length of keys)."""
    heads = s.add("Gather", [s.add("Shape", [s.input(0)]), s.ints([1])])
    lengths = [s.add("Reshape", [s.input(position), s.ints([1])]) for position in (1, 2)]
    shape = s.add("Concat", [s.ints([1]), heads, *lengths], axis=0)
    s.to(0, s.like(s.add("ConstantOfShape", [shape]), s.input(0)))
    return True


def gated_bias(s: StandIns) -> bool:
    """(batch, heads, sequence, sequence), of queries that keep their padding."""
    if s.input(6):
        return False
    s.to(0, s.einsum("bsh,xnij->bnij", s.input(0), s.input(2)))
    return True


def without_padding(s: StandIns) -> bool:
    """(tokens, hidden size), from (batch, sequence, hidden size)."""
    s.to(0, s.einsum("bsh,rt->th", s.input(0), s.add("NonZero", [s.input(1)])))
    return True


def with_padding(s: StandIns) -> bool:
    """(batch, sequence, hidden size), from (tokens, hidden size)."""
    s.to(0, s.einsum("th,bs->bsh", s.input(0), s.input(1)))
    return True


def embedding(ids: int, table: int, typed: int = 0) -> StandInRule:
    """A row of a table for each identifier; output 1 is the mask's index, output 2 the sum."""

    def rule(s: StandIns) -> bool:
        rows = s.add("Gather", [s.input(table), s.input(ids)])
        rows = s.like(rows, s.input(typed)) if typed else rows
        s.to(0, rows)
        s.to(2, rows)
        if s.has_output(1):
            # One entry for each row of the batch, in the type of the identifiers.
            s.to(1, s.einsum("bs->b", s.input(ids)))
        return True

    return rule


def rotated_pair(s: StandIns) -> bool:
    """Queries and keys, rotated."""
    s.to(0, s.input(1))
    s.to(1, s.input(3))
    return True
