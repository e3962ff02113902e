"""Dense labels: what is known is learned, what is not known is left alone."""

import numpy as np
import pytest
import torch

from minicpmv.data.worlds.scenes import THING_TASKS, render_scene
from minicpmv.data.worlds.shapes import COLOURS
from minicpmv.training.towers.patch_reading import (
    FEW_LABELS,
    UNKNOWN,
    PatchLabels,
    PatchReader,
    label_tensors,
    patch_reading_loss,
)


@pytest.mark.parametrize("task", [task for task in THING_TASKS if task != "digit"])
def test_a_patch_labelled_with_a_colour_shows_that_colour(task: str) -> None:
    """The oracle looks at pixels: one of the patch is within the colour's jitter and the grain of the picture."""
    for seed in range(10):
        scene = render_scene(np.random.default_rng(seed), task=task)
        patches = scene.image.reshape(8, 14, 8, 14, 3).transpose(0, 2, 1, 3, 4).reshape(64, 196, 3).astype(int)
        for patch, (colour, kind) in zip(patches, scene.targets, strict=True):
            assert (colour > 0) == (kind > 0)
            if colour:
                named = np.array(list(COLOURS.values())[colour - 1])
                assert np.abs(patch - named).max(-1).min() <= 14 + 45
        assert (scene.targets > 0).any()


def test_unknown_labels_do_not_move_the_heads_that_they_would_teach() -> None:
    reader = PatchReader(8)
    labels = [PatchLabels.of_text(np.array([[5, 0, 7]] * 4))]
    batch = label_tensors(labels, np.random.default_rng(0))
    loss, numbers = patch_reading_loss(reader, torch.randn(4, 8), batch)
    loss.backward()
    assert reader.letters.weight.grad is not None
    assert reader.things.weight.grad is None
    assert set(numbers) == {"patch_loss", "letters"}


def test_right_labels_cost_less_than_wrong_ones() -> None:
    reader = PatchReader(4)
    features = torch.eye(4)
    things = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    batch = label_tensors([PatchLabels.of_things(things)], np.random.default_rng(0))
    with torch.no_grad():
        for row, (colour, kind) in enumerate(things):
            reader.things.weight[colour, row] = reader.things.weight[10 + kind, row] = 20.0
    loss, numbers = patch_reading_loss(reader, features, batch)
    assert loss.item() < 0.001
    assert numbers["colours"] == numbers["kinds"] == 1.0
    wrong, _ = patch_reading_loss(reader, features.flip(0), batch)
    assert wrong.item() > 0.2  # four labels count a sixteenth of a full batch, things 0.15


def test_most_blanks_are_left_out() -> None:
    batch = label_tensors([PatchLabels.of_text(np.zeros((1000, 3), np.int64))], np.random.default_rng(0))
    assert 0.05 < (batch["letter_targets"] != UNKNOWN).float().mean().item() < 0.2


def test_a_few_labels_weigh_less_than_many() -> None:
    torch.manual_seed(0)
    reader = PatchReader(8)
    features = torch.randn(FEW_LABELS, 8)
    things = np.array([[1, 2]] * FEW_LABELS)

    def loss_of(known: int) -> float:
        rows = np.where(np.arange(FEW_LABELS)[:, None] < known, things, UNKNOWN)
        batch = {"letter_targets": torch.full((FEW_LABELS, 3), UNKNOWN), "thing_targets": torch.from_numpy(rows)}
        return patch_reading_loss(reader, features[:1].expand(FEW_LABELS, 8), batch)[0].item()

    assert loss_of(FEW_LABELS // 4) == pytest.approx(loss_of(FEW_LABELS) / 4, rel=1e-5)
