"""The vision tower against numbers recorded from the official remote code (fp32, CPU, eager).

Worst difference measured: 3e-5 on sums, 5e-6 on elements; the recorded values have five decimals.
"""

import numpy as np
import pytest
import torch

from minicpmv.model.configuration import MiniCPMVVisionConfig
from minicpmv.model.positions import bucket_ids
from minicpmv.model.vision import MiniCPMVVisionModel

from .synthetic_weights import fill

RECORDED = {
    (3, 4): (-14.77795, 315.38912, [0.26248, 1.23933, -0.42134], [1.36100, -1.11161, 0.39702]),
    (2, 2): (-5.82157, 101.30690, [0.78604, -0.05437, -0.62041], [-0.32754, -0.88787, -0.38487]),
}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def tower(request: pytest.FixtureRequest) -> MiniCPMVVisionModel:
    config = MiniCPMVVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=98
    )
    config._attn_implementation = request.param
    model = MiniCPMVVisionModel(config)
    fill(model, vision=True)
    return model


def patch_rows(index: int, rows: int, columns: int) -> torch.Tensor:
    """The recorded input is [3, 14, 14 n]: patches side by side; ours is one flat row per patch."""
    strip = np.random.RandomState(200 + index).standard_normal((3, 14, 14 * rows * columns)).astype(np.float32)
    return torch.from_numpy(strip).unflatten(2, (rows * columns, 14)).permute(2, 0, 1, 3).flatten(1)


def check(out: torch.Tensor, shape: tuple[int, int]) -> None:
    total, absolute, first, last = RECORDED[shape]
    assert out.sum().item() == pytest.approx(total, abs=1e-4)
    assert out.abs().sum().item() == pytest.approx(absolute, abs=2e-4)
    assert out[0, :3].tolist() == pytest.approx(first, abs=2e-5)
    assert out[-1, -3:].tolist() == pytest.approx(last, abs=2e-5)


@torch.no_grad()
def test_one_item_gives_the_recorded_features(tower: MiniCPMVVisionModel) -> None:
    check(tower(patch_rows(0, 3, 4), [(3, 4)]), (3, 4))


@torch.no_grad()
def test_items_of_a_batch_do_not_see_each_other(tower: MiniCPMVVisionModel) -> None:
    both = torch.cat([patch_rows(0, 3, 4), patch_rows(1, 2, 2)])
    out = tower(both, torch.tensor([(3, 4), (2, 2)]))
    check(out[:12], (3, 4))
    check(out[12:], (2, 2))


GOLD_BUCKETS = {
    24: "0 2 5 8 11 14 17 20 23 26 29 32 35 37 40 43 46 49 52 55 58 61 64 67",
    25: "0 2 5 8 11 13 16 19 22 25 27 30 33 36 39 41 44 47 50 53 55 58 61 64 67",
    32: "0 2 4 6 8 10 13 15 17 19 21 24 26 28 30 32 35 37 39 41 43 45 48 50 52 54 56 59 61 63 65 67",
}


@pytest.mark.parametrize("num_patches", GOLD_BUCKETS)
def test_bucket_ids_follow_the_float32_rule(num_patches: int) -> None:
    assert bucket_ids(num_patches) == tuple(int(n) for n in GOLD_BUCKETS[num_patches].split())


EXCEPTIONS = {
    25: {5: 13, 10: 27, 15: 41, 20: 55},
    49: {7: 9, 14: 19, 35: 49, 42: 59},
    50: {5: 6, 10: 13, 15: 20, 20: 27, 30: 41, 40: 55},
    55: {11: 13, 22: 27, 33: 41, 44: 55},
    58: {29: 34},
}


def test_buckets_differ_from_exact_fractions_only_where_recorded() -> None:
    """Every length up to the table's own size, against exact integers."""
    for num_patches in range(1, 71):
        exact = [70 * i // num_patches for i in range(num_patches)]
        expected = {**dict(enumerate(exact)), **EXCEPTIONS.get(num_patches, {})}
        assert dict(enumerate(bucket_ids(num_patches))) == expected, num_patches


def test_a_side_longer_than_the_table_repeats_buckets() -> None:
    ids = bucket_ids(2263)
    assert len(ids) == 2263
    assert ids[0] == 0
    assert ids[-1] == 69
