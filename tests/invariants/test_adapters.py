"""PEFT adapters on all three parts: they attach by the documented patterns, learn alone, and merge without a trace.

The patterns are the ones to copy. The resampler has two linear layers, reached by name, and two bare matrices, reached
through `target_parameters`; PEFT wraps the module that holds such a matrix, and `merge_and_unload` then forgets
adapters inside that module, so one configuration reaches either the linear layers of a module or its matrix. To train
all of the resampler, `modules_to_save=["resampler"]` is the pattern: it is one layer, and small.
"""

from pathlib import Path

import pytest
import torch

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from .samples import MIXED, collate, lively_model

peft = pytest.importorskip("peft")

LLM = r"llm\.model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
VISION = r"vpm\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
LINEAR = r"resampler\.(kv_proj|attn\.out_proj)"
CHOICES = {
    "its linear layers": {"target_modules": f"({LLM}|{VISION}|{LINEAR})"},
    "its input projections": {
        "target_modules": rf"({LLM}|{VISION}|resampler\.kv_proj)",
        "target_parameters": ["resampler.attn.in_proj_weight"],
    },
    "its output projection": {"target_modules": f"({LLM}|{VISION})", "target_parameters": ["resampler.proj"]},
    "the whole of it": {"target_modules": f"({LLM}|{VISION})", "modules_to_save": ["resampler"]},
}
"""By what they reach of the resampler; language model and tower are the same in all."""

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # PEFT calls names that are renamed


def adapted(choice: str) -> "peft.PeftModel":
    """A lively model with adapters that already do something."""
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **CHOICES[choice])
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return peft.get_peft_model(lively_model(), config).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of the real tokens of a mixed batch."""
    inputs = collate(*MIXED)
    out: torch.Tensor = model(**inputs).logits[inputs["attention_mask"].bool()]
    return out


@pytest.mark.parametrize("choice", CHOICES)
def test_one_step_moves_every_adapter_and_nothing_else(choice: str) -> None:
    model = adapted(choice).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    inputs = collate(*MIXED)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    for part in ("llm", "vpm", "resampler"):
        assert any(part in name for name in moved), part


@pytest.mark.parametrize("choice", CHOICES)
def test_adapters_are_saved_and_loaded_onto_a_fresh_model(choice: str, tmp_path: Path) -> None:
    model = adapted(choice)
    if choice == "the whole of it":
        model.base_model.model.resampler.modules_to_save["default"].query.data += 1
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists(), "only the adapter is written"
    again = peft.PeftModel.from_pretrained(lively_model(), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert not torch.allclose(logits(model), logits(lively_model()), atol=0.1)


@pytest.mark.parametrize("choice", CHOICES)
def test_merging_gives_the_same_logits_and_the_plain_tensors_of_the_family(choice: str) -> None:
    """Worst difference measured over 5 models 5.6e-6 on logits of size 4; three times that is allowed."""
    model = adapted(choice)
    expected = logits(model)
    merged = model.merge_and_unload()
    assert isinstance(merged, MiniCPMVForConditionalGeneration)
    assert set(merged.state_dict()) == set(lively_model().state_dict())
    torch.testing.assert_close(logits(merged), expected, atol=1.7e-5, rtol=0)


def test_generating_with_adapters_equals_generating_merged() -> None:
    model, inputs = adapted("its linear layers"), collate(*MIXED)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    before = model.generate(**inputs, **options)
    assert torch.equal(before, model.merge_and_unload().generate(**inputs, **options))


def test_gradient_checkpointing_works_with_frozen_weights_underneath() -> None:
    """Adapters deep in the tower must still receive gradients."""
    model = adapted("its linear layers").train()
    inner = model.base_model.model
    inner.enable_input_require_grads()
    (getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable)()
    inputs = collate(*MIXED)
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []
