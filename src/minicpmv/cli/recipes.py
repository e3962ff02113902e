"""`minicpmv recipes list|show`: what can be trained, and every number of it."""

from typing import Annotated

import typer

from minicpmv.cli import options as shared

recipes = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List or read the training recipes.")


@recipes.command("list")
def list_recipes() -> None:
    """Name the bundled recipes, each with its first sentence."""
    from minicpmv.recipes.loader import bundled_recipes, summary

    known = bundled_recipes()
    width = max((len(name) for name in known), default=0)
    for name, path in known.items():
        print(f"{name:<{width}}  {summary(path)}".rstrip())


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A bundled recipe, or a YAML file.")],
    changes: shared.Changes = None,
) -> None:
    """Print a recipe; with --set, as it is after the changes."""
    from minicpmv.recipes.loader import load_recipe, recipe_path
    from minicpmv.settings import dump_settings

    recipe = load_recipe(name, changes or ())
    print(dump_settings(recipe) if changes else recipe_path(name).read_text(encoding="utf-8"), end="")
