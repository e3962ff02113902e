"""Recipes by name or path: of towers that grow from nothing, or of one stage that goes on from a model.

load_recipe("nano_first", ["seed=1"]) -> TowersRecipe        load_recipe("sft") -> TrainingRecipe
"""

import difflib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from minicpmv.errors import SettingsError
from minicpmv.settings import dump_settings, parse_yaml, read_settings
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.towers.recipe import TowersRecipe

AnyRecipe: TypeAlias = TowersRecipe | TrainingRecipe


def bundled_recipes() -> dict[str, Path]:
    """The recipes in this folder, by name."""
    folder = Path(str(files("minicpmv.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """Where a recipe lies.

    Args:
        name: a bundled recipe's name, or the path of a YAML file.

    Raises:
        SettingsError: there is no such recipe; the nearest name is suggested.
    """
    known = bundled_recipes()
    path = known.get(name) or Path(name)
    if name not in known and path.suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"There is no recipe {name!r}.", remedy=f"{hint}Known: {', '.join(known)}; or give a .yaml file."
        )
    return path


def load_recipe(name: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe of either kind; towers are those with a list of stages.

    Args:
        name: a bundled recipe's name, or the path of a YAML file.
        overrides: `a.b=value` changes.

    Raises:
        SettingsError: no such recipe, or it is not valid.
    """
    path = recipe_path(name)
    if "stages" in parse_yaml(path):
        return read_settings(path, TowersRecipe, overrides)
    return read_settings(path, TrainingRecipe, overrides)


def load_towers(name: str, overrides: Sequence[str] = ()) -> TowersRecipe:
    """Read a recipe for towers; see `load_recipe`."""
    return read_settings(recipe_path(name), TowersRecipe, overrides)


def load_stage(name: str, overrides: Sequence[str] = ()) -> TrainingRecipe:
    """Read a recipe for one stage; see `load_recipe`."""
    return read_settings(recipe_path(name), TrainingRecipe, overrides)


def compare(first: AnyRecipe, second: AnyRecipe) -> dict[str, tuple[Any, Any]]:
    """What differs between two recipes: dotted names, each with both values; None where a recipe does not have it.

    >>> compare(load_stage("sft"), load_stage("sft", ["seed=3"]))
    {'seed': (0, 3)}
    """
    one, other = (dict(_leaves("", yaml.safe_load(dump_settings(recipe)))) for recipe in (first, second))
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names of everything in a tree that is neither mapping nor list of mappings."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            name = item.get("name", index) if isinstance(item, dict) else index
            yield from _leaves(f"{path}.{name}", item)
    else:
        yield path, value


def summary(path: Path) -> str:
    """What the first comment of a recipe file says in its first line, without the recipe's name."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if not first.startswith("#"):
        return ""
    return first.lstrip("# ").removeprefix(f"{path.stem}: ")
