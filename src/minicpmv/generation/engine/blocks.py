"""Who holds which blocks of KV memory, and which of them a prompt that begins alike may use again.

    tokens of a prompt -> block_keys -> [key, ...]          BlockPool: match, take, publish, release

Memory is cut into blocks of equally many tokens. A full block is known by a key that stands for everything up to its
end, so two prompts that begin with the same picture find each other's blocks. Blocks that nobody holds stay until their
memory is needed; the one that was used longest ago goes first.

Source: the idea is vLLM's (arXiv 2309.06180, section 4); keys by content are its prefix caching. The code is ours.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from minicpmv.errors import OptionError

Key = bytes
_KEY_BYTES = 16


def extend_key(before: Key, content: NDArray[np.int64]) -> Key:
    """The key of a block, from that of the block before it and what its tokens are.

    Args:
        before: key of the block before it; empty for the first.
        content: int64, a number for every token that says what the model reads there.
    """
    return blake2b(before + content.tobytes(), digest_size=_KEY_BYTES).digest()


def block_keys(content: NDArray[np.int64], block_tokens: int) -> list[Key]:
    """Keys of all full blocks of a prompt.

    Args:
        content: int64 [tokens].
        block_tokens: tokens of a block.

    >>> one, other = block_keys(np.arange(5), 2), block_keys(np.array([0, 1, 2, 9, 4]), 2)
    >>> len(one), one[0] == other[0], one[1] == other[1]
    (2, True, False)
    """
    keys: list[Key] = []
    for start in range(0, len(content) - block_tokens + 1, block_tokens):
        keys.append(extend_key(keys[-1] if keys else b"", content[start : start + block_tokens]))
    return keys


class BlockPool:
    """The blocks of a fixed amount of KV memory.

    Args:
        num_blocks: how many there are, at least one.
        block_tokens: tokens of each, at least one.

    Raises:
        OptionError: too few.
    """

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        if num_blocks < 1 or block_tokens < 1:
            raise OptionError(
                f"KV memory of {num_blocks} blocks of {block_tokens} tokens.", remedy="Give room for more tokens."
            )
        self.num_blocks, self.block_tokens = num_blocks, block_tokens
        self._free = list(range(num_blocks - 1, -1, -1))  # the last one freed is taken first: its memory is at hand
        self._holders = [0] * num_blocks
        self._keys: list[Key | None] = [None] * num_blocks
        self._known: dict[Key, int] = {}
        self._unheld: OrderedDict[int, None] = OrderedDict()
        """Known blocks that nobody holds, longest unused first."""

    @property
    def num_available(self) -> int:
        """Blocks that can be taken: free ones, and known ones that nobody holds."""
        return len(self._free) + len(self._unheld)

    @property
    def num_held(self) -> int:
        """Blocks that some request holds."""
        return self.num_blocks - self.num_available

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens need."""
        return -(-num_tokens // self.block_tokens)

    def find(self, keys: Sequence[Key]) -> list[int]:
        """The longest run of known blocks with which keys begin; nobody holds them for that."""
        found = []
        for key in keys:
            block = self._known.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Sequence[int]) -> None:
        """Hold blocks that were found; one may be held by many."""
        for block in blocks:
            self._holders[block] += 1
            self._unheld.pop(block, None)

    def take(self, number: int) -> list[int] | None:
        """New blocks, held once each, or None if there are not as many."""
        if number > self.num_available:
            return None
        taken = []
        for _ in range(number):
            if self._free:
                block = self._free.pop()
            else:
                block, _nothing = self._unheld.popitem(last=False)
                self._forget(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, key: Key) -> None:
        """Let others find a full block. Another one with the same content may be known already; it stays."""
        if self._keys[block] is None and key not in self._known:
            self._known[key] = block
            self._keys[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks; those of a prompt's end are the first to be used for something else."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._keys[block] is None:
                self._free.append(block)
            else:
                self._unheld[block] = None

    def spoil(self, blocks: Sequence[int]) -> list[int]:
        """Let nobody find blocks any more, whose content is worthless; those that only one request holds.

        Args:
            blocks: held.
        """
        for block in blocks:
            self._forget(block)
        return [block for block in blocks if self._holders[block] == 1]

    def forget_all(self) -> None:
        """Forget what unheld blocks contain."""
        for block in list(self._unheld):
            self._forget(block)
            self._free.append(block)
        self._unheld.clear()

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._known[key]
            self._keys[block] = None
