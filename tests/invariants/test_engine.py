"""Whoever else is being served, and however little memory there is, a request gets the answer it gets alone.

The model is random but lively, as in test_generation.py, and what it says is compared token by token with transformers'
own `generate`, in float32.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minicpmv.errors import ContextLengthError, EngineError, QueueFullError
from minicpmv.generation.engine.blocks import block_keys
from minicpmv.generation.engine.loop import Engine, EngineOptions, Handle
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Failed, Finished, RequestOptions, Wrote
from minicpmv.generation.engine.sampling import SamplingParams
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

from .samples import BOTH, CLIPS, MIXED, PICTURE, QUERIES, TEXT, Sample, collate, lively_model, make_sample

NEW = 12
GREEDY = RequestOptions(max_new_tokens=NEW, guard=False)
LONG = make_sample(9, 40, [((4, 4), -1)], 30, [((3, 3), 1), ((3, 3), 2)], [((2, 4), 5)], 60)


class Letters:
    """A tokenizer for made-up ids."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(f"{token} " for token in ids)

    def get_vocab(self) -> dict[str, int]:
        return {}


def make_engine(model: MiniCPMVForConditionalGeneration, **options: Any) -> Engine:
    encoder = SimpleNamespace(knows=lambda name: False)
    processor: Any = SimpleNamespace(tokenizer=Letters(), piece_encoder=lambda: encoder)
    return Engine(model, processor, EngineOptions(**{"kv_tokens": 8192, "most_running": 8, **options}))


def prompt_of(sample: Sample) -> EnginePrompt:
    return EnginePrompt.from_inputs(collate(sample), QUERIES)


def tokens(handle: Handle) -> list[int]:
    return [event.choice.token for event in handle.wait() if isinstance(event, Wrote)]


def usage(events: Sequence[Wrote | Finished]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


@pytest.fixture(scope="module")
def model() -> MiniCPMVForConditionalGeneration:
    model = lively_model()
    model.generation_config.eos_token_id = None  # answers have one length, so that they can be compared
    return model


@pytest.fixture(scope="module")
def alone(model: MiniCPMVForConditionalGeneration) -> dict[int, list[int]]:
    """What `generate` says to each sample by itself."""
    said = {}
    for sample in (*MIXED, LONG):
        inputs = collate(sample)
        out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        said[id(sample)] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return said


@pytest.fixture
def engine(model: MiniCPMVForConditionalGeneration) -> Iterator[Engine]:
    with make_engine(model) as engine:
        yield engine


def assert_nothing_held(engine: Engine) -> None:
    assert engine.scheduler.pool.num_held == 0
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting


@pytest.mark.parametrize("step_tokens", [8, 50, 4096])
@pytest.mark.parametrize("step_patches", [1, 10_000])
def test_many_at_once_answer_as_each_does_alone(
    step_tokens: int, step_patches: int, model: MiniCPMVForConditionalGeneration, alone: dict[int, list[int]]
) -> None:
    """Prompts are read in pieces of 8 tokens, which cut through pictures, or whole."""
    order = [*MIXED, LONG, *MIXED[::-1], LONG]
    with make_engine(model, step_tokens=step_tokens, step_patches=step_patches, feature_bytes=0) as engine:
        handles = [engine.submit(prompt_of(sample), GREEDY) for sample in order]
        assert [tokens(handle) for handle in handles] == [alone[id(sample)] for sample in order]
        assert_nothing_held(engine)


def test_requests_join_while_others_are_answered(engine: Engine, alone: dict[int, list[int]]) -> None:
    longer = RequestOptions(max_new_tokens=60, guard=False)
    first = engine.submit(prompt_of(TEXT), longer)
    events = iter(first)
    next(events)
    others = [engine.submit(prompt_of(sample), GREEDY) for sample in (PICTURE, CLIPS)]
    assert [tokens(other) for other in others] == [alone[id(PICTURE)], alone[id(CLIPS)]]
    rest = [event.choice.token for event in events if isinstance(event, Wrote)]
    assert rest[: NEW - 1] == alone[id(TEXT)][1:]


def test_memory_that_runs_out_is_given_back_and_everything_read_again(
    model: MiniCPMVForConditionalGeneration, alone: dict[int, list[int]]
) -> None:
    """Room for the longest and a little more: the young make room for the old, more than once."""
    order = [LONG, PICTURE, CLIPS, BOTH, TEXT, LONG]
    room = len(LONG.ids) + 32 + 160
    with make_engine(model, kv_tokens=room, step_tokens=64) as engine:
        handles = [engine.submit(prompt_of(sample), GREEDY) for sample in order]
        assert [tokens(handle) for handle in handles] == [alone[id(sample)] for sample in order]
        assert_nothing_held(engine)
    many = RequestOptions(max_new_tokens=100, guard=False)
    with make_engine(model) as roomy:
        wanted = [tokens(roomy.submit(prompt_of(make_sample(seed, 20)), many)) for seed in range(6)]
    with make_engine(model, kv_tokens=320) as engine:
        handles = [engine.submit(prompt_of(make_sample(seed, 20)), many) for seed in range(6)]
        assert [tokens(handle) for handle in handles] == wanted
        assert engine.scheduler.num_preempted > 0
        assert_nothing_held(engine)


def test_what_was_read_before_is_not_read_again_and_other_pictures_are(
    engine: Engine, model: MiniCPMVForConditionalGeneration, alone: dict[int, list[int]]
) -> None:
    first = engine.submit(prompt_of(LONG), GREEDY).wait()
    again = engine.submit(prompt_of(LONG), GREEDY).wait()
    assert [event.choice.token for event in again if isinstance(event, Wrote)] == alone[id(LONG)]
    assert usage(first).usage.cached_tokens == 0
    assert usage(again).usage.cached_tokens == (len(LONG.ids) - 1) // 32 * 32
    packs = engine.counts["packs"]
    other = Sample(LONG.ids, LONG.starts, LONG.pixels.flip(0), LONG.shapes, LONG.packs, LONG.times)
    inputs = collate(other)
    out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    wanted = out[0, inputs["input_ids"].shape[1] :].tolist()
    events = engine.submit(prompt_of(other), GREEDY).wait()
    assert [event.choice.token for event in events if isinstance(event, Wrote)] == wanted != alone[id(LONG)]
    assert usage(events).usage.cached_tokens == 32  # the text before the first picture
    assert engine.counts["packs"] == packs + 3
    later = Sample(LONG.ids, LONG.starts, LONG.pixels, LONG.shapes, LONG.packs, [-1, 1, 2, 7])
    assert usage(engine.submit(prompt_of(later), GREEDY).wait()).usage.cached_tokens < len(LONG.ids) - 90


def test_the_next_turn_of_a_conversation_goes_on_from_the_last(engine: Engine) -> None:
    said = tokens(engine.submit(prompt_of(BOTH), RequestOptions(max_new_tokens=70, guard=False)))
    ids = torch.cat([BOTH.ids, torch.tensor(said), torch.tensor([5, 6, 7])])
    longer = Sample(ids, BOTH.starts, BOTH.pixels, BOTH.shapes, BOTH.packs, BOTH.times)
    turn = engine.submit(prompt_of(longer), GREEDY).wait()
    assert usage(turn).usage.cached_tokens == (len(BOTH.ids) + 70 - 1) // 32 * 32
    with make_engine(engine.model) as fresh:
        wanted = tokens(fresh.submit(prompt_of(longer), GREEDY))
    assert [event.choice.token for event in turn if isinstance(event, Wrote)] == wanted


def test_several_answers_to_one_prompt_read_it_once(engine: Engine) -> None:
    options = [
        RequestOptions(max_new_tokens=NEW, guard=False, sampling=SamplingParams(temperature=1.5, seed=seed))
        for seed in range(3)
    ]
    first = engine.submit(prompt_of(LONG), options[0])
    rest = [engine.submit(prompt_of(LONG), one, waits_for=first.request) for one in options[1:]]
    ended = [handle.wait() for handle in (first, *rest)]
    assert [usage(events).usage.cached_tokens > 200 for events in ended] == [False, True, True]
    answers = {tuple(event.choice.token for event in events if isinstance(event, Wrote)) for events in ended}
    assert len(answers) == 3


def test_what_is_drawn_with_a_seed_does_not_depend_on_the_company(
    model: MiniCPMVForConditionalGeneration,
) -> None:
    drawn = RequestOptions(
        max_new_tokens=NEW, guard=False, sampling=SamplingParams(temperature=2.0, top_k=50, top_p=0.95, seed=7)
    )
    with make_engine(model) as engine:
        single = tokens(engine.submit(prompt_of(PICTURE), drawn))
        others = [engine.submit(prompt_of(sample), drawn) for sample in MIXED]
        assert tokens(others[0]) == single
        assert len({tuple(tokens(other)) for other in others[1:]}) == 3


def test_a_cancelled_or_late_request_ends_and_leaves_nothing(engine: Engine) -> None:
    endless = RequestOptions(max_new_tokens=400, guard=False)
    handle = engine.submit(prompt_of(PICTURE), endless)
    waited = engine.submit(prompt_of(BOTH), RequestOptions(max_new_tokens=400, guard=False, deadline_s=0.2))
    events = []
    for event in handle:
        events.append(event)
        if len(events) == 3:
            handle.cancel()
    assert usage(events).reason == "cancelled"
    assert len(events) < 20
    late = waited.wait()
    assert usage(late).reason == "deadline"
    assert 0.2 <= usage(late).usage.seconds < 20
    for _event in engine.submit(prompt_of(PICTURE), endless):
        break  # leaving is cancelling
    wait_until(lambda: not engine.scheduler.running)
    assert_nothing_held(engine)


def engine_keys(sample: Sample) -> list[bytes]:
    return block_keys(prompt_of(sample).content(), 32)


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds()


def test_what_can_never_fit_is_refused_with_the_numbers_and_a_full_queue_at_once(
    model: MiniCPMVForConditionalGeneration,
) -> None:
    with make_engine(model, kv_tokens=128, most_running=1, most_waiting=2) as engine:
        with pytest.raises(
            ContextLengthError, match=rf"has {len(PICTURE.ids)} tokens, 192 .* room for 128 in KV memory"
        ):
            engine.submit(prompt_of(PICTURE), GREEDY)
        endless = RequestOptions(max_new_tokens=100, guard=False)
        first = engine.submit(prompt_of(TEXT), endless)
        wait_until(lambda: engine.scheduler.running)
        rest = [engine.submit(prompt_of(TEXT), endless) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests are waiting"):
            engine.submit(prompt_of(TEXT), GREEDY)
        for handle in (first, *rest):
            handle.cancel()
        assert {usage(handle.wait()).reason for handle in (first, *rest)} == {"cancelled"}


def test_a_step_that_goes_wrong_ends_those_that_run_and_the_next_goes_on(
    engine: Engine, alone: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_forward", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.submit(prompt_of(PICTURE), GREEDY).wait()
    assert tokens(engine.submit(prompt_of(PICTURE), GREEDY)) == alone[id(PICTURE)]
    assert_nothing_held(engine)


def test_a_listener_that_fails_harms_nobody_else(engine: Engine, alone: dict[int, list[int]]) -> None:
    def hostile(event: object) -> None:
        raise ValueError("gone")

    engine.submit(prompt_of(PICTURE), GREEDY, listener=hostile)
    assert tokens(engine.submit(prompt_of(CLIPS), GREEDY)) == alone[id(CLIPS)]
    wait_until(lambda: not engine.scheduler.running)
    assert_nothing_held(engine)


def test_closing_finishes_what_was_begun_if_there_is_time_and_cancels_it_otherwise(
    model: MiniCPMVForConditionalGeneration, alone: dict[int, list[int]]
) -> None:
    engine = make_engine(model)
    handle = engine.submit(prompt_of(PICTURE), GREEDY)
    engine.close(drain_s=30)
    assert tokens(handle) == alone[id(PICTURE)]
    with pytest.raises(EngineError, match="no more requests"):
        engine.submit(prompt_of(PICTURE), GREEDY)
    engine = make_engine(model)
    handle = engine.submit(prompt_of(PICTURE), RequestOptions(max_new_tokens=400, guard=False))
    engine.close()
    assert usage(handle.wait()).reason == "cancelled"
    assert not [thread for thread in threading.enumerate() if thread.name == "minicpmv-engine"]


def test_logprobs_are_those_of_the_model(engine: Engine, model: MiniCPMVForConditionalGeneration) -> None:
    asked = RequestOptions(max_new_tokens=3, guard=False, sampling=SamplingParams(logprobs=4))
    choices = [event.choice for event in engine.submit(prompt_of(BOTH), asked).wait() if isinstance(event, Wrote)]
    inputs = collate(BOTH)
    with torch.no_grad():
        wanted = torch.log_softmax(model(**inputs, logits_to_keep=1).logits[0, -1], -1)
    values, ids = wanted.topk(4)
    assert [token for token, _ in choices[0].top] == ids.tolist()
    assert [value for _, value in choices[0].top] == pytest.approx(values.tolist(), abs=3e-5)
    assert choices[0].logprob == pytest.approx(float(wanted.max()), abs=3e-5)


def test_an_error_of_one_request_is_told_to_it_alone(engine: Engine, alone: dict[int, list[int]]) -> None:
    class Broken:
        def allowed(self) -> torch.Tensor:
            raise ValueError("no such rule")

        def accept(self, token: int) -> bool:
            return False

    events: list[object] = []
    other = engine.submit(prompt_of(CLIPS), GREEDY)
    engine.submit(prompt_of(PICTURE), GREEDY, grammar=Broken(), listener=events.append)
    assert tokens(other) == alone[id(CLIPS)]
    wait_until(lambda: events)
    assert isinstance(events[-1], Failed)
    assert "no such rule" in str(events[-1].error)


def test_an_answer_that_is_no_number_ends_its_request_and_leaves_nothing_behind(
    model: MiniCPMVForConditionalGeneration, alone: dict[int, list[int]]
) -> None:
    """Blocks that held NaN are used again by the next request, as memory that nobody may look at."""
    with make_engine(model, kv_tokens=320) as engine:
        bad = Sample(
            PICTURE.ids, PICTURE.starts, PICTURE.pixels * float("nan"), PICTURE.shapes, PICTURE.packs, PICTURE.times
        )
        for _ in range(2):
            with pytest.raises(EngineError, match="not a number"):
                engine.submit(prompt_of(bad), GREEDY).wait()
            assert engine.scheduler.pool.find(engine_keys(bad)) == []
            assert tokens(engine.submit(prompt_of(BOTH), GREEDY)) == alone[id(BOTH)]
        assert_nothing_held(engine)


def test_under_autocast_it_computes_in_the_other_type_and_company_changes_nothing(
    model: MiniCPMVForConditionalGeneration,
) -> None:
    """A training run's samples are drawn like that: weights in float32, arithmetic in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16), make_engine(model) as mixed:
        one = tokens(mixed.submit(prompt_of(LONG), GREEDY))
        handles = [mixed.submit(prompt_of(sample), GREEDY) for sample in (LONG, TEXT, PICTURE)]
        answers = [tokens(handle) for handle in handles]
    assert [len(answer) for answer in answers] == [NEW] * 3
    assert answers[0][:3] == one[:3]  # bfloat16 rounds by the number of rows, so ties may fall the other way later
