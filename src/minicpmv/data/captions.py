"""What is said about a clip, in a file that bears its name: a caption, or subtitles with their times.

    clip.mp4, clip.txt             -> "What happens in the clip?"               the whole text
    clip.mp4, clip.srt | clip.vtt  -> "Write down what is said, with times."    1.5-3.2 s: Hello there.

A caption comes before subtitles, and SRT before WebVTT, if a clip has several of them.
"""

import html
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from minicpmv.errors import MessageError, OptionError

CLIP_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
"""Endings of clips that are looked for; what a file holds is told from its contents when it is opened."""

CAPTION_SUFFIXES = (".txt", ".srt", ".vtt")
"""Endings of what is said about a clip, the first that is there decides."""

CLIP_QUESTION = "What happens in the clip?"
SPEECH_QUESTION = "Write down what is said, with times."
"""Asked about a clip with a caption, and about one with subtitles. Ours."""

MAX_BYTES = 2**20
"""Largest caption or subtitle file: a film's subtitles have a tenth of it. Ours."""

_STYLE = re.compile(r"\{\\[^}]*\}")  # of SubStation Alpha, which SRT files often carry


def find_caption(clip: Path) -> Path | None:
    """The file beside a clip that says something about it, or None."""
    return next((path for suffix in CAPTION_SUFFIXES if (path := clip.with_suffix(suffix)).is_file()), None)


def read_caption(content: bytes, suffix: str) -> tuple[str, str]:
    """The question that a caption or subtitles answer, and the answer.

    Args:
        content: of the file, in UTF-8, or in UTF-16 with its mark.
        suffix: one of `CAPTION_SUFFIXES`.

    Raises:
        MessageError: too large, no text, or not what the suffix says.
        OptionError: subtitles, and webvtt-py is not installed.
    """
    if len(content) > MAX_BYTES:
        raise MessageError(f"the {suffix} file has {len(content):,} bytes.", remedy=f"{MAX_BYTES:,} are allowed.")
    try:
        wide = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise MessageError(f"the {suffix} file is not UTF-8 ({error.reason}).", remedy="Save it as UTF-8.") from None
    question, answer = (CLIP_QUESTION, text.strip()) if suffix == ".txt" else (SPEECH_QUESTION, _cues(text, suffix))
    if not answer:
        raise MessageError(f"the {suffix} file says nothing.", remedy="Write what there is to learn.")
    return question, answer


def need_subtitles(name: str) -> None:
    """Make sure that subtitles can be read, before a missing package makes a flaw of every record.

    Raises:
        OptionError: webvtt-py is not installed.
    """
    try:
        import webvtt  # noqa: F401
    except ImportError:
        raise OptionError(
            f"{name} has subtitles, and webvtt-py is not installed.",
            remedy="Install it: pip install 'minicpmv[data]'",
        ) from None


def _cues(text: str, suffix: str) -> str:
    """A line per cue: its times in seconds, as the model counts them, and its words without marks."""
    need_subtitles(f"A {suffix} file")
    import webvtt
    from webvtt.errors import MalformedCaptionError, MalformedFileError

    try:
        cues = webvtt.from_buffer(io.StringIO(text.replace("\r\n", "\n")), format=suffix.removeprefix("."))
    except (MalformedFileError, MalformedCaptionError) as error:
        raise MessageError(f"the {suffix} file holds no subtitles ({error}).", remedy="Check the file.") from None
    lines = []
    for cue in cues:
        words = " ".join(_STYLE.sub("", cue.text).split())
        # Only WebVTT escapes characters; in SRT they mean themselves.
        words = html.unescape(words) if suffix == ".vtt" else words
        if words:
            lines.append(f"{_seconds(cue.start):.1f}-{_seconds(cue.end):.1f} s: {words}")
    return "\n".join(lines)


def _seconds(time: str) -> float:
    """Seconds of a time such as `01:02:03.500`.

    >>> _seconds("01:02:03.500")
    3723.5
    """
    total = 0.0
    for part in time.split(":"):
        total = 60 * total + float(part)
    return total
