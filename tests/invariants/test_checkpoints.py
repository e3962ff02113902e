"""What is saved is what is loaded, by every route; what does not fit is refused with every name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.errors import CheckpointError
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from .samples import MIXED, collate, lively_model


@pytest.fixture(scope="module")
def model() -> MiniCPMVForConditionalGeneration:
    return lively_model()


@torch.no_grad()
def logits(model: MiniCPMVForConditionalGeneration) -> torch.Tensor:
    """Of the real tokens of a mixed batch."""
    inputs = collate(*MIXED)
    out: torch.Tensor = model(**inputs).logits[inputs["attention_mask"].bool()]
    return out


@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_saved_and_loaded_gives_the_same_logits_to_the_bit(
    model: MiniCPMVForConditionalGeneration, tmp_path: Path, shard: str
) -> None:
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "200KB")
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_a_folder_has_the_names_that_official_code_and_its_peers_read(
    model: MiniCPMVForConditionalGeneration, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["MiniCPMV"]
    assert config["model_type"] == "minicpmv"
    assert config["torch_dtype"] == "float32"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in model.state_dict().values())


def test_the_older_release_with_a_llama_inside_is_saved_and_loaded(tmp_path: Path) -> None:
    config = MiniCPMVConfig.preset("4.0")
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.vocab_size = 128, 64, 2, 640
    text.num_attention_heads, text.num_key_value_heads = 2, 1
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = 32, 48, 2, 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MiniCPMVForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path)
    assert type(again.llm).__name__ == "LlamaForCausalLM"
    assert again.config.text_config.rope_parameters == text.rope_parameters
    assert torch.equal(logits(again), logits(model))


def test_the_type_of_the_file_is_kept_with_dtype_auto(model: MiniCPMVForConditionalGeneration, tmp_path: Path) -> None:
    lively_model().to(torch.bfloat16).save_pretrained(tmp_path)
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}


def test_bfloat16_stays_close_to_float32(model: MiniCPMVForConditionalGeneration) -> None:
    """Worst measured over 20 models 1 % of the spread of the logits (bfloat16 keeps 8 bits); 3 % is allowed."""
    exact, rounded = logits(model), logits(lively_model().to(torch.bfloat16)).float()
    assert (exact - rounded).square().mean().sqrt() < 0.03 * exact.std()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_path_can_be_chosen_when_loading(
    model: MiniCPMVForConditionalGeneration, tmp_path: Path, attention: str
) -> None:
    """Worst difference measured over 20 models 2.9e-6 on logits of size 4; three times that is allowed."""
    model.save_pretrained(tmp_path)
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=attention)
    assert again.config.text_config._attn_implementation == attention
    assert again.vpm.config._attn_implementation == attention
    assert again.config.vision_config._attn_implementation == attention
    torch.testing.assert_close(logits(again), logits(model), atol=9e-6, rtol=0)


def test_the_attention_path_of_every_part_can_be_changed_later() -> None:
    model = lively_model()
    before = logits(model)
    model.set_attn_implementation("eager")
    assert {module.config._attn_implementation for module in (model.llm, model.vpm)} == {"eager"}
    torch.testing.assert_close(logits(model), before, atol=9e-6, rtol=0)


MISSING = ["llm.model.layers.1.mlp.up_proj.weight", "resampler.query"]
EXTRA = ["llm.model.layers.9.mlp.up_proj.weight", "vpm.head.weight"]
MISSHAPED = {"vpm.post_layernorm.bias": (7,), "resampler.proj": (128, 64)}


@pytest.fixture
def spoilt(model: MiniCPMVForConditionalGeneration, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in MISSING:
        del weights[name]
    weights |= {name: torch.zeros(3) for name in EXTRA}
    weights |= {name: torch.zeros(shape) for name, shape in MISSHAPED.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_that_does_not_fit_is_refused_with_every_name(spoilt: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        MiniCPMVForConditionalGeneration.from_pretrained(spoilt)
    message = str(caught.value)
    for name in [*MISSING, *EXTRA, *MISSHAPED]:
        assert name in message
    assert "vpm.post_layernorm.bias is (7,), expected (32,)" in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore")
def test_the_lists_of_what_does_not_fit_can_be_asked_for(spoilt: Path) -> None:
    _, report = MiniCPMVForConditionalGeneration.from_pretrained(
        spoilt, output_loading_info=True, ignore_mismatched_sizes=True
    )
    assert set(report["missing_keys"]) >= set(MISSING)
    assert set(report["unexpected_keys"]) == set(EXTRA)


def test_gradient_checkpointing_of_the_whole_model_gives_the_same_gradients() -> None:
    """The same operations run twice, so on the CPU the gradients agree to the bit."""
    inputs = collate(*MIXED)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    gradients = []
    for checkpointing in (False, True):
        model = lively_model().train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, plain in gradients[0].items():
        assert plain is not None, name
        assert torch.equal(plain, gradients[1][name]), name


def test_the_loss_of_a_batch_counts_each_token_once() -> None:
    """With padding, the mean over a mixed batch is the token-weighted mean of its samples; worst measured 1e-7."""
    model, total, count = lively_model(), 0.0, 0
    for sample in MIXED:
        inputs = collate(sample)
        with torch.no_grad():
            loss = model(**inputs, labels=inputs["input_ids"]).loss.item()
        total, count = total + loss * (len(sample.ids) - 1), count + len(sample.ids) - 1
    inputs = collate(*MIXED)
    labels = inputs["input_ids"].clone()
    for row, sample in enumerate(MIXED):
        labels[row, : labels.shape[1] - len(sample.ids) + 1] = -100  # the first token of a sample predicts nothing
    with torch.no_grad():
        assert model(**inputs, labels=labels).loss.item() == pytest.approx(total / count, rel=3e-7)
