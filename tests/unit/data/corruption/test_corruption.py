"""Damage grows with its strength, levels mean what a reader can read, and targets say what was there."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from minicpmv.data.corruption.calibration import Calibration, Crop, Curve, crop_of, error_rate, measure
from minicpmv.data.corruption.corrupt import FRAME, CorruptedPage, corrupt
from minicpmv.data.corruption.operators import FILLS, OPERATORS, cover
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.paper import PageSample, Paper
from minicpmv.data.worlds.receipts import render_receipt
from minicpmv.errors import OptionError

FACES = find_faces("train", system=False)
Pixels = NDArray[np.uint8]


def page(seed: int = 0, num_items: int = 8) -> PageSample:
    return render_receipt(np.random.default_rng(seed), faces=FACES, split="train", num_items=num_items, width=224)


def crops(num: int = 12) -> list[Crop]:
    found = []
    for seed in range(num):
        sample = page(seed)
        region = sample.regions[1]
        box = region.box
        pixels = crop_of(sample.image, (box.left, box.top, box.right, box.bottom))
        found.append(Crop(pixels, region.text, box.height))
    return found


def likeness(one: Pixels, other: Pixels) -> float:
    """Correlation of two pictures, -1 to 1; 0 if one of them is plain."""
    a, b = (picture.astype(np.float64).mean(2).ravel() for picture in (one, other))
    if a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


class LikenessReader:
    """Reads a share of the characters of a crop that it knows: as large as its likeness to the clean crop."""

    def __init__(self, known: Sequence[Crop]) -> None:
        self.known = known

    def __call__(self, pictures: Sequence[Pixels]) -> list[str]:
        read = []
        for crop, picture in zip(self.known, pictures, strict=True):
            right = round(len(crop.text) * min(1.0, max(0.0, 1.15 * likeness(crop.pixels, picture) - 0.1)))
            read.append(crop.text[:right])
        return read


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    known = crops()
    return measure(np.random.default_rng(0), known, LikenessReader(known), name="likeness")


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_more_strength_is_more_damage_and_nothing_is_left_at_the_end(name: str) -> None:
    operator = OPERATORS[name]
    alike = {strength: [] for strength in (0.05, 0.4, 1.0)}
    for seed, crop in enumerate(crops(40)):
        for strength in alike:
            damaged = operator(np.random.default_rng(seed), crop.pixels, strength, crop.text_px)
            assert damaged.shape == crop.pixels.shape
            assert damaged.dtype == np.uint8
            alike[strength].append(likeness(crop.pixels, damaged))
    weak, middle, full = (float(np.mean(alike[strength])) for strength in (0.05, 0.4, 1.0))
    assert weak > 0.7, "the weakest damage is mild (measured: speckle 0.76, others at least 0.82)"
    assert weak > middle > full
    assert full < 0.55, "the strongest leaves little (measured: motion 0.45, others at most 0.37)"


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_damage_depends_on_its_generator_only(name: str) -> None:
    crop = crops(1)[0]
    before = crop.pixels.copy()
    one, same = (OPERATORS[name](np.random.default_rng(3), crop.pixels, 0.4, crop.text_px) for _ in range(2))
    assert np.array_equal(one, same)
    assert np.array_equal(crop.pixels, before), "the original is left alone"


@pytest.mark.parametrize("fill", FILLS)
def test_a_cover_is_one_colour(fill: str) -> None:
    covered = cover(np.random.default_rng(0), crops(1)[0].pixels, fill)
    assert len(np.unique(covered.reshape(-1, 3), axis=0)) == 1


def test_bands_keep_to_the_error_rates_they_stand_for(calibration: Calibration) -> None:
    known = crops()
    reader = LikenessReader(known)
    assert calibration.clean_error_rate == 0.0
    for name in OPERATORS:
        moderate = calibration.band(name, "moderate")
        assert moderate is not None, name
        low = calibration.band(name, "low")
        assert low is not None
        assert low[1] < moderate[0], "the levels are apart"
        places = [(strength, 0.06) for strength in low] + [(strength, 0.15) for strength in np.linspace(*moderate, 3)]
        for strength, room in places:  # of twelve lines; measured at most 0.044 and 0.122
            damaged = [
                OPERATORS[name](np.random.default_rng([9, index]), crop.pixels, float(strength), crop.text_px)
                for index, crop in enumerate(known)
            ]
            expected = calibration.curves[name].error_rate(float(strength))
            assert error_rate(known, reader(damaged)) == pytest.approx(expected, abs=room), (name, strength)
    assert calibration.band("blur", "high") is None


@pytest.mark.parametrize("clean", [0.0, 0.15, 0.2, 0.4, 0.6])
def test_levels_of_a_weak_reader_are_apart(clean: float) -> None:
    curves = {"blur": Curve((0.0, 1.0), (clean, 1.0)), "fade": Curve((0.0, 0.5, 1.0), (clean, 0.9, 0.9))}
    weak = Calibration("weak", 9, clean, curves)
    for name, curve in curves.items():
        low, moderate = weak.band(name, "low"), weak.band(name, "moderate")
        assert low is not None
        assert moderate is not None
        assert low[0] == 0.0
        assert curve.error_rate(low[1]) <= 0.05 + clean + 1e-9
        assert curve.error_rate(moderate[0]) >= max(0.2, clean + 0.15) - 1e-9
        assert low[1] < moderate[0]


def test_the_gap_between_levels_leaves_the_bundled_calibration_as_it_is() -> None:
    bundled = Calibration.bundled()
    for name, curve in bundled.curves.items():
        assert bundled.band(name, "low") == curve.band(0.0, 0.05 + bundled.clean_error_rate)
        assert bundled.band(name, "moderate") == curve.band(0.2, 0.8)


def test_a_reader_that_reads_nothing_is_refused_before_it_reads_damage() -> None:
    calls = []

    def read(pictures: Sequence[Pixels]) -> list[str]:
        calls.append(len(pictures))
        return [""] * len(pictures)

    with pytest.raises(OptionError, match=r"blind gets 100 % .* clean lines wrong.*tesseract"):
        measure(np.random.default_rng(0), crops(3), read, name="blind")
    assert calls == [3]


@pytest.mark.parametrize(
    ("clean", "curves", "says"),
    [
        (1.0, {"blur": Curve((0.0, 1.0), (1.0, 1.0))}, "gets 100 %"),
        (0.1, {"blur": Curve((0.0, 1.0), (0.1, 0.1))}, "no damage is moderate"),
        (0.1, {}, "no damage is moderate"),
        (-1.0, {"blur": Curve((0.0, 1.0), (0.0, 1.0))}, "clean lines wrong"),
        (0.0, {"rain": Curve((0.0, 1.0), (0.0, 1.0))}, r"the operator 'rain'\. There are noise, "),
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(clean: float, curves: dict[str, Curve], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Calibration("weak", 9, clean, curves)


@pytest.mark.parametrize(
    ("strengths", "rates"),
    [((0, 1), (0,)), ((0,), (0,)), ((1, 0), (0, 1)), ((0, 1), (1, 0)), ((0, 2), (0, 1)), ((0, 1), (0, float("nan")))],
)
def test_what_is_no_curve_is_refused(strengths: tuple[float, ...], rates: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="are no curve"):
        Curve(strengths, rates)


def test_curves_never_fall(calibration: Calibration) -> None:
    for curve in calibration.curves.values():
        assert list(curve.error_rates) == sorted(curve.error_rates)
        assert curve.error_rate(0.0) == curve.error_rates[0]
    assert Curve((0.0, 1.0), (0.0, 0.5)).error_rate(0.5) == 0.25
    assert Curve((0.0, 1.0), (0.0, 0.1)).band(0.2, 0.8) is None


def test_a_calibration_comes_back_from_its_file(calibration: Calibration, tmp_path: Path) -> None:
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration
    (tmp_path / "wrong.json").write_text('{"reader": 1}')
    with pytest.raises(OptionError, match=r"wrong\.json is not a calibration"):
        Calibration.load(tmp_path / "wrong.json")
    for wrong in ([], {"curves": []}, {"curves": {"blur": 1}}, {"reader": "x", "num_crops": 1, "curves": {}}):
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        with pytest.raises(OptionError, match=r"wrong\.json is not a calibration"):
            Calibration.load(tmp_path / "wrong.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda fields: fields["curves"].update(rain=fields["curves"]["blur"]), "the operator 'rain'"),
        (lambda fields: fields.update(clean_error_rate=1.0), "gets 100 %"),
        (lambda fields: fields["curves"]["blur"]["error_rates"].pop(), "are no curve"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_when_it_is_loaded(
    change: Callable[[dict[str, Any]], object], says: str, calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(OptionError, match=f"calibration\\.json: .*{says}"):
        Calibration.load(path)


def test_errors_are_counted_over_all_characters() -> None:
    two = [Crop(np.zeros((4, 4, 3), np.uint8), text, 4) for text in ("abcd", "ef")]
    assert error_rate(two, ["abcd", "ef"]) == 0
    assert error_rate(two, ["abxd", "e"]) == pytest.approx(2 / 6)
    assert error_rate(two, ["x" * 40, ""]) == 1


def corrupted(seed: int, calibration: Calibration, **options: object) -> tuple[PageSample, CorruptedPage]:
    sample = page(seed)
    return sample, corrupt(np.random.default_rng(seed), sample.image, sample.regions, calibration, **options)


def test_only_the_boxes_of_targets_change_and_a_frame_around_each(calibration: Calibration) -> None:
    for seed in range(10):
        sample, result = corrupted(seed, calibration)
        outside, inside = np.ones((2, *sample.image.shape[:2]), dtype=bool)
        for target in result.targets:
            left, top, right, bottom = target.box
            outside[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
            inside[top:bottom, left:right] = False
            assert target.text == sample.regions[target.region].text
        assert np.array_equal(result.image[outside], sample.image[outside])
        framed = result.image[inside & ~outside]
        assert len(framed)
        assert (framed == FRAME).all()
        assert [target.region for target in result.targets] == sorted({target.region for target in result.targets})


def test_levels_and_shares_come_out_as_asked(calibration: Calibration) -> None:
    levels: list[str] = []
    shares = []
    for seed in range(150):
        sample, result = corrupted(seed, calibration, most=99)
        levels += [target.level for target in result.targets]
        shares.append(len(result.targets) / len(sample.regions))
        for target in result.targets:
            assert (target.operator in FILLS) == (target.level == "high")
            if target.level == "moderate":
                assert 0.19 <= target.expected_cer <= 0.81
            if target.level == "low":
                assert target.expected_cer <= 0.051
    assert min(shares) > 0.12
    assert max(shares) < 0.43
    counted = [levels.count(level) / len(levels) for level in ("low", "moderate", "high")]
    assert counted == pytest.approx([0.4, 0.3, 0.3], abs=0.08)


def test_a_covered_region_shows_nothing_of_its_text(calibration: Calibration) -> None:
    sample, result = corrupted(3, calibration, shares={"high": 1.0})
    for target in result.targets:
        left, top, right, bottom = target.box
        assert len(np.unique(result.image[top:bottom, left:right].reshape(-1, 3), axis=0)) == 1
        ink = sample.regions[target.region].box
        assert left <= ink.left
        assert top <= ink.top
        assert right >= min(ink.right, sample.image.shape[1])
        assert bottom >= min(ink.bottom, sample.image.shape[0])


def test_frames_are_broader_on_larger_pages_and_end_with_the_page(calibration: Calibration) -> None:
    sample = page()
    large = np.pad(sample.image, ((0, 1800 - sample.image.shape[0]), (0, 0), (0, 0)), mode="edge")
    at_the_edge = [region for region in sample.regions if region.box.right > sample.image.shape[1] - 6]
    result = corrupt(np.random.default_rng(0), large, at_the_edge, calibration, most=1)
    ((left, top, right, bottom),) = [target.box for target in result.targets]
    assert (result.image[top - 4 : top, left:right] == FRAME).all()
    assert not (result.image[top - 5, left:right] == FRAME).all(axis=-1).any()
    assert result.image.shape == large.shape


@pytest.mark.parametrize("options", [{"shares": {"severe": 1.0}}, {"shares": {"low": 0.0}}])
def test_impossible_shares_are_refused(options: dict[str, object], calibration: Calibration) -> None:
    with pytest.raises(OptionError, match="cannot be corrupted"):
        corrupted(0, calibration, **options)


def test_a_region_that_nobody_can_see_is_no_target(calibration: Calibration) -> None:
    paper = Paper((40, 60))
    paper.write("text", [("here", 5, 20)], FACES[0], 14)
    paper.write("text", [("gone", 90, 20)], FACES[0], 14)
    sheet = paper.finish(np.random.default_rng(0), "note")
    for seed in range(10):
        cut = corrupt(np.random.default_rng(seed), sheet.image[:, :60], sheet.regions, calibration)
        assert [target.text for target in cut.targets] == ["here"]


def test_a_page_without_regions_is_refused(calibration: Calibration) -> None:
    with pytest.raises(OptionError, match="0 regions"):
        corrupt(np.random.default_rng(0), np.zeros((9, 9, 3), np.uint8), [], calibration)


def test_without_rapidfuzz_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(OptionError, match="needs rapidfuzz"):
        error_rate(crops(1), ["x"])
