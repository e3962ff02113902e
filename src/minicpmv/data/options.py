"""Options of worlds, checked when a world is opened and not at the first drawing in a data worker."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from minicpmv.errors import OptionError

Name = TypeVar("Name", bound=str)


def checked_range(name: str, value: Any, lowest: int, highest: int | None = None) -> tuple[int, int]:
    """A number, or the smallest and the largest one, as a pair.

    Args:
        name: of the option.
        value: what was given.
        lowest: smallest number allowed.
        highest: largest number allowed; None without a bound.

    Raises:
        OptionError: neither one whole number nor two in order, or out of bounds.

    >>> checked_range("lines", 3, 1), checked_range("lines", [2, 5], 1)
    ((3, 3), (2, 5))
    """
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    whole = len(pair) == 2 and all(isinstance(number, int) and not isinstance(number, bool) for number in pair)
    if not whole or not lowest <= pair[0] <= pair[1] or (highest is not None and pair[1] > highest):
        allowed = f"from {lowest}" + ("" if highest is None else f" to {highest}")
        raise OptionError(f"{name} is {value}.", remedy=f"Give one number {allowed}, or the smallest and the largest.")
    return pair[0], pair[1]


def checked_number(name: str, value: Any, lowest: int, highest: int) -> int:
    """A whole number.

    Raises:
        OptionError: none, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise OptionError(f"{name} is {value}.", remedy=f"Give one number from {lowest} to {highest}.")
    return value


def checked_path(name: str, value: Any) -> Path:
    """A file or folder by its name.

    Raises:
        OptionError: something else.
    """
    if not isinstance(value, str) or not value:
        raise OptionError(f"{name} is {value!r}.", remedy="Give the path of a file or folder.")
    return Path(value)


def checked_paths(name: str, value: Any) -> tuple[Path, ...]:
    """One file or several.

    Raises:
        OptionError: something else, or none.
    """
    several = value if isinstance(value, list | tuple) and value else [value]
    return tuple(checked_path(name, one) for one in several)


def checked_names(name: str, value: Any, known: Sequence[str]) -> tuple[str, ...]:
    """Some of the names that are known, at least one.

    Raises:
        OptionError: none, or one that is not known.
    """
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if not names or any(one not in known for one in names):
        raise OptionError(f"{name} is {value}.", remedy=f"List some of {', '.join(known)}.")
    return names


def checked_share(name: str, value: Any) -> float:
    """A number from 0 to 1.

    Raises:
        OptionError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise OptionError(f"{name} is {value}.", remedy="Give a share from 0 to 1.")
    return float(value)


def checked_shares(name: str, value: Any, known: Sequence[Name]) -> Mapping[Name, float]:
    """How often each of the names that are known is taken; some of them may be missing.

    Raises:
        OptionError: an unknown name, a negative or no number, or nothing at all.
    """
    fits = isinstance(value, Mapping) and not set(value) - set(known)
    weights = list(value.values()) if fits else []
    if not weights or any(isinstance(one, bool) or not isinstance(one, int | float) for one in weights):
        raise OptionError(f"{name} is {value}.", remedy=f"Give numbers for some of {', '.join(known)}.")
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise OptionError(f"{name} is {value}.", remedy="Give numbers from 0 up, one of them more than 0.")
    return dict(value)


def checked_flag(name: str, value: Any) -> bool:
    """Yes or no.

    Raises:
        OptionError: something else.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {value!r}.", remedy="Write true or false.")
    return value
