"""Blocks of KV memory: held, found again by what they contain, and used for something else in the right order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpmv.errors import OptionError
from minicpmv.generation.engine.blocks import BlockPool, block_keys


def taken(pool: BlockPool, number: int) -> list[int]:
    blocks = pool.take(number)
    assert blocks is not None
    return blocks


def test_a_block_is_found_by_everything_up_to_its_end() -> None:
    one = block_keys(np.array([1, 2, 3, 4, 5, 6]), 2)
    other = block_keys(np.array([9, 2, 3, 4, 5, 6]), 2)
    assert len(one) == 3
    assert not set(one) & set(other)


def test_known_blocks_are_shared_and_counted() -> None:
    pool = BlockPool(4, 2)
    keys = block_keys(np.arange(6), 2)
    blocks = taken(pool, 3)
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    assert pool.find(keys) == blocks
    pool.hold(blocks[:2])
    pool.release(blocks)
    assert pool.num_held == 2
    assert pool.num_available == 2
    assert pool.find([keys[0], b"other", keys[2]]) == blocks[:1]
    pool.release(blocks[:2])
    assert pool.num_held == 0
    assert pool.find(keys) == blocks


def test_the_longest_unused_end_of_a_prompt_goes_first() -> None:
    pool = BlockPool(4, 2)
    old, new = block_keys(np.arange(4), 2), block_keys(np.arange(10, 14), 2)
    for keys in (old, new):
        blocks = taken(pool, 2)
        for block, key in zip(blocks, keys, strict=True):
            pool.publish(block, key)
        pool.release(blocks)
    taken(pool, 1)
    assert len(pool.find(old)) == 1
    assert len(pool.find(new)) == 2
    taken(pool, 2)
    assert len(pool.find(old)) == 0
    assert len(pool.find(new)) == 1
    assert pool.take(2) is None
    assert pool.num_available == 1


def test_the_same_content_twice_is_known_once() -> None:
    pool = BlockPool(3, 2)
    (key,) = block_keys(np.arange(2), 2)
    one, other = taken(pool, 2)
    pool.publish(one, key)
    pool.publish(other, key)
    pool.release([other])
    assert pool.find([key]) == [one]
    pool.forget_all()
    assert pool.find([key]) == [one]  # it is held
    pool.release([one])
    pool.forget_all()
    assert pool.find([key]) == []
    assert pool.num_available == 3


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 3)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_block_is_ever_lost_or_held_twice(moves: list[tuple[int, int, int]]) -> None:
    pool = BlockPool(7, 2)
    held: list[list[int]] = []
    for kind, number, content in moves:
        if kind <= 1:
            blocks = pool.take(number)
            assert (blocks is None) == (number > 7 - sum_held(held))
            if blocks is not None:
                assert not set(blocks) & {block for some in held for block in some}
                held.append(blocks)
                for block, key in zip(blocks, block_keys(np.arange(2 * number) + content, 2), strict=True):
                    pool.publish(block, key)
        elif kind == 2 and held:
            pool.release(held.pop(content % len(held)))
        elif kind == 3:
            found = pool.find(block_keys(np.arange(2 * number) + content, 2))
            pool.hold(found)
            if found:
                held.append(found)
        assert pool.num_held == sum_held(held)
    for blocks in held:
        pool.release(blocks)
    assert pool.num_available == 7


def sum_held(held: list[list[int]]) -> int:
    return len({block for blocks in held for block in blocks})


def test_memory_without_room_is_refused() -> None:
    with pytest.raises(OptionError, match="0 blocks"):
        BlockPool(0, 32)
