import threading

import pytest
import torch

from minicpmv.errors import ContextLengthError
from minicpmv.generation.running import (
    TokenStream,
    complete,
    context_length,
    count_visual_tokens,
    fit_answer,
    seeded,
    terminator_ids,
)
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": [1], "pad_token_id": 0}
SAMPLED = {**GREEDY, "do_sample": True, "temperature": 3.0, "top_k": 0}
PROMPT = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


@pytest.fixture(scope="module")
def model() -> MiniCPMVForConditionalGeneration:
    with seeded(0):
        return MiniCPMVForConditionalGeneration(MiniCPMVConfig.preset("toy")).eval()


def test_the_stream_gives_the_ids_of_the_foreground_run(model: MiniCPMVForConditionalGeneration) -> None:
    done = complete(model, PROMPT, GREEDY)
    assert list(TokenStream(model, PROMPT, GREEDY)) == done.ids[0]
    assert len(done.ids[0]) == 6
    assert done.first_token_s is not None
    assert 0 < done.first_token_s <= done.seconds


def test_a_seed_repeats_an_answer_and_leaves_the_random_state_alone(model: MiniCPMVForConditionalGeneration) -> None:
    before = torch.get_rng_state()
    first, second = (complete(model, PROMPT, SAMPLED, seed=7).ids for _ in range(2))
    streamed = list(TokenStream(model, PROMPT, SAMPLED, seed=7))
    other = complete(model, PROMPT, SAMPLED, seed=8).ids
    assert first == second == [streamed]
    assert first != other
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_in_the_model_is_raised_where_the_stream_is_read(model: MiniCPMVForConditionalGeneration) -> None:
    stream = TokenStream(model, {"input_ids": torch.tensor([[10**9]])}, GREEDY)
    with pytest.raises(IndexError):
        list(stream)
    assert "minicpmv-generate" not in {thread.name for thread in threading.enumerate() if thread.is_alive()}


def test_leaving_the_loop_stops_the_model(model: MiniCPMVForConditionalGeneration) -> None:
    stream = TokenStream(model, PROMPT, {**GREEDY, "max_new_tokens": 100_000})
    reading = iter(stream)
    assert isinstance(next(reading), int)
    reading.close()  # type: ignore[attr-defined]  # what a `for` loop does when it is left
    assert "minicpmv-generate" not in {thread.name for thread in threading.enumerate() if thread.is_alive()}


def test_beam_search_runs_and_knows_no_first_token(model: MiniCPMVForConditionalGeneration) -> None:
    done = complete(model, PROMPT, {**GREEDY, "num_beams": 3})
    assert done.first_token_s is None
    assert len(done.ids[0]) <= 6


def test_the_repetition_penalty_counts_the_answer_and_not_the_prompt(model: MiniCPMVForConditionalGeneration) -> None:
    """The prompt holds nearly every token, so a penalty that counts it changes the answer (transformers' own does)."""
    ids = torch.arange(10, model.config.text_config.vocab_size)[None]
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    one = {**GREEDY, "max_new_tokens": 1}
    plain = complete(model, prompt, one).ids
    counted = model.generate(**prompt, **one, repetition_penalty=1e6)[:, ids.shape[1] :].tolist()
    assert counted != plain
    assert complete(model, prompt, {**one, "repetition_penalty": 1e6}).ids == plain
    repeated = complete(model, PROMPT, {**GREEDY, "repetition_penalty": 1e6}).ids[0]
    assert len(set(repeated)) == len(repeated)


@pytest.mark.parametrize(("wanted", "given"), [(None, 20), (5, 5), (20, 20)])
def test_an_answer_takes_what_the_context_leaves(wanted: int | None, given: int) -> None:
    assert fit_answer(prompt=80, visual=64, context=100, wanted=wanted, default=2048) == given


@pytest.mark.parametrize(("prompt", "wanted"), [(100, None), (80, 21)])
def test_a_prompt_that_does_not_fit_is_refused_with_the_counts(prompt: int, wanted: int | None) -> None:
    with pytest.raises(ContextLengthError, match=rf"{prompt} tokens, 64 of them.* holds 100"):
        fit_answer(prompt=prompt, visual=64, context=100, wanted=wanted, default=2048)


def test_visual_tokens_are_counted_from_the_slots(model: MiniCPMVForConditionalGeneration) -> None:
    assert count_visual_tokens(model, PROMPT) == 0
    slots = torch.tensor([[0, 1], [0, 70]])
    assert count_visual_tokens(model, {**PROMPT, "visual_slots": slots}) == 2 * model.config.query_num


def test_terminators_are_the_checkpoints_and_those_known_by_name(model: MiniCPMVForConditionalGeneration) -> None:
    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {"<|im_end|>": 12, "a": 3, "<|endoftext|>": 10}

    assert {10, 12} <= set(terminator_ids(model, Tokenizer()))
    assert 3 not in terminator_ids(model, Tokenizer())


def test_the_context_is_the_language_models(model: MiniCPMVForConditionalGeneration) -> None:
    assert context_length(model) == model.config.text_config.max_position_embeddings
