"""One training conversation, wherever it came from.

    a line of a file, a row of a table, a page, a drawing -> Sample(key, messages, metadata)

A sample names its media or holds them; nothing is decoded before it is encoded. `metadata` says what is known about it
beyond its words - the world that drew it, the level of a corruption, the license of a file - so that every figure can
later be split by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.worlds.glyphs import CharacterBox
from minicpmv.data.worlds.paper import Region
from minicpmv.messages import DocumentPart, ImagePart, Message, Part, VideoPart


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation to learn from.

    Attributes:
        key: where it comes from, for people: `train.jsonl:17`, `shard-3.tar:000042`, `pages:81`.
        messages: the turns; at least one of the assistant's.
        metadata: JSON values.
        characters: every visible character of its one picture with its box in px, and a space for every gap between
            words, where a world knows them; not kept on
            disk.
        things: int64 [items, rows, columns, 2], what every patch of its pictures or frames shows, as
            `shapes.thing_targets` says, where a world knows it; not kept on disk.
        regions: what is written where on its one picture, where a world knows it, for people who look at it; not kept
            on disk.
    """

    key: str
    messages: tuple[Message, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    characters: tuple[CharacterBox, ...] = ()
    things: NDArray[np.int64] | None = None
    regions: tuple[Region, ...] = ()

    @property
    def media(self) -> tuple[Part, ...]:
        """Its pictures, clips and documents in order."""
        kinds = (ImagePart, VideoPart, DocumentPart)
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, kinds))

    @property
    def text(self) -> str:
        """All words of all turns, a line per turn."""
        return "\n".join(message.text for message in self.messages)
