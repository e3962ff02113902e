"""The page: a conversation on the left, on the right how the model looks, answers, and what that costs.

Talk -> build_page -> gradio Blocks -> mounted beside the API

Nothing is loaded from another host: fonts are the system's, and gradio's analytics are off.
"""

import base64
import html
import io
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402  (it reads the environment when it is imported)

from minicpmv.errors import MiniCPMVError  # noqa: E402
from minicpmv.generation.planning import Plan  # noqa: E402
from minicpmv.serve.web.pictures import Drawing  # noqa: E402
from minicpmv.serve.web.talk import File, Talk, Turn, to_controls  # noqa: E402

FORGET_AFTER_S = 3600
"""Conversations and uploads that nobody has touched for so long are deleted. Ours."""

SHOW_EVERY_S = 0.1
"""An answer is shown anew at most so often. Ours."""

_STYLE = """
#talk { height: 58vh !important; min-height: 320px; }
#plan-pictures figure { margin: 0 0 1rem; }
#plan-pictures img { max-width: 100%; height: auto; border: 1px solid #8884; border-radius: 4px; }
#plan-pictures figcaption { font-size: 0.85rem; opacity: 0.75; }
#talk button[aria-label="Share"], #talk button[title="Share"] { display: none; }
#status { min-height: 1.4em; opacity: 0.75; font-size: 0.85rem; }
.gradio-container { max-width: 1400px !important; }
@media (max-width: 700px) { #talk { height: 50vh !important; } }
"""

EXAMPLES = (
    ("sign.png", "What is written in the picture?"),
    ("note.pdf", "What is written in the picture?"),
    ("clip.mp4", "Which colour appears first?"),
)


def example_files() -> list[dict[str, Any]]:
    """Questions to begin with, as far as their files came with this installation."""
    package = Path(__file__).resolve().parents[2]
    homes = (package / "assets" / "examples", package.parents[1] / "examples")
    home = next((home for home in homes if (home / EXAMPLES[0][0]).is_file()), None)
    if home is None:
        return []
    return [{"text": question, "files": [str(home / name)]} for name, question in EXAMPLES if (home / name).is_file()]


def shown(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """A conversation as gradio's chat shows it."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [{"role": "user", "content": {"path": str(file.path)}} for file in turn.files]
        if turn.question:
            messages.append({"role": "user", "content": turn.question})
        if turn.reasoning is not None:
            busy = not turn.text and not turn.is_answered
            title = {"title": "Thinking", "status": "pending" if busy else "done"}
            messages.append({"role": "assistant", "content": turn.reasoning, "metadata": title})
        if turn.problem is not None:
            messages.append({"role": "assistant", "content": f"⚠ {turn.problem}"})
        elif turn.text or turn.is_answered:
            messages.append({"role": "assistant", "content": turn.text or "(no words)"})
    return messages


_ENDS = {
    "stop": "",
    "length": "; cut off at the longest answer",
    "repetition": "; ended because it repeated itself",
    "cancelled": "; stopped",
    "deadline": "; out of time",
}


def status(turn: Turn) -> str:
    """What an answer cost, in one line."""
    end = turn.end
    if end is None:
        return ""
    rate = f", {end.new_tokens / end.seconds:.0f} tokens/s" if end.seconds else ""
    first = f", {end.seconds_to_first_token:.2f} s to the first word" if end.seconds_to_first_token else ""
    read = f"{end.prompt_tokens} tokens read, {end.visual_tokens} of them visual"
    return f"{read}; {end.new_tokens} written{first}{rate}{_ENDS[end.finish_reason]}"


def plan_words(planned: Plan) -> str:
    """A plan as a table."""
    total = planned.total
    left = planned.context_tokens - total.prompt_tokens
    room = f"{left:,} left of {planned.context_tokens:,}" if left > 0 else f"**{-left:,} too many**"
    rows = [
        ("tokens", f"{total.prompt_tokens:,}, {planned.visual_tokens:,} of them visual"),
        ("context", room),
        ("memory for them", f"{total.kv_bytes / 2**20:,.1f} MiB"),
        ("to see", f"{total.vision_flops / 1e9:,.1f} GFLOP"),
        ("to read", f"{total.prefill_flops / 1e9:,.1f} GFLOP"),
    ]
    return "\n".join(f"- **{name}** {value}" for name, value in rows)


def figures(drawings: Sequence[Drawing]) -> str:
    """Drawings as HTML, below one another."""
    parts = []
    for drawing in drawings:
        buffer = io.BytesIO()
        drawing.image.save(buffer, "WEBP", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        caption = html.escape(drawing.caption)
        image = f'<img alt="{caption}" src="data:image/webp;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return "".join(parts)


def uploads(paths: Sequence[Any]) -> tuple[File, ...]:
    """What gradio hands over as files."""
    return tuple(File(Path(str(path)), Path(str(path)).name) for path in paths)


class Page:
    """The callbacks of the page.

    Args:
        talk: answers.
    """

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def ask(self, box: dict[str, Any] | None, turns: list[Turn]) -> tuple[Any, ...]:
        """Take a question in: box, conversation, turns."""
        box = box or {}
        question, files = str(box.get("text") or "").strip(), uploads(box.get("files") or [])
        if not question and not files:
            return gr.skip(), gr.skip(), turns
        turns = [*turns, Turn(question or "Describe this.", files)]
        return gr.update(value=None, submit_btn=False, stop_btn=True), shown(turns), turns

    def again(self, turns: list[Turn]) -> tuple[Any, ...]:
        """Take the last answer back."""
        if not turns:
            return gr.skip(), [], turns
        turns = [*turns[:-1], Turn(turns[-1].question, turns[-1].files)]
        return gr.update(submit_btn=False, stop_btn=True), shown(turns), turns

    def answer(self, turns: list[Turn], request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Conversation, turns and status while the answer grows."""
        if not turns or turns[-1].is_answered:
            return
        told_at = 0.0
        for turn in self._talk.answer(turns, to_controls(values), str(request.session_hash)):
            turns = [*turns[:-1], turn]
            # Every message repeats the conversation, so a long answer must not send one per token.
            if turn.is_answered or time.monotonic() - told_at > SHOW_EVERY_S:
                yield shown(turns), turns, status(turn)
                told_at = time.monotonic()

    def ready(self) -> Any:
        """The box takes questions again."""
        return gr.update(submit_btn=True, stop_btn=False)

    def stop(self, request: gr.Request) -> None:
        """End the answer; what there is of it stays."""
        self._talk.stop(str(request.session_hash))

    def clear(self, request: gr.Request) -> tuple[Any, ...]:
        """Begin again: conversation, turns, status."""
        self._talk.stop(str(request.session_hash))
        return [], [], ""

    def plan(self, box: dict[str, Any] | None, turns: list[Turn], *values: Any) -> tuple[str, str]:
        """The plan drawn and in words: of what is in the box, or else of the last question with files."""
        box = box or {}
        files, question = uploads(box.get("files") or []), str(box.get("text") or "")
        if not files:
            last = next((turn for turn in reversed(turns) if turn.files), None)
            files, question = (last.files, last.question) if last else ((), "")
        if not files:
            return "", "Add a picture, a PDF or a clip to see how it will be read."
        try:
            planned, drawings = self._talk.plan(question, files, to_controls(values))
        except MiniCPMVError as error:
            return "", f"⚠ {error}"
        return figures(drawings), plan_words(planned)


def build_page(talk: Talk, *, most_at_once: int) -> gr.Blocks:
    """The page.

    Args:
        talk: answers.
        most_at_once: visitors that are answered at a time; more wait.
    """
    page = Page(talk)
    blocks: gr.Blocks
    with gr.Blocks(title="minicpmv", analytics_enabled=False, delete_cache=(600, FORGET_AFTER_S)) as blocks:
        turns = gr.State([], time_to_live=FORGET_AFTER_S)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                _headline(talk)
                chat = gr.Chatbot(
                    elem_id="talk",
                    show_label=False,
                    buttons=["copy", "copy_all"],
                    feedback_options=None,
                    allow_tags=False,
                    placeholder="Pictures, PDFs and clips: add some, and ask.",
                )
                box = gr.MultimodalTextbox(
                    elem_id="question",
                    label="Question",
                    show_label=False,
                    file_count="multiple",
                    file_types=["image", "video", ".pdf"],
                    placeholder="Add files with the paperclip, ask, and press Enter.",
                    autofocus=True,
                )
                told = gr.Markdown(elem_id="status")
                controls = [*_thinking(), *_answering()]
                examples = example_files()
                if examples:
                    gr.Examples([[example] for example in examples], inputs=box, label="Begin with")
            with gr.Column(scale=2, min_width=320):
                controls += _looking()
                gr.Markdown("### What the model will see")
                words = gr.Markdown(elem_id="plan-text")
                pictures = gr.HTML(elem_id="plan-pictures")
        answering = {"fn": page.answer, "inputs": [turns, *controls], "outputs": [chat, turns, told]}
        for event, begin, inputs in ((box.submit, page.ask, [box, turns]), (chat.retry, page.again, [turns])):
            begun = event(begin, inputs, [box, chat, turns], show_progress="hidden")
            written = begun.then(**answering, show_progress="hidden", concurrency_limit=most_at_once)
            written.then(page.ready, None, [box], show_progress="hidden")
        box.stop(page.stop, None, None, queue=False)
        chat.clear(page.clear, None, [chat, turns, told], queue=False)
        blocks.unload(page.stop)
        gr.on(
            [blocks.load, box.change, turns.change, *(control.change for control in controls)],
            page.plan,
            [box, turns, *controls],
            [pictures, words],
            show_progress="hidden",
            trigger_mode="always_last",
        )
    blocks.queue(default_concurrency_limit=4, max_size=256)
    return blocks


def _headline(talk: Talk) -> None:
    loaded = talk.loaded
    about = f"{loaded.num_parameters / 1e6:,.1f} million parameters"
    if loaded.is_bundled:
        about += "; the small bundled model, which reads short printed lines and names colours in clips"
    gr.Markdown(f"## minicpmv · {Path(loaded.name).name}\n{about}")


def _thinking() -> list[Any]:
    with gr.Row():
        think = gr.Checkbox(label="Think first", info="Slower; better where several steps are needed.")
        budget = gr.Number(
            label="Thinking budget",
            info="Tokens; then the answer follows. 0: no limit.",
            value=0,
            minimum=0,
            precision=0,
        )
    return [think, budget]


def _answering() -> list[Any]:
    with gr.Accordion("Length and chance", open=False), gr.Row():
        longest = gr.Number(0, label="Longest answer", info="Tokens; 0: default.", minimum=0, precision=0)
        temperature = gr.Slider(0, 2, 0, step=0.1, label="Temperature", info="0: the most probable answer.")
    return [longest, temperature]


def _looking() -> list[Any]:
    gr.Markdown("### How it looks\n0 leaves a choice to the checkpoint.")
    with gr.Row():
        slices = gr.Slider(0, 9, 0, step=1, label="Most slices", info="of a picture or page")
        frames = gr.Slider(0, 1080, 0, step=1, label="Most frames", info="of a clip")
    with gr.Row():
        fps = gr.Slider(0, 10, 0, step=0.5, label="Frames/s", info="of a clip")
        packing = gr.Slider(0, 6, 0, step=1, label="Frames/pack", info="share 64 tokens")
    return [slices, fps, packing, frames]


def mount(app: Any, talk: Talk, *, most_at_once: int, most_bytes: int, password: str | None) -> Any:
    """Put the page at `/` of an application.

    Args:
        app: FastAPI's, whose own addresses go first.
        talk: answers.
        most_at_once: see `build_page`.
        most_bytes: largest upload.
        password: asks visitors for it, with any name; None lets everybody in.
    """

    def lets_in(_name: str, given: str) -> bool:
        import hmac

        return hmac.compare_digest(given.encode(), (password or "").encode())

    return gr.mount_gradio_app(
        app,
        build_page(talk, most_at_once=most_at_once),
        path="/",
        auth=None if password is None else lets_in,
        max_file_size=most_bytes,
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=_STYLE,
    )
