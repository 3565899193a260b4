"""`distill recipes`: what there is to train."""

import argparse

from distill.cli.parsers import SETTINGS, Commands, add_command
from distill.config import list_recipes, load_recipe, recipe_text

HELP = """\
examples:
  distill recipes list
  distill recipes show ibotpp
  distill recipes show ibotpp optim.steps=3000 > my_recipe.yaml"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "recipes", "list the recipes, or show one with every setting", HELP)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_command(actions, "list", "names and descriptions", run=show_names)
    action = add_command(actions, "show", "the resolved page as YAML", run=show_recipe)
    action.add_argument("recipe", metavar="RECIPE")
    action.add_argument("words", metavar="key=value", nargs="*", default=[], help=SETTINGS)


def show_names(options: argparse.Namespace) -> int:
    recipes = list_recipes()
    width = max(len(name) for name, _ in recipes)
    for name, description in recipes:
        print(f"{name:<{width}}  {description}")
    return 0


def show_recipe(options: argparse.Namespace) -> int:
    print(recipe_text(load_recipe(options.recipe, options.words)), end="")
    return 0
