"""Many questions from a file, many at a time, answers in their order, and a run that goes on where it stopped.

    lines of JSON -> questions -> answer_file -> one line of JSON per question, in the same order

The engine is kept busy: while some questions are answered, the media of the next ones are read.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minicpmv.errors import MessageError, MiniCPMVError, OptionError
from minicpmv.generation.chat import Answer, Assistant
from minicpmv.generation.options import GenerationOptions

AT_ONCE = 16
"""Questions whose media are read or that are answered at a time. Ours."""

_MEDIA = ("image", "images", "video", "videos", "document", "documents")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file: its number from 1, what it calls itself, and its text."""

    number: int
    text: str


def answer_file(
    assistant: Assistant,
    questions: Path,
    answers: Path,
    options: GenerationOptions,
    *,
    on_answer: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Answer every line of a file that has not been answered yet.

    A line is `{"question": ..., "image": ...}` or `{"messages": [...]}`, with an `id` if it likes; names of files are
    taken relative to the folder of the file. What cannot be answered gets a line with an `error`.

    Args:
        assistant: answers.
        questions: the file.
        answers: gets a line per question; lines that are there already are kept.
        options: how to answer.
        on_answer: called after every line that is written.

    Returns:
        How many lines were written now, and how many of them are errors.

    Raises:
        OptionError: the files cannot be read, or `answers` belongs to other questions.
    """
    done = _answered(answers)
    written = failed = 0
    with answers.open("a", encoding="utf-8") as file:
        for result in _answers(assistant, questions, done, options):
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
            written += 1
            failed += "error" in result
            on_answer()
    return written, failed


def count_lines(questions: Path) -> int:
    """Questions in a file.

    Raises:
        OptionError: it cannot be read.
    """
    return sum(1 for _ in _lines(questions))


def _lines(path: Path) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            for text in file:
                if text.strip():
                    number += 1
                    yield Line(number, text)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}", remedy="Name a file of JSON lines, in UTF-8.") from None


def _answered(path: Path) -> int:
    """How many questions a file has answers to; half a line at its end, of a killed run, is cut off."""
    if not path.exists():
        return 0
    contents = path.read_bytes()
    whole = contents.rfind(b"\n") + 1
    if whole < len(contents):
        with path.open("r+b") as file:
            file.truncate(whole)
    numbers = []
    for text in contents[:whole].splitlines():
        try:
            numbers.append(json.loads(text)["line"])
        except (ValueError, KeyError, TypeError):
            numbers.append(None)
    if numbers != list(range(1, len(numbers) + 1)):
        raise OptionError(f"{path} holds something else than answers.", remedy="Name another --out.")
    return len(numbers)


def _answers(assistant: Assistant, questions: Path, done: int, options: GenerationOptions) -> Iterator[dict[str, Any]]:
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="minicpmv-batch") as pool:
        try:
            for line in _lines(questions):
                if line.number <= done:
                    continue
                waiting.append(pool.submit(_answer, assistant, line, questions.parent, options))
                if len(waiting) >= AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _answer(assistant: Assistant, line: Line, folder: Path, options: GenerationOptions) -> dict[str, Any]:
    """A line's answer, or what is wrong with it."""
    result: dict[str, Any] = {"line": line.number}
    try:
        record = json.loads(line.text)
        if not isinstance(record, Mapping):
            raise MessageError("It is no JSON object.", remedy='Write {"question": "..."}.')
        if "id" in record:
            result["id"] = record["id"]
        answer = assistant.ask(_messages(record, folder), options)
    except (MiniCPMVError, ValueError, RecursionError) as error:
        return {**result, "error": " ".join(str(error).split()) or type(error).__name__}
    except Exception as error:  # whatever one line does, the others want their answers
        return {**result, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {**result, **_told(answer)}


def _told(answer: Answer) -> dict[str, Any]:
    return {"answer" if name == "text" else name: value for name, value in asdict(answer).items()}


def _messages(record: Mapping[str, Any], folder: Path) -> list[Any]:
    """A line as a conversation."""
    if "messages" in record:
        if not isinstance(record["messages"], list):
            raise MessageError("Its messages are no list.", remedy='Write [{"role": "user", "content": "..."}].')
        return [_placed(message, folder) for message in record["messages"]]
    question = record.get("question", record.get("prompt"))
    if not isinstance(question, str):
        raise MessageError("It has no question.", remedy='Write {"question": "...", "image": "a.png"}.')
    parts: list[Any] = []
    for name in _MEDIA:
        given = record.get(name)
        for source in given if isinstance(given, list) else [] if given is None else [given]:
            parts.append({"type": name.removesuffix("s"), "path": _beside(source, folder)})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def _placed(message: Any, folder: Path) -> Any:
    """A message whose files lie beside the file that names them."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    content = []
    for part in message["content"]:
        if isinstance(part, Mapping):
            names = [name for name in ("path", "image", "video", "document", "file") if isinstance(part.get(name), str)]
            part = {**part, **{name: _beside(part[name], folder) for name in names}}
        content.append(part)
    return {**message, "content": content}


def _beside(source: Any, folder: Path) -> Any:
    """A path relative to a folder; addresses and contents stay as they are."""
    if not isinstance(source, str) or source.startswith(("data:", "http://", "https://")):
        return source
    return str(folder / source)
