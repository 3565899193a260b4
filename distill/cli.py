"""The `distill` command. Recipes are checked before anything heavy, such as torch, is imported."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from distill import __version__
from distill.config import Evaluate, list_recipes, load_recipe, page_path, recipe_text

TASKS: tuple[str, ...] = get_args(get_args(get_type_hints(Evaluate)["tasks"])[0])

TOP = """\
Distillation and pretraining of image and image-text encoders: two corners of one grid, one trainer.

start here:
  distill recipes list                      what there is to train
  distill train smoke                       twenty steps, to see that everything works
  distill study first --quick               a small study of iBOT against iBOT++
"""

BOTTOM = """\
`distill COMMAND --help` has examples. After an error, DISTILL_TRACEBACK=1 shows where in the code it arose."""

TRAIN = """\
examples:
  distill train smoke
  distill train ibotpp seed=1 optim.steps=3000
  distill train ibotpp 'evaluate.tasks=[knn, retrieval]' student.image.extra.drop_path_rate=0.1
  distill train vanilla teacher.checkpoint=runs/ibot-seed0
  distill train my/recipe.yaml run.folder=elsewhere
  accelerate launch --config_file recipes/launch/gpu_8.yaml -m distill train ibotpp

A run that was interrupted goes on where it stopped when the same command is given again.
`distill recipes show RECIPE` prints every setting and its value."""

STUDY = """\
examples:
  distill study first --quick
  distill study first --seed 1 --to runs/study_1
  distill study first optim.steps=500"""

EVAL = f"""\
tasks: {", ".join(TASKS)}

examples:
  distill eval runs/ibotpp-seed0 zero_shot_segmentation
  distill eval runs/ibotpp-seed0 knn evaluate.classes=flowers"""

RECIPES = """\
examples:
  distill recipes list
  distill recipes show ibotpp
  distill recipes show ibotpp optim.steps=3000 > my_recipe.yaml"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one message and 2, Ctrl-C is 130."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return options.command(options)
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if os.environ.get("DISTILL_TRACEBACK") == "1":
            raise
        print(f"distill: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distill: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; `command` is the function that carries it out."""
    parser = build_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    options, left = parser.parse_known_args(arguments)
    # argparse gives up on words that follow an option; key=value words may stand anywhere.
    if left and (any(word.startswith("-") for word in left) or "words" not in options):
        parser.error(f"unrecognised: {' '.join(left)}")
    if left:
        options.words += left
    return options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distill", description=TOP, epilog=BOTTOM, formatter_class=_Plain)
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    settings = "settings that replace the recipe's, such as optim.lr=1e-3; values are YAML"

    command = _command(commands, "train", "train a recipe", TRAIN, run=train)
    command.add_argument("recipe", metavar="RECIPE", help="a name of `distill recipes list`, or a YAML file")
    command.add_argument("words", metavar="key=value", nargs="*", help=settings)

    command = _command(commands, "study", "run a study: a grid of recipes, its statistics and report", STUDY, run=study)
    command.add_argument("--quick", action="store_true", help="the small version, in minutes")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the runs (default 0)")
    command.add_argument("--to", metavar="FOLDER", help="folder of the results (default: in runs)")
    command.add_argument("words", metavar="NAME | key=value", nargs="*", help=f"study (default: first); {settings}")

    command = _command(commands, "eval", "measure a trained encoder", EVAL, run=evaluate)
    command.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help="run folder, or checkpoint folder")
    command.add_argument("task", metavar="TASK", choices=TASKS, help="what to measure, see below")
    command.add_argument("words", metavar="key=value", nargs="*", help="settings of the evaluation")

    command = _command(commands, "recipes", "list the recipes, or show one with every setting", RECIPES)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "list", "names and descriptions", run=show_names)
    action = _command(actions, "show", "the resolved page as YAML", run=show_recipe)
    action.add_argument("recipe", metavar="RECIPE")
    action.add_argument("words", metavar="key=value", nargs="*", help=settings)
    return parser


def train(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.words)
    from distill.train.loop import train as carry_out

    return carry_out(recipe)


def study(options: argparse.Namespace) -> int:
    names = [word for word in options.words if "=" not in word]
    if len(names) > 1:
        raise ValueError(f"one study at a time, not {', '.join(names)}")
    name = names[0] if names else "first"
    overrides = [word for word in options.words if "=" in word]
    page_path(name, kind="study")  # raises for an unknown study while that is still quick
    from distill.study.runner import run_study

    return run_study(name, quick=options.quick, seed=options.seed, folder=options.to, overrides=overrides)


def evaluate(options: argparse.Namespace) -> int:
    if not options.path.exists():
        raise FileNotFoundError(f"{options.path}: no such run or checkpoint folder")
    from distill.eval.command import evaluate_checkpoint

    evaluate_checkpoint(options.path, options.task, options.words)
    return 0


def show_names(options: argparse.Namespace) -> int:
    recipes = list_recipes()
    width = max(len(name) for name, _ in recipes)
    for name, description in recipes:
        print(f"{name:<{width}}  {description}")
    return 0


def show_recipe(options: argparse.Namespace) -> int:
    print(recipe_text(load_recipe(options.recipe, options.words)), end="")
    return 0


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples."""


def _command(
    commands: argparse._SubParsersAction,
    name: str,
    summary: str,
    examples: str = "",
    *,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=examples, formatter_class=_Plain
    )
    if run is not None:
        parser.set_defaults(command=run)
    return parser
