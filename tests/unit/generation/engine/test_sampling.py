"""The next token: what is drawn how often, what penalties and limits do."""

from collections import Counter

import pytest
import torch

from minicpmv.errors import OptionError
from minicpmv.generation.engine.sampling import SamplingParams, choose

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -50.0])


def drawn(params: SamplingParams, number: int = 4000) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(choose(LOGITS.clone(), params, [], generator).token for _ in range(number))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    counts = drawn(SamplingParams(temperature=temperature))
    wanted = torch.softmax(LOGITS / temperature, -1)
    for token, probability in enumerate(wanted.tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        (SamplingParams(temperature=1, top_k=2), {0, 1}),
        (SamplingParams(temperature=1, top_k=1), {0}),
        (SamplingParams(temperature=1, top_p=0.6), {0}),
        (SamplingParams(temperature=1, top_p=0.7), {0, 1}),
        (SamplingParams(temperature=1, top_p=0.9), {0, 1, 2}),
        (SamplingParams(temperature=1, min_p=0.3), {0, 1}),
        (SamplingParams(temperature=1, top_k=3, top_p=0.99), {0, 1, 2}),
    ],
)
def test_only_probable_enough_tokens_are_drawn(params: SamplingParams, tokens: set[int]) -> None:
    assert set(drawn(params, 400)) == tokens


def test_the_most_probable_token_is_the_default_and_says_how_probable_it_was() -> None:
    choice = choose(LOGITS.clone(), SamplingParams(logprobs=2), [], None)
    logprobs = torch.log_softmax(LOGITS, -1)
    assert choice.token == 0
    assert choice.logprob == pytest.approx(float(logprobs[0]))
    assert [token for token, _ in choice.top] == [0, 1]
    assert choose(LOGITS.clone(), SamplingParams(logprobs=0), [], None).top == ()
    assert choose(LOGITS.clone(), SamplingParams(), [], None).logprob is None


def test_penalties_count_what_the_answer_holds() -> None:
    assert choose(LOGITS.clone(), SamplingParams(repetition_penalty=3.0), [0], None).token == 1
    assert choose(LOGITS.clone(), SamplingParams(presence_penalty=1.5), [0], None).token == 1
    assert choose(LOGITS.clone(), SamplingParams(frequency_penalty=0.6), [0], None).token == 0
    assert choose(LOGITS.clone(), SamplingParams(frequency_penalty=0.6), [0, 0], None).token == 1
    # A token with a negative logit becomes less probable too.
    negative = torch.tensor([-1.0, -1.1])
    assert choose(negative, SamplingParams(repetition_penalty=2.0), [0], None).token == 1


def test_only_what_is_allowed_comes_and_a_shorter_list_allows_nothing_behind_it() -> None:
    allowed = torch.tensor([False, False, True, True])
    assert choose(LOGITS.clone(), SamplingParams(), [], None, allowed=allowed).token == 2
    rising = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])
    assert choose(rising, SamplingParams(), [], None, allowed=allowed).token == 3


def test_a_seed_repeats_the_draw_and_no_seed_does_not() -> None:
    params = SamplingParams(temperature=1, seed=3)
    first, second = params.generator(), params.generator()
    draws = [[choose(LOGITS.clone(), params, [], one).token for _ in range(50)] for one in (first, second)]
    assert draws[0] == draws[1]
    free = SamplingParams(temperature=1)
    draws = [[choose(LOGITS.clone(), free, [], one).token for _ in range(50)] for one in (free.generator(),) * 2]
    assert draws[0] != draws[1]
    assert SamplingParams().generator() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"presence_penalty": 3},
        {"logprobs": 21},
    ],
)
def test_what_makes_no_sense_is_refused_with_the_range(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-9, 1e-3])
@pytest.mark.parametrize("top_p", [1.0, 1e-300, 1e-12])
def test_values_too_small_for_arithmetic_take_the_best(temperature: float, top_p: float) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, seed=1)
    assert choose(LOGITS.clone(), params, [], params.generator()).token == int(LOGITS.argmax())
    barely = SamplingParams(temperature=100.0, top_p=top_p if top_p < 1 else 1e-300, seed=1)
    assert choose(LOGITS.clone(), barely, [], barely.generator()).token == int(LOGITS.argmax())
