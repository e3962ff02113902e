"""transformers' own ways of generating, with pictures and packed clips in the batch: each equals the plain one.

The model is random but lively: every token and pixel matters, so that a picture in the wrong row or step changes the
answer. Answers are compared token by token; where probabilities are compared, the worst difference measured in float32
is stated.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CompileConfig, DynamicCache
from transformers.generation.streamers import BaseStreamer

from minicpmv.errors import OptionError, ShapeContractError
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from .samples import BOTH, CLIPS, MIXED, PICTURE, TEXT, Sample, collate, lively_model, make_sample

NEW_TOKENS = 8
VISUAL = [PICTURE, CLIPS, BOTH]


@pytest.fixture(scope="module")
def model() -> MiniCPMVForConditionalGeneration:
    return lively_model()


def answer(model: MiniCPMVForConditionalGeneration, inputs: dict[str, Tensor], **options: Any) -> list[list[int]]:
    """New tokens of each row."""
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, **options}
    out = model.generate(**inputs, **settings)
    sequences = out if isinstance(out, Tensor) else out.sequences
    return [row[inputs["input_ids"].shape[1] :].tolist() for row in sequences]


def one_by_one(model: MiniCPMVForConditionalGeneration, **options: Any) -> list[list[int]]:
    return [tokens for sample in MIXED for tokens in answer(model, collate(sample), **options)]


def test_the_random_model_answers_differently_to_other_pictures(model: MiniCPMVForConditionalGeneration) -> None:
    """Without this, every test below could pass with the pictures ignored."""
    for sample in VISUAL:
        inputs = collate(sample)
        other = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
        assert answer(model, inputs) != answer(model, other)


def test_a_batch_of_unlike_samples_answers_as_each_does_alone(model: MiniCPMVForConditionalGeneration) -> None:
    assert answer(model, collate(*MIXED)) == one_by_one(model)


def test_the_order_of_the_batch_does_not_matter(model: MiniCPMVForConditionalGeneration) -> None:
    assert answer(model, collate(*MIXED[::-1])) == one_by_one(model)[::-1]


@torch.no_grad()
def test_logits_of_a_batch_are_those_of_each_sample_alone(model: MiniCPMVForConditionalGeneration) -> None:
    """Worst measured over 20 models 6.3e-6 on logits of size 4; three times that is allowed."""
    together = model(**collate(*MIXED)).logits
    for row, sample in enumerate(MIXED):
        alone = model(**collate(sample)).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=2e-5, rtol=0)


def test_decoding_with_a_cache_equals_reading_everything_again(model: MiniCPMVForConditionalGeneration) -> None:
    inputs = collate(*MIXED)
    assert answer(model, inputs, use_cache=False) == answer(model, inputs)


def test_a_static_cache_equals_a_growing_one(model: MiniCPMVForConditionalGeneration) -> None:
    inputs = collate(*MIXED)
    assert answer(model, inputs, cache_implementation="static", disable_compile=True) == answer(model, inputs)


def test_reading_a_prompt_with_pictures_in_chunks_is_refused(model: MiniCPMVForConditionalGeneration) -> None:
    """Beams are encoded before the prompt is read, which transformers' own check does not see."""
    for options in ({}, {"num_beams": 2}):
        with pytest.raises((ValueError, OptionError), match="prefill_chunk_size"):
            answer(model, collate(PICTURE), prefill_chunk_size=48, **options)


def test_reading_a_text_in_chunks_equals_reading_it_at_once(model: MiniCPMVForConditionalGeneration) -> None:
    inputs = collate(TEXT)
    assert answer(model, inputs, prefill_chunk_size=8) == answer(model, inputs)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_pictures_without_slots_are_refused_and_not_ignored(
    model: MiniCPMVForConditionalGeneration, options: dict[str, Any]
) -> None:
    inputs = collate(PICTURE)
    del inputs["visual_slots"]
    with pytest.raises(ShapeContractError, match="0 visual slots but the pictures and clips give 3 packs"):
        answer(model, inputs, **options)


@pytest.mark.parametrize("sample", VISUAL)
def test_a_small_patch_budget_changes_nothing(model: MiniCPMVForConditionalGeneration, sample: Sample) -> None:
    inputs = collate(sample)
    expected = answer(model, inputs)
    model.max_patches_per_chunk = 1
    try:
        assert answer(model, inputs) == expected
    finally:
        model.max_patches_per_chunk = 16384


def log_probability(model: MiniCPMVForConditionalGeneration, inputs: dict[str, Tensor], row: int, new: Tensor) -> float:
    """Of the answer `new` to sample `row`, read in one pass with its pictures."""
    alone = collate(MIXED[row])
    ids = torch.cat([alone["input_ids"], new[None]], dim=1)
    with torch.no_grad():
        logits = model(**{**alone, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
    chosen = logits[-len(new) - 1 : -1].log_softmax(-1)
    return float(chosen[torch.arange(len(new)), new].sum())


def test_beams_keep_their_own_pictures(model: MiniCPMVForConditionalGeneration) -> None:
    """The score of each beam is that of its text read in one pass; worst difference measured 6e-6."""
    inputs = collate(*MIXED)
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0}
    out = model.generate(
        **inputs,
        **options,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for index, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores, strict=True)):
        new = sequence[inputs["input_ids"].shape[1] :]
        assert score.item() == pytest.approx(log_probability(model, inputs, index // 2, new), abs=2e-5)
    new_tokens = [row[inputs["input_ids"].shape[1] :].tolist() for row in out.sequences]
    assert new_tokens == one_by_one(model, **options)


def test_every_sampled_answer_of_a_prompt_sees_its_picture(model: MiniCPMVForConditionalGeneration) -> None:
    """With a single candidate token sampling is greedy, whatever the draw."""
    copies = answer(model, collate(*MIXED), do_sample=True, top_k=1, num_return_sequences=3)
    assert copies == [tokens for tokens in one_by_one(model) for _ in range(3)]


def test_sampling_repeats_with_its_seed_and_varies_without(model: MiniCPMVForConditionalGeneration) -> None:
    inputs = collate(*MIXED)
    draws = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            draws.append(answer(model, inputs, do_sample=True, temperature=2.0, num_return_sequences=2))
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("sample", VISUAL)
def test_an_assistant_changes_the_speed_and_not_the_answer(
    model: MiniCPMVForConditionalGeneration, sample: Sample
) -> None:
    inputs = collate(sample)
    expected = answer(model, inputs)
    assert answer(model, inputs, assistant_model=lively_model(seed=1)) == expected
    assert answer(model, inputs, assistant_model=lively_model(seed=0)) == expected, "an assistant that is always right"


@pytest.mark.parametrize("sample", VISUAL)
def test_looking_up_the_prompt_changes_the_speed_and_not_the_answer(
    model: MiniCPMVForConditionalGeneration, sample: Sample
) -> None:
    inputs = collate(sample)
    assert answer(model, inputs, prompt_lookup_num_tokens=3) == answer(model, inputs)


class Collector(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_a_streamer_receives_the_answer_token_by_token(model: MiniCPMVForConditionalGeneration) -> None:
    inputs, streamer = collate(BOTH), Collector()
    expected = answer(model, inputs, streamer=streamer)[0]
    assert streamer.tokens[-NEW_TOKENS:] == expected
    assert streamer.ended


def joined(*samples: Sample) -> Sample:
    """Turns of one conversation as one prompt."""
    starts, packs, offset = [], [], 0
    for sample in samples:
        packs += [len(starts) + pack for pack in sample.packs]
        starts += [start + offset for start in sample.starts]
        offset += len(sample.ids)
    return Sample(
        torch.cat([sample.ids for sample in samples]),
        starts,
        torch.cat([sample.pixels for sample in samples]),
        [shape for sample in samples for shape in sample.shapes],
        packs,
        [time for sample in samples for time in sample.times],
    )


@pytest.mark.parametrize("second", [CLIPS, TEXT], ids=["a new clip", "only text"])
def test_a_second_turn_on_the_kept_cache_equals_reading_the_whole_conversation(
    model: MiniCPMVForConditionalGeneration, second: Sample
) -> None:
    """Pictures of the first turn stay in the cache; those of the second are encoded and placed."""
    cache = DynamicCache(config=model.config.text_config)
    first = collate(PICTURE)
    said = answer(model, first, past_key_values=cache)[0]
    reply = make_sample(0, len(said))
    reply.ids.copy_(torch.tensor(said))
    whole = collate(joined(PICTURE, reply, second))
    assert cache.get_seq_length() == len(PICTURE.ids) + len(said) - 1, "the last token was never read"
    assert answer(model, whole, past_key_values=cache) == answer(model, whole)


def test_a_second_turn_may_be_given_alone_with_the_mask_of_the_whole(model: MiniCPMVForConditionalGeneration) -> None:
    """Then its slots count from its own first token."""
    cache = DynamicCache(config=model.config.text_config)
    first = collate(PICTURE)
    said = answer(model, first, past_key_values=cache)[0]
    reply = make_sample(0, len(said))
    reply.ids.copy_(torch.tensor(said))
    whole = collate(joined(PICTURE, reply, CLIPS))
    last = make_sample(0, 1)
    last.ids.copy_(torch.tensor(said[-1:]))
    new = {**collate(joined(last, CLIPS)), "attention_mask": whole["attention_mask"]}
    assert answer(model, new, past_key_values=cache) == answer(model, whole)


def test_a_second_turn_encodes_no_picture_of_the_first(model: MiniCPMVForConditionalGeneration) -> None:
    cache = DynamicCache(config=model.config.text_config)
    said = answer(model, collate(PICTURE), past_key_values=cache)[0]
    reply = make_sample(0, len(said))
    seen = []
    handle = model.vpm.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        answer(model, collate(joined(PICTURE, reply, BOTH)), past_key_values=cache)
    finally:
        handle.remove()
    assert sum(seen) == len(BOTH.pixels)


def compiled_answer(model: MiniCPMVForConditionalGeneration, backend: str) -> list[list[int]]:
    config = CompileConfig(fullgraph=True, backend=backend, mode=None, dynamic=None)
    config._compile_all_devices = True  # transformers compiles by itself on accelerators only
    return answer(model, collate(*MIXED), cache_implementation="static", compile_config=config)


def test_the_decoding_step_is_one_graph_without_breaks(model: MiniCPMVForConditionalGeneration) -> None:
    torch._dynamo.reset()
    assert compiled_answer(model, "eager") == one_by_one(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own modules use what torch has deprecated
def test_the_compiled_decoding_step_gives_the_same_answer(model: MiniCPMVForConditionalGeneration) -> None:
    torch._dynamo.reset()
    assert compiled_answer(model, "inductor") == one_by_one(model)
