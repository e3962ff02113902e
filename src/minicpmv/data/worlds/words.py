"""Words to print: common English, numbers, prices, times, codes, made-up words, and light punctuation.

Part of the vocabulary is held out by a hash of the word itself, so every stage and every process agrees without a
list: a held-out word is never printed, quoted or tokenised in training, in any of the worlds. Numbers
that follow from others, amounts on receipts and what is counted, are the exception.
"""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

from numpy.random import Generator

from minicpmv.data.worlds.fonts import Split

HELD_OUT_PERCENT = 10
"""Share of words kept for evaluation; ours."""

_MIN_HELD_OUT_LENGTH = 4  # shorter ones (the, 12, 748) cannot be avoided in training
_NEVER_HELD_OUT = frozenset(
    {"born", "calls", "column", "have", "head", "header", "honey", "live"}
    | {"phone", "plus", "shoes", "subtotal", "wait", "write", "written"}
)  # the hash would take them, but what our worlds say anyway uses them
_CONSONANTS = (
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "ch",
    "st",
)
_VOWELS = ("a", "e", "i", "o", "u", "ea", "oo", "ai")
_ENDINGS = ("", "", "n", "r", "s", "t", "l", "nd", "x", "y")
_CODE_CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789abcdefghijkmnpqrstuvwxyz"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MARKS = ".,!?:;"
_SYMBOLS = "@#$%&*+-=/\\|<>[]{}()_~^'\"`.,:;!?"


@lru_cache(maxsize=65536)
def _is_held_out_key(key: str) -> bool:
    percent = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % 100
    return percent < HELD_OUT_PERCENT and key not in _NEVER_HELD_OUT


def _keys(text: str) -> list[str]:
    """What the hash looks at: each word without surrounding marks, and each run of letters inside it."""
    keys = []
    for word in text.lower().split():
        bare = word.strip(_SYMBOLS)
        keys += [part for part in {bare, *re.findall("[a-z]+", bare)} if len(part) >= _MIN_HELD_OUT_LENGTH]
    return keys


def is_held_out(text: str) -> bool:
    """Whether a text belongs to evaluation: it has a held-out word, or has only short words and is held out whole.

    Case and surrounding punctuation do not matter; the answer depends on nothing but the text.
    """
    keys = _keys(text) or [" ".join(text.lower().split())]
    return any(_is_held_out_key(key) for key in keys)


def all_held_out(text: str) -> bool:
    """Whether every word that can be held out is, so that nothing long in the text was ever seen in training."""
    return is_held_out(text) and all(_is_held_out_key(key) for key in _keys(text))


@lru_cache(maxsize=2)
def dictionary(split: Split) -> tuple[str, ...]:
    """The common English words of a split, lower case, sorted; words of up to three letters are all for training."""
    text = files("minicpmv.data.worlds").joinpath("english_words.txt").read_text(encoding="ascii")
    return tuple(word for word in text.split() if any(map(_is_held_out_key, _keys(word))) == (split == "held_out"))


def _pick(generator: Generator, choices: str | tuple[str, ...]) -> str:
    return choices[int(generator.random() * len(choices))]


def _whole(generator: Generator, low: int, high: int) -> int:
    """A whole number, low <= n < high; much faster than `generator.integers` for single values."""
    return low + int(generator.random() * (high - low))


def _with_case(generator: Generator, word: str) -> str:
    draw = generator.random()
    return word if draw < 0.55 else word.title() if draw < 0.82 else word.upper()


def dictionary_word(generator: Generator, split: Split) -> str:
    """A common English word in lower, Title or UPPER case."""
    return _with_case(generator, _pick(generator, dictionary(split)))


def pseudo_word(generator: Generator) -> str:
    """A word that does not exist but can be pronounced, so that reading cannot become guessing."""
    syllables = "".join(
        _pick(generator, _CONSONANTS) + _pick(generator, _VOWELS) for _ in range(_whole(generator, 1, 4))
    )
    return _with_case(generator, syllables + _pick(generator, _ENDINGS))


def number(generator: Generator) -> str:
    """A count, decimal, percentage or phone-like number."""
    kind = generator.random()
    value = _whole(generator, 0, 10 ** _whole(generator, 1, 6))
    if kind < 0.5:
        return str(value)
    if kind < 0.65:
        return f"{value:,}"
    if kind < 0.8:
        return f"{value / 100:.2f}"
    if kind < 0.9:
        return f"{value % 101}%"
    return f"{value % 1000:03d}-{_whole(generator, 0, 10000):04d}"


def price(generator: Generator) -> str:
    """An amount of money."""
    amount = _whole(generator, 1, 10 ** _whole(generator, 3, 6)) / 100
    return f"${amount:.2f}" if generator.random() < 0.7 else f"{amount:.2f}"


def phone(generator: Generator) -> str:
    """A phone number of seven digits."""
    return f"{100 + int(generator.random() * 900)}-{int(generator.random() * 10000):04d}"


def time_or_date(generator: Generator) -> str:
    """A time of day or a calendar date in one of several notations."""
    kind = generator.random()
    day, month, year = _whole(generator, 1, 29), _whole(generator, 1, 13), _whole(generator, 1980, 2040)
    if kind < 0.5:
        return f"{_whole(generator, 0, 24):02d}:{_whole(generator, 0, 60):02d}"
    if kind < 0.65:
        return f"{year}-{month:02d}-{day:02d}"
    if kind < 0.8:
        return f"{day:02d}/{month:02d}/{year}"
    return f"{day} {_MONTHS[month - 1]} {year}" if kind < 0.9 else f"{_MONTHS[month - 1]} {day}"


def code(generator: Generator) -> str:
    """A serial number or random identifier."""
    if generator.random() < 0.4:
        letters = "".join(_pick(generator, _CODE_CHARACTERS[:24]) for _ in range(_whole(generator, 1, 4)))
        return f"{letters}-{_whole(generator, 1, 10 ** _whole(generator, 2, 5))}"
    return "".join(_pick(generator, _CODE_CHARACTERS) for _ in range(_whole(generator, 3, 9)))


def punctuated(generator: Generator, split: Split) -> str:
    """A word with marks around it, or now and then a few symbols alone."""
    if generator.random() < 0.2:
        return "".join(_pick(generator, _SYMBOLS) for _ in range(_whole(generator, 2, 6)))
    word = dictionary_word(generator, split)
    draw = generator.random()
    if draw < 0.6:
        return word + _pick(generator, _MARKS)
    pair = _pick(generator, ("()", "[]", '""', "''", "##", "<>", "{}", "--", "**", "::"))
    return pair[0] + word + pair[1]


def of_split(generator: Generator, split: Split, draw: Callable[[Generator], str]) -> str:
    """What a function draws, in training nothing that is held out; in evaluation anything.

    Args:
        generator: source of randomness.
        split: who will see it.
        draw: for example `code` or `time_or_date`.
    """
    while True:
        text = draw(generator)
        if split == "held_out" or not is_held_out(text):
            return text


def _any_word(generator: Generator, split: Split, kind: float) -> str:
    """A word of the kind that a number from 0 to 1 stands for.

    60 % dictionary, 18 % numbers, prices and times, 15 % codes and made-up words, 7 % punctuation.
    """
    if kind < 0.60:
        return dictionary_word(generator, split)
    if kind < 0.66:
        return number(generator)
    if kind < 0.72:
        return price(generator)
    if kind < 0.78:
        return time_or_date(generator)
    if kind < 0.855:
        return code(generator)
    return pseudo_word(generator) if kind < 0.93 else punctuated(generator, split)


def random_word(generator: Generator, split: Split) -> str:
    """One word (a date may contain spaces) that belongs to the split as a whole.

    The mixture of kinds is the same in both splits. A short word cannot be held out by itself; it belongs to both.
    """
    kind = generator.random()
    while True:
        word = _any_word(generator, split, kind)
        held_out = [_is_held_out_key(key) for key in _keys(word)]
        if not any(held_out) if split == "train" else all(held_out):
            return word


def random_line(generator: Generator, split: Split, *, max_words: int = 3) -> str:
    """One to `max_words` words; in the held-out split nothing that could be held out was seen in training."""
    while True:
        line = " ".join(random_word(generator, split) for _ in range(_whole(generator, 1, max_words + 1)))
        if is_held_out(line) == (split == "held_out"):
            return line
