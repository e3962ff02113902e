from pathlib import Path

import pytest

from minicpmv.cli.inputs import MisuseError, files_and_question, parse_pages
from minicpmv.errors import OptionError


@pytest.mark.parametrize(
    ("text", "pages"), [("3", (3,)), ("1-3,7", (1, 2, 3, 7)), ("7, 2-2 ,2", (7, 2)), ("2,1", (2, 1))]
)
def test_pages_are_numbers_and_ranges(text: str, pages: tuple[int, ...]) -> None:
    assert parse_pages(text) == pages


@pytest.mark.parametrize("text", ["", "0", "a", "3-1", "1-", "-3", "1--2", "1.5", "1,,2", "1-99999999999"])
def test_what_is_no_list_of_pages_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="pages"):
        parse_pages(text)


def test_the_last_word_is_the_question() -> None:
    assert files_and_question(["a.png", "b.mp4", "What?"]) == (["a.png", "b.mp4"], "What?")
    assert files_and_question(["What?"]) == ([], "What?")


def test_a_file_in_the_place_of_the_question_is_misuse(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.touch()
    with pytest.raises(MisuseError, match="is the question, but"):
        files_and_question([str(file)])


def test_an_empty_question_is_misuse() -> None:
    with pytest.raises(MisuseError, match="empty"):
        files_and_question(["a.png", "  "])
