"""Strict settings: YAML to frozen dataclasses, with dotted overrides and a resolved dump.

    recipe.yaml + ["optimiser.lr=1e-3"] -> read_settings(..., Recipe) -> Recipe(...)

A recipe is one complete document: no inheritance between files, no interpolation. Whatever it says is checked here
once, so that a run never fails an hour in because a key was misspelled. Two traps of YAML are caught on the
way: `1e-4` is a *string* in YAML 1.1, and `true` would pass for the number 1.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from minicpmv.errors import OptionError, SettingsError

T = TypeVar("T")


def read_settings(source: Path | str | Mapping[str, Any], kind: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a YAML file (or its already parsed content) into the dataclass `kind`.

    Args:
        source: path of a YAML file, or a mapping.
        kind: a dataclass; nested dataclasses, tuples, mappings, literals and optionals are followed.
        overrides: `a.b=value` changes, values in YAML notation; a number indexes a list.

    Raises:
        SettingsError: unreadable file, unknown key (the nearest name is suggested), wrong type, or a failed check.
    """
    where = "settings"
    if isinstance(source, Path | str):
        where = str(source)
        source = parse_yaml(Path(source))
    tree = _copied(source)
    for override in overrides:
        _apply(tree, override, kind)
    try:
        built: T = _build(tree, kind, where)
    except SettingsError as error:
        if not overrides:
            raise
        _build(source, kind, where)  # a flaw of the file is not theirs
        what = error.what.replace(f"{where}.", "").replace(where, "the recipe")
        raise SettingsError(f"With {' '.join(overrides)}: {what}", remedy=error.remedy) from None
    return built


def dump_settings(settings: Any) -> str:
    """The resolved settings as YAML, for the run's record."""
    return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)


def parse_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML file with a mapping at top level.

    Raises:
        SettingsError: it is missing, unreadable or something else.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _WithoutAliases)
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist.", remedy="Check the path.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{path} is not readable YAML: {error}", remedy="Fix the file.") from None
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{path} holds no mapping at top level.", remedy="Write `key: value` lines.")
    return tree


class _WithoutAliases(yaml.SafeLoader):
    """YAML in which everything stands where it is meant: a few nested aliases would be gigabytes, or never end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not read; write the value out", mark)
        return super().compose_node(parent, index)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _apply(tree: Any, override: str, kind: Any) -> None:
    """Set one dotted path in place, also inside of what the tree leaves to the defaults of `kind`."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise SettingsError(f"{override!r} is not an override.", remedy="Write it as a.b=value.")
    *parents, last = path.split(".")
    for key in parents:
        default, kind = _default(kind, key)
        if isinstance(tree, dict) and key not in tree and default is not None:
            tree[key] = _copied(_plain(default))
        tree = _step(tree, key, path)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise SettingsError(f"The override {override!r} has a value that is no YAML.", remedy="Quote it.") from None
    if isinstance(value, str):
        value = _number(value)
    if isinstance(tree, list):
        _step(tree, last, path)
        tree[int(last)] = value
    elif isinstance(tree, dict):
        tree[last] = value
    else:
        raise SettingsError(f"The override {path!r} leads nowhere at {last!r}.", remedy="See `minicpmv recipes show`.")


def _default(kind: Any, key: str) -> tuple[Any, Any]:
    """What a field of a dataclass is if nobody says so, and its type; nothing of anything else."""
    if not (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
        return None, None
    field = next((field for field in dataclasses.fields(kind) if field.name == key), None)
    if field is None:
        return None, None
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    told = get_type_hints(kind)[key]
    inner = [one for one in (told, *get_args(told)) if dataclasses.is_dataclass(one)]
    return None if default is dataclasses.MISSING else default, inner[0] if inner else None


def _step(tree: Any, key: str, path: str) -> Any:
    if isinstance(tree, dict) and key in tree:
        return tree[key]
    if isinstance(tree, list) and key.isdigit() and int(key) < len(tree):
        return tree[int(key)]
    remedy = (
        "See `minicpmv recipes show`; what the recipe does not have is given as a whole: --set 'lora={rank: 8, ...}'."
    )
    raise SettingsError(f"The override {path!r} leads nowhere at {key!r}.", remedy=remedy)


def _number(text: str) -> Any:
    """On the command line `1e-4` is meant as a number, although YAML 1.1 reads a string."""
    try:
        return float(text)
    except ValueError:
        return text


def _build(value: Any, kind: Any, where: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(value, kind, where)
    if origin in (typing.Union, types.UnionType):
        return _build_union(value, kind, where)
    if origin is typing.Literal:
        if value not in get_args(kind):
            choices = ", ".join(repr(choice) for choice in get_args(kind))
            raise SettingsError(f"{where} is {value!r}.", remedy=f"Choose one of {choices}.")
        return value
    if origin is tuple:
        return _build_tuple(value, kind, where)
    if origin in (dict, Mapping):
        key_kind, item_kind = get_args(kind)
        if not isinstance(value, Mapping):
            raise _wrong(value, "a mapping", where)
        return {_build(k, key_kind, where): _build(v, item_kind, f"{where}.{k}") for k, v in value.items()}
    return _build_scalar(value, kind, where)


def _build_dataclass(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(value, "a mapping", where)
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(fields)}."
            raise SettingsError(f"{where} has the unknown key {key!r}.", remedy=remedy)
    absent = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if absent:
        raise SettingsError(f"{where} lacks {', '.join(absent)}.", remedy="Add the missing keys.")
    built = {key: _build(item, hints[key], f"{where}.{key}") for key, item in value.items()}
    try:
        return kind(**built)
    except OptionError as error:  # of what is no recipe by itself, and does not know where it stands
        raise SettingsError(f"{where}: {error.what}", remedy=error.remedy) from None


def _build_union(value: Any, kind: Any, where: str) -> Any:
    options = get_args(kind)
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    failures = []
    for option in rest:
        try:
            return _build(value, option, where)
        except SettingsError as error:
            failures.append(error)
    raise failures[0]


def _build_tuple(value: Any, kind: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(value, "a list", where)
    kinds = get_args(kind)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_build(item, kinds[0], f"{where}.{i}") for i, item in enumerate(value))
    if len(kinds) != len(value):
        raise _wrong(value, f"a list of {len(kinds)}", where)
    return tuple(
        _build(item, item_kind, f"{where}.{i}") for i, (item, item_kind) in enumerate(zip(value, kinds, strict=True))
    )


def _build_scalar(value: Any, kind: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is Any or (type(value) is kind):
        return value
    remedy = ""
    if isinstance(value, str) and kind in (int, float) and isinstance(_number(value), float):
        remedy = f"YAML reads {value} as text; write a decimal point and the sign of the exponent, such as 1.0e-4."
    raise _wrong(value, getattr(kind, "__name__", str(kind)), where, remedy)


def _wrong(value: Any, expected: str, where: str, remedy: str = "") -> SettingsError:
    return SettingsError(f"{where} is {value!r}, expected {expected}.", remedy=remedy or "Correct the value.")
