from types import SimpleNamespace

import pytest

from minicpmv.errors import OptionError
from minicpmv.generation.options import GenerationOptions

CHECKPOINT = SimpleNamespace(temperature=0.6, top_p=0.95, top_k=20, do_sample=True)


def test_without_options_the_most_probable_answer_is_asked_for_whatever_the_checkpoint_says() -> None:
    arguments = GenerationOptions().resolve(CHECKPOINT)
    assert arguments["do_sample"] is False
    assert (arguments["temperature"], arguments["top_p"], arguments["top_k"]) == (1.0, 1.0, 50)


def test_one_sampling_option_turns_sampling_on_and_the_checkpoint_fills_the_rest() -> None:
    arguments = GenerationOptions(temperature=1.3).resolve(CHECKPOINT)
    assert arguments["do_sample"] is True
    assert (arguments["temperature"], arguments["top_p"], arguments["top_k"]) == (1.3, 0.95, 20)


def test_temperature_zero_means_no_sampling() -> None:
    assert GenerationOptions(temperature=0, top_p=0.5, do_sample=True).samples is False


def test_a_seed_alone_asks_for_sampling() -> None:
    assert GenerationOptions(seed=3).samples
    assert not GenerationOptions(seed=3, do_sample=False).samples


def test_top_k_zero_is_kept() -> None:
    assert GenerationOptions(top_k=0).resolve(CHECKPOINT)["top_k"] == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens is 5"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(options: dict[str, float], named: str) -> None:
    with pytest.raises(OptionError, match=named) as caught:
        GenerationOptions(**options)  # type: ignore[arg-type]
    assert caught.value.remedy
