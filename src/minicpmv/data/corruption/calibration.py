"""How strong is "low", how strong is "moderate"? Measured with a reader, for every operator, on bare crops.

    crops with their text, reader -> measure -> curve of error rates -> Calibration(bands) -> strengths per level

A level is defined by what can still be read without any context, not by a parameter of an operator: at *low* a reader
gets nearly every character, at *moderate* single characters are unreliable, at *high* the region is covered. So the
same reader that will be compared later says where one level ends and the next begins, and every sample can carry the
error rate that its damage is expected to cause.

Source: the three levels are those of arXiv 2509.18154, section 2.2.3; the error rates that bound them are ours.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.corruption.operators import OPERATORS, Pixels
from minicpmv.errors import OptionError

Level = Literal["low", "moderate", "high"]
LEVELS: tuple[Level, ...] = ("low", "moderate", "high")

LOW_CER = (0.0, 0.05)
"""A reader's error rate at the low level, beyond what it gets wrong on clean crops."""

MODERATE_CER = (0.20, 0.80)
"""A reader's error rate at the moderate level. Between the two lies a gap that belongs to neither."""

LEAST_GAP = 0.10
"""How far above the end of the low level the moderate one begins at least, for readers that get clean crops wrong."""

Reader = Callable[[Sequence[Pixels]], Sequence[str]]
"""Reads a batch of crops uint8 [height, width, 3]."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A picture of text alone, what it says, and how high the text is, in px."""

    pixels: Pixels
    text: str
    text_px: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Error rates of the reference reader at rising strengths of one operator.

    Raises:
        OptionError: strengths do not rise, error rates fall, or any of them lies outside of 0 to 1.
    """

    strengths: tuple[float, ...]
    error_rates: tuple[float, ...]

    def __post_init__(self) -> None:
        fits = len(self.strengths) == len(self.error_rates) > 1
        fits = fits and all(0 <= number <= 1 for number in (*self.strengths, *self.error_rates))
        fits = fits and all(one < other for one, other in pairwise(self.strengths))
        if not fits or any(one > other for one, other in pairwise(self.error_rates)):
            raise OptionError(
                f"Error rates {self.error_rates} at strengths {self.strengths} are no curve.",
                remedy="Give an error rate per strength, both rising from 0 to 1.",
            )

    def error_rate(self, strength: float) -> float:
        """The expected error rate at a strength, between the measured ones by a straight line."""
        return float(np.interp(strength, self.strengths, self.error_rates))

    def band(self, lowest: float, highest: float) -> tuple[float, float] | None:
        """The strengths between which the error rate lies in a range; None if the operator never gets there."""
        grid = np.linspace(self.strengths[0], self.strengths[-1], 401)
        rates = np.interp(grid, self.strengths, self.error_rates)
        inside = grid[(rates >= lowest) & (rates <= highest)]
        return (float(inside[0]), float(inside[-1])) if len(inside) else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one reader makes of every operator, and how it was found out.

    Raises:
        OptionError: an operator that does not exist, or a reader so weak that a level would have no operator.
    """

    reader: str
    num_crops: int
    clean_error_rate: float
    curves: Mapping[str, Curve]

    def __post_init__(self) -> None:
        unknown = [name for name in self.curves if name not in OPERATORS]
        if unknown:
            raise OptionError(
                f"A calibration has the operator {unknown[0]!r}.", remedy=f"There are {', '.join(OPERATORS)}."
            )
        if not 0 <= self.clean_error_rate <= 1 or not (self.operators("low") and self.operators("moderate")):
            raise _too_weak(self.reader, self.clean_error_rate)

    def band(self, operator: str, level: Level) -> tuple[float, float] | None:
        """Strengths of an operator that belong to a level; None where it has none. `high` has no strengths."""
        if level == "high":
            return None
        ends = LOW_CER[1] + self.clean_error_rate
        if level == "low":
            return self.curves[operator].band(LOW_CER[0], ends)
        return self.curves[operator].band(max(MODERATE_CER[0], ends + LEAST_GAP), MODERATE_CER[1])

    def operators(self, level: Level) -> tuple[str, ...]:
        """Operators that can damage at a level."""
        return tuple(name for name in self.curves if self.band(name, level) is not None)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def bundled(cls) -> "Calibration":
        """What Tesseract 5.3 reads of 80 damaged lines; written by `minicpmv data calibrate`."""
        return cls.load(Path(str(files("minicpmv.data.corruption"))) / "tesseract.json")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            OptionError: the file is no calibration, or none that can be used.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            curves = {
                name: Curve(tuple(curve["strengths"]), tuple(curve["error_rates"]))
                for name, curve in fields.pop("curves").items()
            }
            return cls(**fields, curves=curves)
        except OptionError as error:
            raise OptionError(f"{path}: {error.what}", remedy=error.remedy) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(
                f"{path} is not a calibration: {error}.", remedy="Write one with `minicpmv data calibrate`."
            ) from error


def measure(
    generator: Generator,
    crops: Sequence[Crop],
    reader: Reader,
    *,
    name: str,
    strengths: Sequence[float] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
) -> Calibration:
    """Let a reader read every crop at every strength of every operator.

    A curve is made monotonous by carrying its highest value on: more damage never makes a region count as clearer.

    Args:
        generator: randomness of the damage.
        crops: clean crops with their texts; a few hundred.
        reader: reads crops without any context.
        name: what the reader is called.
        strengths: rising, from 0 to 1.

    Raises:
        OptionError: the reader gets too much of the clean crops wrong, or strengths do not rise.
    """
    clean = error_rate(crops, reader([crop.pixels for crop in crops]))
    if clean + LOW_CER[1] + LEAST_GAP > MODERATE_CER[1]:
        raise _too_weak(name, clean)  # now, and not after hours of reading
    curves = {}
    for operator, damage in OPERATORS.items():
        rates = [clean]
        for strength in strengths[1:]:
            damaged = [damage(generator, crop.pixels, strength, crop.text_px) for crop in crops]
            rates.append(max(rates[-1], error_rate(crops, reader(damaged))))
        curves[operator] = Curve(tuple(strengths), tuple(round(rate, 4) for rate in rates))
    return Calibration(name, len(crops), round(clean, 4), curves)


def _too_weak(reader: str, clean: float) -> OptionError:
    return OptionError(
        f"{reader} gets {100 * clean:.0f} % of the characters of clean lines wrong, and no damage is moderate for it.",
        remedy="Calibrate with a reader that can read such lines, for instance tesseract.",
    )


def error_rate(crops: Sequence[Crop], texts: Sequence[str]) -> float:
    """Edits over characters, all crops together, at most 1.

    Raises:
        OptionError: rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise OptionError(
            "Counting character errors needs rapidfuzz.", remedy="Install it: pip install 'minicpmv[train]'."
        ) from None
    edits = sum(Levenshtein.distance(crop.text, text) for crop, text in zip(crops, texts, strict=True))
    return min(1.0, edits / max(1, sum(len(crop.text) for crop in crops)))


def crop_of(image: NDArray[np.uint8], box: tuple[float, float, float, float], margin: int = 3) -> Pixels:
    """A region with a little paper around it; `box` is left, top, right, bottom in px."""
    left, top, right, bottom = box
    rows = slice(max(0, int(top) - margin), min(image.shape[0], int(np.ceil(bottom)) + margin))
    columns = slice(max(0, int(left) - margin), min(image.shape[1], int(np.ceil(right)) + margin))
    return np.ascontiguousarray(image[rows, columns])
