"""What a step of each stage of the towers costs, against what its modules multiply."""

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from minicpmv.recipes.loader import load_towers
from minicpmv.training.towers.costs import costs_of_stages
from minicpmv.training.towers.run import build_learner, build_objectives, prepare_tokenizer

WORST = 0.09
"""Three times the most that is missing: 3 % of `see`, whose heads are not counted; language stages are exact."""


def test_operations_are_about_those_that_are_carried_out(tmp_path: Path) -> None:
    recipe = load_towers("nano_towers", ["tokenizer.texts=500"] + [f"stages.{index}.batch=4" for index in range(5)])
    learner = build_learner(recipe)
    costs = costs_of_stages(recipe, learner)
    objectives = build_objectives(recipe, learner, prepare_tokenizer(recipe, tmp_path))
    for stage in recipe.stages:
        for name, part in learner.parts.items():
            part.requires_grad_(name in stage.rates)
        batch = objectives[stage.name].batch(0)
        with FlopCounterMode(display=False) as counter:
            loss, _ = objectives[stage.name].loss(learner, batch)
            loss.backward()
        counted = costs[stage.name]
        assert (counted.patches, counted.samples) == (len(batch.get("pixel_values", ())), 4)
        assert counted.tokens == int(batch["attention_mask"].sum() if "input_ids" in batch else 0)
        assert counted.flops == pytest.approx(counter.get_total_flops(), rel=WORST)
