"""The official chat layout, written once for training, inference and serving.

    messages + what each picture or clip becomes -> conversation_pieces -> pieces -> ids, loss mask, slots in one pass

The layout is the checkpoint's ChatML template (Qwen3's, with its own thinking switch) and the official processor's
placeholder text. Here it is a list of pieces instead of a string, so that the words of a person, the control tokens of
the layout and the slots of the pictures can never be confused. Tests compare the pieces with the strings that the
checkpoint's own jinja template renders.

Source: tokenizer_config.json of MiniCPM-V 4.5 (chat_template); placeholder text of its processor.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.errors import MessageError
from minicpmv.messages import Message, TextPart
from minicpmv.processing.packing import FrameGroup
from minicpmv.processing.text_encoding import Control, Piece, Slot, Words

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, END_TOOL_RESPONSE = "<tool_response>", "</tool_response>"

TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """Names of the tokens around slots. Source: preprocessor_config.json."""

    image_start: str = "<image>"
    image_end: str = "</image>"
    slice_start: str = "<slice>"
    slice_end: str = "</slice>"
    id_start: str = "<image_id>"
    id_end: str = "</image_id>"


@dataclass(frozen=True, slots=True)
class VisualText:
    """What one picture or clip contributes to the text: its groups, and whether they are numbered."""

    groups: tuple[FrameGroup, ...]
    use_image_id: bool

    @property
    def num_frames(self) -> int:
        """Pictures or frames, as the official numbering counts them."""
        return sum(len(group.frames) for group in self.groups)

    @property
    def num_slots(self) -> int:
        """Runs of placeholders, one per pack."""
        return sum(group.num_packs for group in self.groups)


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """How a conversation is laid out.

    `thinking` False closes the think block in the generation prompt, True opens it, None leaves it to the model.
    `has_think` is False for a tokenizer without think tokens: nothing about thinking is rendered then.
    """

    add_generation_prompt: bool = False
    continue_final_message: bool = False
    thinking: bool | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    has_think: bool = True
    tokens: VisualTokens = VisualTokens()


def visual_pieces(visual: VisualText, first_id: int, tokens: VisualTokens) -> list[Piece]:
    """Placeholder text of one picture or clip: groups separated by newlines, slice rows by newlines, nothing else.

    Args:
        visual: its groups.
        first_id: number of its first picture or frame in the conversation; a group is numbered by its first frame.
        tokens: names of the tokens around slots.
    """
    pieces: list[Piece] = []
    for position, group in enumerate(visual.groups):
        if position:
            pieces.append(Words("\n"))
        if visual.use_image_id:
            pieces += [Control(tokens.id_start), Words(str(first_id + group.frames[0])), Control(tokens.id_end)]
        pieces += [Control(tokens.image_start), Slot(), Control(tokens.image_end)]
        if group.grid is not None:
            cell: list[Piece] = [Control(tokens.slice_start), Slot(), Control(tokens.slice_end)]
            for row in range(group.grid.rows):
                if row:
                    pieces.append(Words("\n"))
                pieces += cell * group.grid.columns
    return pieces


def conversation_pieces(
    messages: Sequence[Message], media: Iterable[Sequence[Piece]], options: TemplateOptions
) -> list[Piece]:
    """The whole conversation in the official layout.

    Args:
        messages: the conversation.
        media: for every part that is not text, in order, what stands in its place.
        options: the layout's switches.

    Raises:
        MessageError: no messages, or a final message that cannot be continued.
    """
    if not messages:
        raise MessageError("The conversation has no messages.", remedy="Give at least one.")
    remaining = iter(media)
    bodies = [_body(message, remaining) for message in messages]
    pieces = _system_pieces(messages, bodies, options)
    last_query = _last_query(messages)
    for index, message in enumerate(messages):
        if message.role == "assistant":
            is_last = index == len(messages) - 1
            pieces += _assistant_pieces(message, index > last_query, is_last, options)
        elif message.role == "tool":
            pieces += _tool_pieces(messages, index, bodies[index])
        elif message.role == "user" or index:
            pieces += [Control(IM_START), Words(f"{message.role}\n"), *bodies[index], Control(IM_END), Words("\n")]
    if options.continue_final_message:
        return _reopened(pieces, messages, options)
    if options.add_generation_prompt:
        pieces += generation_prompt(options)
    return pieces


def generation_prompt(options: TemplateOptions) -> list[Piece]:
    """The opening of the answer, with the think block closed, open, or absent."""
    pieces: list[Piece] = [Control(IM_START), Words("assistant\n")]
    if options.has_think and options.thinking is False:
        pieces += [Control(THINK), Words("\n\n"), Control(END_THINK), Words("\n\n")]
    elif options.has_think and options.thinking is True:
        pieces += [Control(THINK), Words("\n")]
    return pieces


def _body(message: Message, media: Any) -> list[Piece]:
    """A message's parts joined by newlines, as the official `chat` joins them."""
    pieces: list[Piece] = []
    for position, part in enumerate(message.parts):
        if position:
            pieces.append(Words("\n"))
        if isinstance(part, TextPart):
            pieces.append(Words(part.text))
        else:
            pieces += next(media)
    return pieces


def _system_pieces(messages: Sequence[Message], bodies: Sequence[list[Piece]], options: TemplateOptions) -> list[Piece]:
    """The opening system turn, with the functions that may be called."""
    given = bodies[0] if messages[0].role == "system" else None
    if not options.tools:
        return [] if given is None else [Control(IM_START), Words("system\n"), *given, Control(IM_END), Words("\n")]
    pieces: list[Piece] = [Control(IM_START), Words("system\n")]
    if given is not None:
        pieces += [*given, Words("\n\n")]
    signatures = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in options.tools)
    return [
        *pieces,
        Words(TOOLS_BEFORE + signatures),
        Words("\n</tools>\n\nFor each function call, return a json object with function name and arguments within "),
        *(Control(TOOL_CALL), Control(END_TOOL_CALL), Words(" XML tags:\n"), Control(TOOL_CALL)),
        Words('\n{"name": <function-name>, "arguments": <args-json-object>}\n'),
        *(Control(END_TOOL_CALL), Control(IM_END), Words("\n")),
    ]


def _last_query(messages: Sequence[Message]) -> int:
    """Index of the last thing a person asked; results of functions do not count."""
    for index in range(len(messages) - 1, -1, -1):
        text = messages[index].text
        if messages[index].role == "user" and not (text.startswith(TOOL_RESPONSE) and text.endswith(END_TOOL_RESPONSE)):
            return index
    return len(messages) - 1


def split_reasoning(message: Message) -> tuple[str, str]:
    """An assistant's reasoning and answer; reasoning written inside the text is taken apart as officially."""
    content = message.text
    if message.reasoning is not None:
        return message.reasoning, content
    if END_THINK not in content:
        return "", content
    reasoning = content.split(END_THINK)[0].rstrip("\n").split(THINK)[-1].lstrip("\n")
    return reasoning, content.split(END_THINK)[-1].lstrip("\n")


def _assistant_pieces(message: Message, after_query: bool, is_last: bool, options: TemplateOptions) -> list[Piece]:
    """An answer. Its think block is kept only after the last question; everything after the header is trained."""
    reasoning, content = split_reasoning(message)
    pieces: list[Piece] = [Control(IM_START), Words("assistant\n")]
    if options.has_think and after_query and (is_last or reasoning):
        thought = reasoning.strip("\n")
        pieces += [Control(THINK, True), Words(f"\n{thought}\n", True), Control(END_THINK, True), Words("\n\n", True)]
        content = content.lstrip("\n")
    pieces.append(Words(content, True))
    for position, call in enumerate(message.tool_calls):
        function = call.get("function") or call
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if position or content:
            pieces.append(Words("\n", True))
        text = f'\n{{"name": "{function.get("name")}", "arguments": {arguments}}}\n'
        pieces += [Control(TOOL_CALL, True), Words(text, True), Control(END_TOOL_CALL, True)]
    return [*pieces, Control(IM_END, True), Words("\n")]


def _tool_pieces(messages: Sequence[Message], index: int, body: list[Piece]) -> list[Piece]:
    """The result of a function, inside a user turn that consecutive results share."""
    pieces: list[Piece] = []
    if index == 0 or messages[index - 1].role != "tool":
        pieces += [Control(IM_START), Words("user")]
    pieces += [Words("\n"), Control(TOOL_RESPONSE), Words("\n"), *body, Words("\n"), Control(END_TOOL_RESPONSE)]
    if index == len(messages) - 1 or messages[index + 1].role != "tool":
        pieces += [Control(IM_END), Words("\n")]
    return pieces


def _reopened(pieces: list[Piece], messages: Sequence[Message], options: TemplateOptions) -> list[Piece]:
    """The conversation without the end of its last answer, so that the model continues it."""
    if messages[-1].role != "assistant" or options.add_generation_prompt:
        raise MessageError(
            "continue_final_message needs an assistant message at the end and no generation prompt.",
            remedy="Add the beginning of the answer as the last message.",
        )
    return pieces[:-2]
