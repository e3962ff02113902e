"""What several tests of training stand on."""

from collections.abc import Iterator

import pytest
import torch

from minicpmv.recipes.loader import load_stage
from minicpmv.training.recipe import TrainingRecipe
from tests.invariants.training_runs import STAGE


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe() -> TrainingRecipe:
    return load_stage(str(STAGE))
