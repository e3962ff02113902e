"""Each check drops what it is made for, keeps what it should keep, and says why."""

import io
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.data import filters
from minicpmv.data.filters import Check, NearDuplicates, Sieve
from minicpmv.data.readers import Flaw
from minicpmv.data.sample import Sample
from minicpmv.errors import OptionError
from minicpmv.messages import DocumentPart, ImagePart, Message, Part, TextPart, VideoPart

GERMAN = "Der Hund läuft schnell über die grüne Wiese und freut sich über das schöne Wetter."
ENGLISH = "The dog runs quickly over the green meadow and is glad about the beautiful weather."


def sample(answer: str = "Red.", *media: Part, question: str = "Which colour?", key: str = "a:1") -> Sample:
    asked = Message("user", (*media, TextPart(question)))
    return Sample(key, (asked, Message("assistant", (TextPart(answer),))))


PICTURE = ImagePart(Image.new("RGB", (64, 64)))
SMALL = ImagePart(Image.new("RGB", (64, 8)))
CASES: dict[str, tuple[Check, Sample, Sample]] = {
    "small picture": (filters.media_open(), sample("Red.", PICTURE), sample("Red.", PICTURE, SMALL)),
    "missing picture": (filters.media_open(), sample(), sample("Red.", ImagePart("/nowhere/a.png"))),
    "broken clip": (
        filters.media_open(),
        sample("Red.", VideoPart(frames=(Image.new("RGB", (64, 64)),))),
        sample("Red.", VideoPart(b"\0\0\0\x18ftypmp42 and then nothing")),
    ),
    "empty answer": (filters.answer_length(2, 10), sample("ok"), sample("")),
    "long answer": (filters.answer_length(2, 10), sample("ok"), sample("o" * 11)),
    "language": (filters.language({"en"}), sample(ENGLISH), sample(GERMAN)),
    "short text has no language": (filters.language({"en"}), sample("Ja."), sample(GERMAN)),
    "repetition": (filters.repetition(4, 2), sample(ENGLISH), sample("on and on and on and on and on and on")),
    "balance": (filters.balance(10), sample("Red.", PICTURE), sample("Red.", *[PICTURE] * 9)),
    "similarity": (
        filters.similarity(lambda one: 0.3 if "Red" in one.text else 0.1, 0.2),
        sample("Red.", PICTURE),
        sample("Blue.", PICTURE),
    ),
    "visual dependence": (
        filters.visual_dependence(lambda one: "It is red"),
        sample("Blue.", PICTURE),
        sample("it is red.", PICTURE),
    ),
    "consistency": (
        filters.consistency(lambda one: ["red", "Red!", "blue"], 0.6),
        sample("Red."),
        sample("Blue."),
    ),
    "difficulty": (
        filters.difficulty(lambda one: ["red", "Red!", "blue"], 0.5),
        sample("Blue."),
        sample("Red."),
    ),
    "knowledge density": (
        filters.knowledge_density(0.2),
        sample("Marie Curie won it in 1903 and 1911.", question="who"),
        sample("it is so very nice to be here", question="how"),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_check_keeps_the_one_and_drops_the_other_with_a_reason(name: str) -> None:
    check, good, bad = CASES[name]
    assert check(good) is None
    assert check(bad)


def test_text_only_samples_pass_checks_of_pictures() -> None:
    assert filters.similarity(lambda one: 0.0, 0.5)(sample()) is None
    assert filters.visual_dependence(lambda one: "Red.")(sample("Red.")) is None


def test_near_duplicates_are_found_whatever_stands_around_them() -> None:
    check = NearDuplicates(0.7)
    assert check(sample(ENGLISH * 2, key="a:1")) is None
    assert check(sample(GERMAN * 2, key="a:2")) is None
    assert check(sample(ENGLISH * 2 + " Indeed.", key="a:3")) == "it is nearly a:1."
    assert check(sample("Something else entirely, about trains and bridges in the north.", key="a:4")) is None
    assert check(sample("A file of the same name may lie in another folder, far away.", key="a:4")) is None


def test_duplicates_have_the_same_media_and_nearly_the_same_words(tmp_path: Path) -> None:
    for name, colour in (("red.png", "red"), ("copy.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / name)
    red, copy, blue = (ImagePart(str(tmp_path / name)) for name in ("red.png", "copy.png", "blue.png"))
    held = ImagePart(Image.new("RGB", (40, 40), "green"))
    opened = ImagePart(io.BytesIO((tmp_path / "red.png").read_bytes()))
    check = NearDuplicates()
    assert check(sample("Yes.", red, key="red")) is None
    assert check(sample("Yes.", blue)) is None, "the same question about another picture"
    assert check(sample("Yes.", held)) is None
    assert check(sample("Yes.")) is None
    assert check(sample("A square of one colour.", red, question="What is to be seen?")) is None, "another question"
    assert check(sample("Yes.", copy)) == "it is nearly red."
    assert check(sample("Yes.", opened)) == "it is nearly red."
    assert check(sample("Yes.", ImagePart((tmp_path / "red.png").read_bytes()))) == "it is nearly red."
    assert opened.source.tell() == 0, "it can still be read"
    assert check(sample("Yes.", ImagePart(Image.new("RGB", (40, 40), "green"))))
    assert check(sample("Yes.", red, blue)) is None
    assert check(sample("Yes.", blue, red)) is None


def test_pages_of_one_document_and_clips_of_other_frames_are_no_duplicates() -> None:
    check = NearDuplicates()
    pages = [DocumentPart("https://example.org/a.pdf", pages=(page,)) for page in (1, 2)]
    shades = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 99)]
    clips = [VideoPart(frames=(shades[0], shades[1])), VideoPart(frames=(shades[1], shades[0]))]
    for part in (*pages, *clips):
        assert check(sample("Yes.", part)) is None
    for part in (*pages, *clips):
        assert check(sample("Yes.", part))


def test_a_language_that_nobody_knows_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="No language is called klingon.* Known: .*de, .*en, "):
        filters.language({"en", "klingon"})


def test_a_sieve_counts_by_the_first_check_that_objects(tmp_path: Path) -> None:
    sieve = Sieve({"length": filters.answer_length(2), "language": filters.language({"en"})})
    results = [sieve(sample(text, key=str(index))) for index, text in enumerate(["ok", "", GERMAN, ENGLISH])]
    assert [type(result).__name__ for result in results] == ["Sample", "Flaw", "Flaw", "Sample"]
    assert sieve.dropped == {"length": 1, "language": 1}
    assert isinstance(results[1], Flaw)
    assert results[1].key == "1"
    assert results[1].reason.startswith("length: ")
