from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv.errors import ContextLengthError, MessageError, OptionError
from minicpmv.generation import official_chat
from minicpmv.generation.loading import load
from minicpmv.generation.running import seeded

RED, BLUE = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (60, 40), "blue")
ASK = [{"role": "user", "content": [RED, "What is it?"]}]


@pytest.fixture(scope="module")
def loaded(toy_folder: Path) -> Any:
    return load(toy_folder, device="cpu")


def call(loaded: Any, msgs: Any = ASK, **kwargs: Any) -> Any:
    arguments = {"processor": loaded.processor, "sampling": False, "max_new_tokens": 4, **kwargs}
    return loaded.model.chat(msgs=msgs, tokenizer=None, **arguments)


def prompt_of(loaded: Any, monkeypatch: pytest.MonkeyPatch, msgs: Any, **kwargs: Any) -> tuple[str, Any]:
    """The rendered prompt and the model inputs of a call, caught just before the model runs."""
    seen: dict[str, Any] = {}

    def catch(model: Any, inputs: Any, arguments: Any, **_: Any) -> Any:
        seen.update(inputs=inputs, arguments=arguments)
        raise InterruptedError

    monkeypatch.setattr(official_chat, "complete", catch)
    with pytest.raises(InterruptedError):
        call(loaded, msgs, **kwargs)
    return loaded.processor.tokenizer.decode(seen["inputs"]["input_ids"][0]), seen


def test_one_conversation_gives_a_string_and_a_batch_a_list(loaded: Any) -> None:
    other = [{"role": "user", "content": "Hi!"}]
    single = [call(loaded, msgs) for msgs in (ASK, other)]
    assert all(isinstance(answer, str) for answer in single)
    assert call(loaded, [ASK, other]) == single


def test_msgs_is_left_as_it_was(loaded: Any) -> None:
    msgs = [{"role": "user", "content": [RED, "What is it?"]}]
    before = deepcopy(msgs)
    call(loaded, msgs, system_prompt="Be brief.", image=None)
    assert msgs == before


def test_image_argument_comes_before_the_first_text(loaded: Any) -> None:
    assert call(loaded, [{"role": "user", "content": "What is it?"}], image=RED) == call(loaded)


def test_msgs_may_be_json(loaded: Any) -> None:
    assert call(loaded, '[{"role": "user", "content": "Hi!"}]') == call(loaded, [{"role": "user", "content": "Hi!"}])


def test_a_stream_gives_the_sampled_answer_in_pieces(loaded: Any) -> None:
    with seeded(5):
        whole = call(loaded, sampling=True)
    with seeded(5):
        pieces = call(loaded, sampling=True, stream=True)
        assert isinstance(pieces, Iterator)
        assert "".join(pieces).strip() == whole


def test_a_thinking_answer_begins_with_the_opening_tag(loaded: Any) -> None:
    assert call(loaded, enable_thinking=True).startswith("<think>\n")
    assert next(call(loaded, enable_thinking=True, sampling=True, stream=True)) == "<think>\n"


@pytest.mark.parametrize(
    ("call_options", "expected"),
    [
        ({"sampling": True}, {"temperature": 0.7, "top_p": 0.8, "top_k": 100, "repetition_penalty": 1.03}),
        ({"sampling": True, "enable_thinking": True}, {"temperature": 0.7, "top_p": 1.0, "top_k": 50}),
        ({"sampling": False}, {"num_beams": 3, "repetition_penalty": 1.2, "do_sample": False}),
        ({"sampling": True, "top_p": 0.5}, {"top_p": 0.5}),
        ({"sampling": True, "enable_thinking": True, "top_p": 0.5}, {"top_p": 1.0}),
        ({"sampling": False, "num_beams": 1}, {"num_beams": 1}),
        ({"min_new_tokens": 2}, {"min_new_tokens": 2}),
        ({"max_new_tokens": 2048}, {"max_new_tokens": 2048}),
    ],
)
def test_sampling_values_are_the_released_ones(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, call_options: dict[str, Any], expected: dict[str, Any]
) -> None:
    arguments = prompt_of(loaded, monkeypatch, ASK, **call_options)[1]["arguments"]
    assert {name: arguments[name] for name in expected} == expected


def test_parts_are_joined_by_newlines_under_the_system_prompt(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    msgs = [{"role": "user", "content": [RED, "What is it?", BLUE]}]
    prompt, _ = prompt_of(loaded, monkeypatch, msgs, system_prompt="Be brief.", use_image_id=False)
    unit = f"<image>{'<unk>' * loaded.model.config.query_num}</image>"
    user = f"<|im_start|>user\n{unit}\nWhat is it?\n{unit}<|im_end|>\n"
    assert prompt.startswith(f"<|im_start|>system\nBe brief.<|im_end|>\n{user}<|im_start|>assistant\n")


def test_time_codes_group_frames_into_packs(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    msgs = [{"role": "user", "content": [RED, BLUE, RED, BLUE, "What happens?"]}]
    _, seen = prompt_of(loaded, monkeypatch, msgs, temporal_ids=[[-1], [3, 5, 9]], use_image_id=False, max_slice_nums=1)
    assert seen["inputs"]["item_packs"].tolist() == [0, 1, 1, 1]
    assert seen["inputs"]["item_times"].tolist() == [-1, 3, 5, 9]


def test_time_codes_of_a_batch_are_given_per_conversation(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = [{"role": "user", "content": [RED, BLUE, "What happens?"]}]
    _, seen = prompt_of(
        loaded, monkeypatch, [clip, clip], temporal_ids=[[[1, 2]], [[3], [4]]], use_image_id=False, max_slice_nums=1
    )
    assert seen["inputs"]["item_packs"].tolist() == [0, 0, 1, 2]
    assert seen["inputs"]["item_times"].tolist() == [1, 2, 3, 4]


def test_max_slice_nums_and_image_ids_override_the_checkpoint(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    msgs = [{"role": "user", "content": [Image.new("RGB", (300, 300)), "?"]}]
    sliced, whole = (
        prompt_of(loaded, monkeypatch, msgs, max_slice_nums=most, use_image_id=numbered)
        for most, numbered in ((4, True), (1, False))
    )
    assert len(sliced[1]["inputs"]["item_shapes"]) == 5
    assert "<image_id>0</image_id>" in sliced[0]
    assert len(whole[1]["inputs"]["item_shapes"]) == 1
    assert "<image_id>" not in whole[0]


def test_features_may_be_given_instead_of_pixels(loaded: Any) -> None:
    """The features of the picture itself must lead to the same answer, and others to the same number of slots."""
    inputs = loaded.processor.apply_chat_template(
        ASK, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    keys = ("pixel_values", "item_shapes", "item_packs", "item_times")
    with torch.inference_mode():
        features = loaded.model.get_visual_features(**{key: inputs[key] for key in keys})
    assert call(loaded, vision_hidden_states=[features]) == call(loaded)


@pytest.mark.parametrize(
    ("msgs", "options", "error", "named"),
    [
        ([], {}, MessageError, "empty"),
        ([{"role": "assistant", "content": "Hi"}], {}, MessageError, "first turn"),
        ([{"role": "user", "content": [3.5]}], {}, MessageError, r"content\[0\]"),
        (ASK, {"temporal_ids": [[1, 2]]}, MessageError, "2"),
        (ASK, {"temporal_ids": 7}, MessageError, "temporal_ids"),
        ([ASK, ASK], {"temporal_ids": [[[-1]]]}, MessageError, "1 conversations"),
        ([ASK, ASK], {"image": RED}, MessageError, "batch"),
        (ASK, {"stream": True}, OptionError, "sampling=True"),
        ([ASK, ASK], {"stream": True, "sampling": True}, OptionError, "one conversation"),
        (ASK, {"max_inp_length": 20}, ContextLengthError, "max_inp_length is 20"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    loaded: Any, msgs: Any, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        call(loaded, msgs, **options)


def test_without_a_processor_the_checkpoints_own_is_taken(loaded: Any) -> None:
    assert call(loaded, processor=None) == call(loaded)
