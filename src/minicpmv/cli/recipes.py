"""`minicpmv recipes list|show|diff`: what can be trained, every number of it, and what differs."""

from typing import Annotated

import typer

from minicpmv.cli import options as shared

recipes = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, read or compare the training recipes.")


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
    from minicpmv.recipes.loader import ChainRecipe, load_members, load_recipe, recipe_path
    from minicpmv.settings import dump_settings

    recipe = load_recipe(name, changes or ())
    if not changes:
        print(recipe_path(name).read_text(encoding="utf-8"), end="")
        return
    shown = load_members(recipe, changes) if isinstance(recipe, ChainRecipe) else [recipe]
    print("---\n".join(dump_settings(one) for one in shown), end="")


@recipes.command("diff")
def diff_recipes(
    first: Annotated[str, typer.Argument(metavar="RECIPE", help="A bundled recipe, or a YAML file.")],
    second: Annotated[str, typer.Argument(metavar="RECIPE", help="Another one, or the recipe.yaml of a run.")],
    as_json: shared.Json = False,
) -> None:
    """Print what the second recipe changes in the first, setting by setting."""
    import json

    from minicpmv.recipes.loader import compare, load_recipe

    changes = compare(load_recipe(first), load_recipe(second))
    if as_json:
        print(json.dumps({key: {"first": one, "second": other} for key, (one, other) in changes.items()}))
        return
    width = max((len(key) for key in changes), default=0)
    for key, (one, other) in changes.items():
        print(f"{key:<{width}}  {_told(one)} -> {_told(other)}")


def _told(value: object) -> str:
    return "(none)" if value is None else str(value)
