"""The resampler against numbers recorded from the official remote code (fp32, CPU).

Worst difference measured over all cases: 4e-5 on sums, 5e-6 on elements; the recorded values have five decimals.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from minicpmv.model.positions import sinusoid_2d, time_codes
from minicpmv.model.resampler import Resampler

from .synthetic_weights import fill

Case = tuple[list[tuple[int, int]], list[int], list[int], float, float, list[tuple[float, float, float]]]
A = (0.26545, -0.09045, -0.05155)
CASES: dict[str, Case] = {
    "A": ([(3, 4)], [0], [-1], 50.66906, 1663.97372, [A]),
    "B": ([(3, 4), (2, 2)], [0, 1], [-1, -1], 86.55094, 3330.72786, [A, (0.39618, 0.61077, 0.40869)]),
    "D": ([(2, 3)] * 3, [0, 0, 0], [0, 1, 2], 75.72694, 1605.36308, [(-0.29314, 0.30526, -1.38281)]),
    "F": (
        [(3, 4), (2, 3), (2, 3)],
        [0, 1, 1],
        [-1, 5, 6],
        107.89439,
        3244.13687,
        [A, (-0.77790, 0.89343, -1.75710)],
    ),
    "I": ([(2, 3)] * 2, [0, 0], [-1, -1], 35.74354, 1652.34420, [(-0.13893, 0.23239, -0.50454)]),
}


@pytest.fixture(scope="module")
def resampler() -> Resampler:
    module = Resampler(num_queries=8, width=256, vision_width=48)
    fill(module, vision=False)
    return module


def features(shapes: Sequence[tuple[int, int]]) -> torch.Tensor:
    units = [
        np.random.RandomState(100 + i).standard_normal((rows * columns, 48)) for i, (rows, columns) in enumerate(shapes)
    ]
    return torch.from_numpy(np.concatenate(units).astype(np.float32))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_recorded_outputs_are_reproduced(resampler: Resampler, name: str, implementation: str) -> None:
    shapes, packs, times, total, absolute, elements = CASES[name]
    out = resampler(features(shapes), shapes, packs, torch.tensor(times), implementation)
    assert out.shape == (len(elements), 8, 256)
    assert out.sum().item() == pytest.approx(total, abs=2e-4)
    assert out.abs().sum().item() == pytest.approx(absolute, abs=2e-3)
    for unit, (first, second, last) in zip(out, elements, strict=True):
        flat = unit.flatten()
        assert [flat[0].item(), flat[1].item(), flat[-1].item()] == pytest.approx([first, second, last], abs=2e-5)


@torch.no_grad()
def test_frames_may_come_in_any_order_because_time_is_carried_by_ids(resampler: Resampler) -> None:
    shapes = [(2, 3)] * 3
    frames = features(shapes).unflatten(0, (3, 6))
    straight = resampler(frames.flatten(0, 1), shapes, [0, 0, 0], torch.tensor([0, 1, 2]))
    shuffled = resampler(frames[[2, 0, 1]].flatten(0, 1), shapes, [0, 0, 0], torch.tensor([2, 0, 1]))
    assert torch.allclose(straight, shuffled, atol=1e-5)  # worst measured 2e-6


def test_the_place_table_has_the_recorded_values() -> None:
    row = sinusoid_2d(4, 6, 4096)[3 * 6 + 5]
    channels = [0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 3072, 3073, 4095]
    recorded = [-0.9589242935, -0.9706588984, 0.0005045176, 0.2836621702, 0.2404605597, 0.9999998808, 0.1411200017]
    recorded += [0.1676594466, 0.0003027105, -0.9899924994, -0.9858449697, 0.9999999404]
    assert row[channels].tolist() == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize(
    ("time_id", "recorded"),
    [
        (7, [0.6569865942, 0.6329858303, 0.6084737182, 0.0007031551, 0.7539022565, 0.7741633654, 0.9999997616]),
        (71999, [-0.0204335470, -0.4666359127, 0.6299128532, 0.8129312396, 0.9997912049, -0.8844494820, 0.5823597312]),
    ],
)
def test_the_time_code_has_the_recorded_values_without_a_table(time_id: int, recorded: list[float]) -> None:
    code = time_codes(torch.tensor([time_id]), 4096)[0]
    assert code[[0, 1, 2, 2047, 2048, 2049, 4095]].tolist() == pytest.approx(recorded, abs=1e-5)


def test_no_time_is_a_zero_vector() -> None:
    assert torch.equal(time_codes(torch.tensor([-1]), 64), torch.zeros(1, 64))
