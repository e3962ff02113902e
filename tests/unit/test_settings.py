"""Settings are read strictly: what is not understood is refused with the place and a remedy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from minicpmv.errors import SettingsError
from minicpmv.settings import dump_settings, read_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    steps: int
    inner: Inner
    stages: tuple[Inner, ...] = ()
    weights: Mapping[str, float] | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    usual: Inner = Inner(rate=2.0)
    spare: Inner | None = None


GOOD = {"steps": 3, "inner": {"rate": 1}}


def test_nested_values_become_dataclasses_and_whole_numbers_may_stand_for_floats() -> None:
    read = read_settings({**GOOD, "stages": [{"rate": 0.5, "kind": "b"}], "weights": {"x": 2}}, Outer)
    assert read == Outer(steps=3, inner=Inner(rate=1.0), stages=(Inner(rate=0.5, kind="b"),), weights={"x": 2.0})
    assert isinstance(read.inner.rate, float)


@pytest.mark.parametrize(
    ("given", "place", "remedy"),
    [
        ({**GOOD, "step": 3}, "unknown key 'step'", "'steps'"),
        ({"steps": 3}, "lacks inner", ""),
        ({**GOOD, "inner": {"rate": "1e-4"}}, "inner.rate is '1e-4'", "1.0e-4"),
        ({**GOOD, "steps": True}, "steps is True", ""),
        ({**GOOD, "steps": 1.5}, "steps is 1.5", ""),
        ({**GOOD, "inner": {"rate": 1, "kind": "c"}}, "inner.kind is 'c'", "'a', 'b'"),
        ({**GOOD, "stages": [{"rate": 1}, {"rat": 1}]}, "stages.1 has the unknown key 'rat'", "'rate'"),
        ({**GOOD, "betas": [0.9]}, "a list of 2", ""),
        ({**GOOD, "inner": {"rate": "1.0e30"}}, "inner.rate is '1.0e30'", "the sign of the exponent"),
        ({**GOOD, "weights": [1]}, "weights is [1], expected a mapping", ""),
        ([1], "expected a mapping", ""),
    ],
)
def test_mistakes_are_named_with_their_place(given: dict[str, object], place: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(given, Outer)
    assert place in str(caught.value)
    assert remedy in str(caught.value)


def test_overrides_reach_nested_keys_and_list_items() -> None:
    given = {**GOOD, "stages": [{"rate": 1}, {"rate": 2}]}
    read = read_settings(given, Outer, ["stages.1.rate=1e-3", "inner.kind=b", "steps=7"])
    assert (read.stages[1].rate, read.inner.kind, read.steps) == (1e-3, "b", 7)
    assert given["stages"] == [{"rate": 1}, {"rate": 2}], "the caller's mapping is left alone"


def test_overrides_reach_into_what_is_left_to_the_defaults() -> None:
    assert read_settings(GOOD, Outer, ["usual.kind=b"]).usual == Inner(rate=2.0, kind="b")
    assert read_settings(GOOD, Outer, ["usual.rate=3", "usual.kind=b"]).usual == Inner(rate=3.0, kind="b")
    with pytest.raises(SettingsError, match="given as a whole"):
        read_settings(GOOD, Outer, ["spare.kind=b"])
    assert read_settings(GOOD, Outer, ["spare={rate: 1}", "spare.kind=b"]).spare == Inner(rate=1.0, kind="b")


@pytest.mark.parametrize("override", ["steps", "=3", "nowhere.rate=1", "stages.5.rate=1", "steps=[1", "steps.more=1"])
def test_overrides_that_lead_nowhere_are_refused(override: str) -> None:
    with pytest.raises(SettingsError):
        read_settings(GOOD, Outer, [override])


def test_the_dump_reads_back_to_the_same_settings(tmp_path: Path) -> None:
    settings = read_settings({**GOOD, "weights": {"x": 2}}, Outer)
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_settings(settings), encoding="utf-8")
    assert read_settings(path, Outer) == settings


@pytest.mark.parametrize(
    "content",
    ["a: [", "just words", "", "a: &a [*a]", "a: &a [1]\nb: [*a, *a]", f"a: {'[' * 20_000}"],
    ids=["cut", "words", "empty", "itself", "aliases", "deep"],
)
def test_files_that_hold_no_mapping_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"is not readable YAML|holds no mapping"):
        read_settings(path, Outer)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        read_settings(tmp_path / "absent.yaml", Outer)
