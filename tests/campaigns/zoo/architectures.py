"""The table of the zoo: a name for each row."""

from __future__ import annotations

from collections.abc import Mapping

from models.example import Example
from tests.campaigns.zoo.audio import AUDIO, SERIES
from tests.campaigns.zoo.decoders import DECODERS
from tests.campaigns.zoo.encoders import ENCODERS
from tests.campaigns.zoo.rows import Row, build_row
from tests.campaigns.zoo.seq2seq import SEQ2SEQ
from tests.campaigns.zoo.vision import MULTIMODAL, VISION

FAMILIES: Mapping[str, Mapping[str, Row]] = {
    "encoders": ENCODERS,
    "decoders": DECODERS,
    "encoder-decoders": SEQ2SEQ,
    "vision": VISION,
    "images and text": MULTIMODAL,
    "audio": AUDIO,
    "series": SERIES,
}

ZOO: Mapping[str, Row] = {name: row for rows in FAMILIES.values() for name, row in rows.items()}


def build(name: str, seed: int = 0) -> Example:
    """Build an architecture of the zoo, in eval mode."""
    return build_row(ZOO[name], seed)
