"""Recipes by name or path, of four kinds.

load_recipe("nano_towers", ["seed=1"]) -> TowersRecipe       a model grows from nothing
load_recipe("8b_join") -> JoinRecipe                         a model is put together from published parts
load_recipe("sft") -> TrainingRecipe                         one stage that goes on from a model
load_recipe("nano") -> ChainRecipe -> load_members -> the recipes that run one after another
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from minicpmv.errors import SettingsError
from minicpmv.settings import dump_settings, parse_yaml, read_settings
from minicpmv.training.recipe import JoinRecipe, TrainingRecipe
from minicpmv.training.towers.recipe import TowersRecipe

SingleRecipe: TypeAlias = TowersRecipe | JoinRecipe | TrainingRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainRecipe:
    """Recipes that run one after another, each in a folder of its name."""

    name: str
    chain: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.chain or len(set(self.chain)) != len(self.chain):
            raise SettingsError(f"{self.name} chains {list(self.chain)}.", remedy="Name recipes, each once.")


AnyRecipe: TypeAlias = SingleRecipe | ChainRecipe


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
    """Read a recipe of any kind.

    Args:
        name: a bundled recipe's name, or the path of a YAML file.
        overrides: `a.b=value` changes; those of a chain are read by `load_members`.

    Raises:
        SettingsError: no such recipe, or it is not valid.
    """
    path = recipe_path(name)
    tree = parse_yaml(path)
    if "chain" in tree:
        return read_settings(path, ChainRecipe)
    if "stages" in tree:
        return read_settings(path, TowersRecipe, overrides)
    if "llm" in tree:
        return read_settings(path, JoinRecipe, overrides)
    return read_settings(path, TrainingRecipe, overrides)


def load_members(recipe: ChainRecipe, overrides: Sequence[str] = ()) -> list[SingleRecipe]:
    """The recipes of a chain, in order.

    Args:
        recipe: the chain.
        overrides: changes, each with the name of its recipe before it: `nano_sft_1.batch=8`.

    Raises:
        SettingsError: two recipes have one name, a change is for a recipe that is not in the chain, or one is refused.
    """
    names: dict[str, str] = {}
    for place in recipe.chain:
        name = load_recipe(place).name
        if name in names:
            raise SettingsError(
                f"{names[name]} and {place} both say `name: {name}`.",
                remedy="Give each of a chain a name of its own.",
            )
        names[name] = place
    own: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        name, _, change = override.partition(".")
        if name not in own or not change:
            raise SettingsError(
                f"{override!r} changes no recipe of {recipe.name}.",
                remedy=f"Put the name of one before it: {next(iter(names))}.seed=1.",
            )
        own[name].append(change)
    members = [load_recipe(names[name], changes) for name, changes in own.items()]
    for member in members:
        if isinstance(member, ChainRecipe):
            raise SettingsError(f"{member.name} is a chain within a chain.", remedy="Name its recipes instead.")
    return [member for member in members if not isinstance(member, ChainRecipe)]


def root_of(recipe: TrainingRecipe) -> str | TowersRecipe | JoinRecipe:
    """Where the first weights of a stage come from, through all recipes before it.

    Returns:
        A folder or a hub id, or the recipe that makes a model.
    """
    start: str = recipe.start
    while start in bundled_recipes():
        before = load_recipe(start)
        if not isinstance(before, TrainingRecipe):
            if isinstance(before, ChainRecipe):
                break
            return before
        start = before.start
    return start


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
    """The first sentence of the comment on top of a recipe file, without the recipe's name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0].removeprefix(f"{path.stem}: ")
