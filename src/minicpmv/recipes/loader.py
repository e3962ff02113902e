"""Recipes by name or path.

load_recipe("nano_first", ["seed=1"]) -> Recipe
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from minicpmv.errors import SettingsError
from minicpmv.settings import read_settings
from minicpmv.training.towers.recipe import Recipe


def bundled_recipes() -> dict[str, Path]:
    """The recipes in this folder, by name."""
    folder = Path(str(files("minicpmv.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """Where a recipe lies.

    Args:
        name: a bundled recipe's name, or the path of a YAML file.

    Raises:
        SettingsError: there is no such recipe.
    """
    known = bundled_recipes()
    path = known.get(name) or Path(name)
    if name not in known and path.suffix not in (".yaml", ".yml"):
        raise SettingsError(f"There is no recipe {name!r}.", remedy=f"Known: {', '.join(known)}; or give a .yaml file.")
    return path


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: a bundled recipe's name, or the path of a YAML file.
        overrides: `a.b=value` changes.

    Raises:
        SettingsError: no such recipe, or it is not valid.
    """
    return read_settings(recipe_path(name), Recipe, overrides)


def summary(path: Path) -> str:
    """What the first comment of a recipe file says in its first line, without the recipe's name."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if not first.startswith("#"):
        return ""
    return first.lstrip("# ").removeprefix(f"{path.stem}: ")
