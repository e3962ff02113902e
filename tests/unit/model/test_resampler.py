"""The 3D-Resampler: each pack is read alone, whatever its frames' shapes and its neighbours.

Worst difference measured in float32 over 60 seeds: 2e-6 (outputs of size 1 to 4); the tolerance is three times that.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from minicpmv.errors import ShapeContractError
from minicpmv.model.positions import sinusoid_2d, time_codes
from minicpmv.model.resampler import Resampler

SHAPES = [(3, 4), (2, 3), (2, 3), (3, 2), (1, 1), (2, 3)]
PACKS = [0, 1, 1, 1, 2, 3]
TIMES = [-1, 5, 6, 11, -1, 0]
TOLERANCE = 6e-6


@pytest.fixture(scope="module")
def resampler() -> Resampler:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Resampler(num_queries=8, width=256, vision_width=48)
        for parameter in module.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim == 2 else 0.3
            parameter.data = torch.randn_like(parameter) * scale
        module.query.data *= 16
        for norm in (module.ln_q, module.ln_kv, module.ln_post):
            norm.weight.data += 1
    return module


def features(shapes: Sequence[tuple[int, int]], seed: int = 0) -> Tensor:
    return torch.randn(sum(r * c for r, c in shapes), 48, generator=torch.Generator().manual_seed(seed))


def attended_the_official_way(module: Resampler) -> torch.nn.MultiheadAttention:
    reference = torch.nn.MultiheadAttention(256, 2, batch_first=True)
    reference.load_state_dict(module.attn.state_dict())
    return reference


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_a_batch_of_packs_equals_the_packs_one_by_one(resampler: Resampler, implementation: str) -> None:
    x = features(SHAPES)
    together = resampler(x, SHAPES, PACKS, torch.tensor(TIMES), implementation)
    assert together.shape == (4, 8, 256)
    units = list(x.split([r * c for r, c in SHAPES]))
    for pack in range(4):
        members = [i for i, p in enumerate(PACKS) if p == pack]
        alone = resampler(
            torch.cat([units[i] for i in members]),
            [SHAPES[i] for i in members],
            [0] * len(members),
            torch.tensor([TIMES[i] for i in members]),
        )
        torch.testing.assert_close(together[pack], alone[0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_ragged_packs_equal_padded_and_masked_multi_head_attention(resampler: Resampler) -> None:
    """The same weights in torch's own module, keys padded to the longest pack: position in keys only."""
    x = features(SHAPES)
    values = resampler.ln_kv(resampler.kv_proj(x))
    codes = time_codes(torch.tensor(TIMES), 256)
    places = [sinusoid_2d(r, c, 256) + code for (r, c), code in zip(SHAPES, codes, strict=True)]
    lengths = [12, 18, 1, 6]
    keys, values = (
        torch.nn.utils.rnn.pad_sequence(list(part.split(lengths)), batch_first=True)
        for part in (values + torch.cat(places), values)
    )
    padding = torch.arange(18) >= torch.tensor(lengths)[:, None]
    queries = resampler.ln_q(resampler.query).expand(4, -1, -1)
    mixed, _ = attended_the_official_way(resampler)(queries, keys, values, key_padding_mask=padding)
    expected = resampler.ln_post(mixed) @ resampler.proj
    actual = resampler(x, SHAPES, PACKS, torch.tensor(TIMES))
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_frames_of_one_pack_are_told_apart_by_their_times(resampler: Resampler) -> None:
    frames = features([(2, 3), (2, 3)])
    forwards = resampler(frames, [(2, 3)] * 2, [0, 0], torch.tensor([1, 8]))
    backwards = resampler(frames, [(2, 3)] * 2, [0, 0], torch.tensor([8, 1]))
    assert (forwards - backwards).abs().max() > 0.01


@torch.no_grad()
def test_without_times_the_frames_of_a_pack_have_no_order(resampler: Resampler) -> None:
    frames = features([(2, 3), (2, 3)])
    forwards = resampler(frames, [(2, 3)] * 2, [0, 0], torch.tensor([-1, -1]))
    backwards = resampler(frames.flip(0).view(2, 6, 48).flip(1).flatten(0, 1), [(2, 3)] * 2, [0, 0], -torch.ones(2))
    torch.testing.assert_close(forwards, backwards, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_pack_may_hold_more_than_six_frames_and_times_beyond_two_hours(resampler: Resampler) -> None:
    shapes = [(2, 2)] * 20
    out = resampler(features(shapes), shapes, [0] * 20, torch.arange(20) * 10_000)
    assert out.shape == (1, 8, 256)
    assert out.isfinite().all()


@pytest.mark.parametrize(("packs", "complaint"), [([0, 2], "goes to 2 after 0"), ([1, 1], "goes to 1 after -1")])
def test_pack_numbers_that_skip_are_refused(resampler: Resampler, packs: list[int], complaint: str) -> None:
    with pytest.raises(ShapeContractError, match=complaint):
        resampler(features([(2, 2)] * 2), [(2, 2)] * 2, packs, torch.tensor([-1, -1]))


def test_pack_numbers_that_return_to_an_earlier_pack_are_refused(resampler: Resampler) -> None:
    with pytest.raises(ShapeContractError, match="goes to 0 after 1"):
        resampler(features([(2, 2)] * 3), [(2, 2)] * 3, [0, 1, 0], torch.tensor([-1, -1, -1]))
