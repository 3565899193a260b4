"""`distill train`: one run of a recipe."""

import argparse

from distill.cli.parsers import SETTINGS, Commands, add_command
from distill.config import load_recipe

HELP = """\
examples:
  distill train smoke
  distill train ibotpp seed=1 optim.steps=3000
  distill train ibotpp 'evaluate.tasks=[knn, retrieval]' student.image.extra.drop_path_rate=0.1
  distill train vanilla teacher.checkpoint=runs/ibot-seed0
  distill train my/recipe.yaml run.folder=elsewhere
  accelerate launch --config_file recipes/launch/gpu_8.yaml -m distill train ibotpp

A run that was interrupted goes on where it stopped when the same command is given again.
`distill recipes show RECIPE` prints every setting and its value."""


def add(commands: Commands) -> None:
    parser = add_command(commands, "train", "train a recipe", HELP, run=train)
    parser.add_argument("recipe", metavar="RECIPE", help="a name of `distill recipes list`, or a YAML file")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help=SETTINGS)


def train(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.words)
    from distill.train.loop import train as carry_out

    return carry_out(recipe)
