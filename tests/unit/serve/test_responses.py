"""OpenAI's newer API: its own client reads the answers, and events come in the order that it wants."""

import json
from typing import Any

import openai
import pytest
from tests.unit.serve.conftest import data_uri

from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Finished, Usage, Wrote
from minicpmv.generation.engine.sampling import Choice
from minicpmv.generation.engine.writing import Delta
from minicpmv.serve.responses import ResponsesRequest, ResponseText

READ = "What is written in the picture?"


def sees() -> list[Any]:
    picture = {"type": "input_image", "image_url": data_uri("sign.png", "image/png")}
    return [{"role": "user", "content": [picture, {"type": "input_text", "text": READ}]}]


def test_a_picture_and_a_page(client: openai.OpenAI) -> None:
    answer: Any = client.responses.create(model="tiny", input=sees())
    chat: Any = client.chat.completions.create(
        model="tiny",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_uri("sign.png", "image/png")}},
                    {"type": "text", "text": READ},
                ],
            }
        ],
    )
    assert answer.output_text == chat.choices[0].message.content
    assert answer.status == "completed"
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.total_tokens == chat.usage.total_tokens
    page = {"type": "input_file", "filename": "note.pdf", "file_data": data_uri("note.pdf", "application/pdf")}
    content = [page, {"type": "input_text", "text": READ}]
    assert client.responses.create(model="tiny", input=[{"role": "user", "content": content}]).output_text  # type: ignore[list-item,misc]


def test_events_build_the_answer_in_order(client: openai.OpenAI) -> None:
    whole: Any = client.responses.create(model="tiny", input=sees())
    events: list[Any] = list(client.responses.create(model="tiny", input=sees(), stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == events[-4].text == events[-1].response.output_text == whole.output_text


def test_reasoning_is_an_item_of_its_own(client: openai.OpenAI) -> None:
    answer: Any = client.responses.create(
        model="tiny",
        input="12 + 7?",
        reasoning={"effort": "high"},
        temperature=2,
        extra_body={"thinking_budget": 12, "seed": 1},
    )
    assert answer.output[-1].type == "message"
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert "think" not in answer.output_text
    short: Any = client.responses.create(model="tiny", input="12 + 7?", reasoning={"effort": "minimal"})
    assert [item.type for item in short.output] == ["message"]


def test_events_of_reasoning_come_before_those_of_the_answer() -> None:
    asked = ResponsesRequest(input="?")
    told = ResponseText("tiny", asked, EnginePrompt((1, 2), (), (), 64, ()))
    pieces = [("reasoning", "12 and"), ("reasoning", " 7"), ("answer", "19")]
    events: list[Any] = []
    for channel, text in pieces:
        events += told.hear(0, Wrote(Choice(1), (Delta(text, channel),)))  # type: ignore[arg-type]
    events += told.hear(0, Finished((), "stop", None, Usage(2, 0, 0, 4, 2, 0.0, 0.1, 0.2)))
    kinds = [kind for kind, _ in events]
    assert kinds.index("response.reasoning_text.delta") < kinds.index("response.output_text.delta")
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    response = told.whole()
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["content"][0]["text"] == "12 and 7"
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 2
    done = [data for kind, data in events if kind == "response.reasoning_text.done"]
    assert done[0]["text"] == "12 and 7"


def test_earlier_items_instructions_length_and_form(client: openai.OpenAI) -> None:
    first: Any = client.responses.create(model="tiny", input="12 + 7?", instructions="Be brief.", max_output_tokens=2)
    assert first.status == "incomplete"
    assert first.incomplete_details.reason == "max_output_tokens"
    said = [{"role": "user", "content": "12 + 7?"}, *[item.model_dump() for item in first.output]]
    second: Any = client.responses.create(model="tiny", input=[*said, {"role": "user", "content": "And 1 more?"}])
    assert second.usage.input_tokens > first.usage.input_tokens
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    formed: Any = client.responses.create(
        model="tiny", input="1?", text={"format": {"type": "json_schema", "name": "n", "schema": schema}}
    )
    assert json.loads(formed.output_text)["n"] in (1, 2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"previous_response_id": "resp_1"}, "are not kept"),
        ({"tools": [{"type": "web_search"}]}, "Tools are not supported"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": []}, "non-empty"),
        ({"input": [7]}, "messages[0]"),
    ],
)
def test_what_is_not_possible_is_refused(wrong: dict[str, Any], says: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "tiny", "input": "hi", **wrong})
    assert says in caught.value.message
