"""Why a sample is left out: small checks that each give a reason, and a chain that counts them.

    Sample -> check -> None, or a reason -> Sieve counts -> kept or Flaw

Kinds of checks and their order follow arXiv 2509.18154, sections 2.2.2 and 2.3.2, which give no thresholds; all numbers
are ours and arguments.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b, file_digest

from PIL import Image

from minicpmv.data.readers import Flaw
from minicpmv.data.sample import Sample
from minicpmv.errors import MiniCPMVError, OptionError
from minicpmv.media.document import probe_document
from minicpmv.media.image import load_image
from minicpmv.media.video import probe_video
from minicpmv.messages import DocumentPart, ImagePart, Part, Source, VideoPart

Check = Callable[[Sample], str | None]
"""The reason to leave a sample out, or None."""

_WORD = re.compile(r"\w+")


class Sieve:
    """Checks in order; the first that objects decides.

    Args:
        checks: by the name under which they are counted.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self.dropped: Counter[str] = Counter(dict.fromkeys(checks, 0))
        """How many samples each check has left out."""

    def __call__(self, sample: Sample) -> Sample | Flaw:
        """The sample, or why it is left out."""
        for name, check in self._checks.items():
            if (reason := check(sample)) is not None:
                self.dropped[name] += 1
                return Flaw(sample.key, f"{name}: {reason}")
        return sample


def media_there(sample: Sample) -> str | None:
    """Files that a sample names exist and are not empty; they are not opened, so that this is quick."""
    for part in sample.media:
        if not isinstance(part, ImagePart | VideoPart | DocumentPart):
            continue
        frames = part.frames if isinstance(part, VideoPart) and part.frames is not None else None
        for source in [part.source] if frames is None else frames:
            if not isinstance(source, str | os.PathLike) or re.match(r"data:|\w+://", os.fspath(source)):
                continue
            try:
                if not os.path.getsize(source):
                    return f"{source} is empty."
            except (OSError, ValueError):  # ValueError: a NUL in a name
                return f"{source} does not exist."
    return None


def media_open(smallest_px: int = 28) -> Check:
    """Pictures, clips and documents can be opened, and no picture or frame is smaller than this on a side."""

    def check(sample: Sample) -> str | None:
        for part in sample.media:
            try:
                size = _shortest_side(part)
            except MiniCPMVError as error:
                return str(error)
            if size is not None and size < smallest_px:
                return f"a side is {size} px."
        return None

    return check


def _shortest_side(part: Part) -> int | None:
    """Of a picture or frame, in px; None for a document and for what is handed over elsewhere."""
    if isinstance(part, ImagePart):
        return None if part.source is None else min(load_image(part.source).image.size)
    if isinstance(part, VideoPart):
        if part.frames is not None:
            return min(min(load_image(frame).image.size) for frame in part.frames)
        if part.source is None:
            return None
        info = probe_video(part.source)
        return min(info.width, info.height)
    if isinstance(part, DocumentPart):
        probe_document(part.source)
    return None


def answer_length(shortest: int = 1, longest: int = 20_000) -> Check:
    """The assistant's words have at least and at most so many characters."""

    def check(sample: Sample) -> str | None:
        length = sum(len(message.text.strip()) for message in sample.messages if message.role == "assistant")
        return None if shortest <= length <= longest else f"the answers have {length} characters."

    return check


def language(allowed: Collection[str], shortest: int = 40) -> Check:
    """The text is in one of the languages (ISO 639-1); shorter texts pass, because nobody can tell. Needs py3langid.

    Raises:
        OptionError: py3langid is not installed, or does not know one of the codes.
    """
    try:
        import py3langid
    except ImportError:
        raise OptionError(
            "Telling languages apart needs py3langid.", remedy="Install it: pip install 'minicpmv[data]'"
        ) from None
    known = sorted(code for code, _ in py3langid.rank(""))
    if unknown := sorted(set(allowed) - set(known)):
        raise OptionError(f"No language is called {', '.join(unknown)}.", remedy=f"Known: {', '.join(known)}.")

    def check(sample: Sample) -> str | None:
        text = sample.text
        if len(text) < shortest:
            return None
        code, _ = py3langid.classify(text)
        return None if code in allowed else f"it looks like '{code}'."

    return check


def repetition(words: int = 10, most: int = 3) -> Check:
    """No run of so many words occurs more often than this."""

    def check(sample: Sample) -> str | None:
        found = _WORD.findall(sample.text.lower())
        runs = Counter(tuple(found[start : start + words]) for start in range(len(found) - words + 1))
        worst = max(runs.values(), default=0)
        return None if worst <= most else f"{worst} times the same {words} words."

    return check


def balance(most_media: float = 10.0, per_characters: int = 1000) -> Check:
    """Not more media per characters of text than this; a single one always passes."""

    def check(sample: Sample) -> str | None:
        media, characters = len(sample.media), max(1, len(sample.text))
        share = media * per_characters / characters
        return None if media <= 1 or share <= most_media else f"{media} media beside {characters} characters."

    return check


def similarity(score: Callable[[Sample], float], lowest: float) -> Check:
    """Pictures and words belong together, by whatever scorer is given, such as the cosine of a CLIP model."""

    def check(sample: Sample) -> str | None:
        if not sample.media:
            return None
        value = score(sample)
        return None if value >= lowest else f"picture and text score {value:.3f}."

    return check


def visual_dependence(answer_blind: Callable[[Sample], str]) -> Check:
    """Whoever does not see the media gets the last answer wrong. Text-only samples pass.

    Args:
        answer_blind: answers a sample's question from its words alone.
    """

    def check(sample: Sample) -> str | None:
        if not sample.media:
            return None
        return "it can be answered without looking." if _alike(answer_blind(sample), _answer(sample)) else None

    return check


def consistency(answer_often: Callable[[Sample], Sequence[str]], lowest: float = 0.5) -> Check:
    """At least this share of several independent answers says the same as the sample.

    Args:
        answer_often: several answers to a sample's question.
        lowest: share that must agree.
    """

    def check(sample: Sample) -> str | None:
        answers = answer_often(sample)
        agree = sum(_alike(answer, _answer(sample)) for answer in answers)
        return None if agree >= lowest * len(answers) else f"{agree} of {len(answers)} answers agree."

    return check


def difficulty(answer_often: Callable[[Sample], Sequence[str]], most: float = 0.5) -> Check:
    """At most this share of a model's answers is right already; what it can do teaches it nothing.

    Args:
        answer_often: several answers of the model to a sample's question.
        most: share that may be right.
    """

    def check(sample: Sample) -> str | None:
        answers = answer_often(sample)
        right = sum(_alike(answer, _answer(sample)) for answer in answers)
        return None if right <= most * len(answers) else f"{right} of {len(answers)} answers are right already."

    return check


def knowledge_density(lowest: float = 0.05) -> Check:
    """At least this share of the words are names, numbers or long words: a text that says something."""

    def check(sample: Sample) -> str | None:
        words = [word for message in sample.messages for word in _WORD.findall(message.text)]
        dense = sum(word[0].isdigit() or len(word) >= 9 or (word[0].isupper() and not word.isupper()) for word in words)
        share = dense / max(1, len(words))
        return None if share >= lowest else f"{100 * share:.1f} % of its words are names, numbers or long."

    return check


class NearDuplicates:
    """A check that remembers: no earlier sample had the same media and nearly the same words. Needs datasketch.

    Media are the same if their files have the same bytes, or pictures in memory the same pixels. Many questions about
    one picture, and one question about many pictures, are no duplicates.

    Args:
        threshold: Jaccard similarity of the sets of word runs from which on a text counts as the same.
        words: length of a run.
    """

    def __init__(self, threshold: float = 0.8, words: int = 3) -> None:
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise OptionError(
                "Finding near duplicates needs datasketch.", remedy="Install it: pip install 'minicpmv[data]'"
            ) from None
        self._index = MinHashLSH(threshold=threshold, num_perm=128)
        self._words = words
        self._passed: list[str] = []  # keys need not differ between files of one name

    def __call__(self, sample: Sample) -> str | None:
        """See `Check`; a sample that passes is remembered."""
        from datasketch import MinHash

        found = _WORD.findall(sample.text.lower())
        runs = {" ".join(found[start : start + self._words]) for start in range(max(1, len(found) - self._words + 1))}
        # Runs of different media have nothing in common, so that one index serves all.
        media = b"".join(_fingerprint(part) for part in sample.media)
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([media + run.encode() for run in sorted(runs)])
        if near := self._index.query(sketch):
            return f"it is nearly {self._passed[near[0]]}."
        self._index.insert(len(self._passed), sketch)
        self._passed.append(sample.key)
        return None


def _fingerprint(part: Part) -> bytes:
    """16 bytes that are the same for the same picture, clip or pages of a document."""
    pages = None
    sources: Sequence[Source | None] = ()
    if isinstance(part, ImagePart | DocumentPart):
        sources = (part.source,)
        pages = part.pages if isinstance(part, DocumentPart) else None
    elif isinstance(part, VideoPart):
        sources = (part.source,) if part.frames is None else part.frames
    digest = blake2b(repr((type(part).__name__, pages)).encode(), digest_size=16)
    for source in sources:
        digest.update(_content_digest(source))
    return digest.digest()


def _content_digest(source: Source | None) -> bytes:
    """Of a picture its pixels, of a file its bytes; of a URL, which is not read, its letters."""
    if isinstance(source, Image.Image):
        return blake2b(repr((source.mode, source.size)).encode() + source.tobytes()).digest()
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if not os.path.isfile(name):
            return blake2b(name.encode(errors="surrogateescape")).digest()
        with open(name, "rb") as file:
            return file_digest(file, blake2b).digest()
    if source is None or isinstance(source, bytes):
        return blake2b(source or b"").digest()
    place = source.tell()
    content = source.read()
    source.seek(place)
    return blake2b(content).digest()


def _answer(sample: Sample) -> str:
    return next((message.text for message in reversed(sample.messages) if message.role == "assistant"), "")


def _alike(one: str, other: str) -> bool:
    """The same words, whatever their case and punctuation."""
    return _WORD.findall(one.lower()) == _WORD.findall(other.lower())
