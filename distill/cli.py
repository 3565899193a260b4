"""The `distill` command. Recipes are checked before anything heavy, such as torch, is imported."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from distill import __version__
from distill.config import Evaluate, list_recipes, load_recipe, recipe_text

STORE = Path("runs/study")
TASKS: tuple[str, ...] = get_args(get_args(get_type_hints(Evaluate)["tasks"])[0])

TOP = """\
Distillation and pretraining of image and image-text encoders: two corners of one grid, one trainer.

start here:
  distill recipes list                      what there is to train
  distill train smoke                       twenty steps, to see that everything works
  distill study run first --quick           a small study of iBOT against iBOT++
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
  distill study list                        the studies that come with distill
  distill study plan bridge                 cells, order, and an estimate of time and disk
  distill study run first --quick           a small one, in minutes
  distill study run bridge --seeds 0-4 --workers 2
  distill study run bridge --scale gpu --cell ibot --cell ibotpp
  distill study run bridge --on slurm --slurm partition=gpu --slurm timeout_min=600
  distill study status bridge
  distill study report bridge
  distill study pack bridge --into small    results without checkpoints, to go on elsewhere
  distill study promote bridge --to my_recipe.yaml

A study that was stopped or killed goes on when the same command is given again; several processes may work on one."""

TEACHERS = """\
examples:
  distill teachers                          the families of encoders there are, and what each gives
  distill teachers inspect distill:runs/ibotpp-seed0
  distill teachers inspect transformers:models/dinov2-small
  distill teachers inspect timm:deit_tiny_patch16_224 --weights model.safetensors
  distill teachers inspect timm:convnext_tiny --weights random"""

AGREEMENT = "agreement"
EVAL = f"""\
tasks: {", ".join(TASKS)}; {AGREEMENT}: how far the student sees what its teacher sees

examples:
  distill eval runs/ibotpp-seed0 zero_shot_segmentation
  distill eval runs/ibotpp-seed0 knn evaluate.classes=flowers
  distill eval runs/ibotpp-seed0 zero_shot_classification classes=flowers templates=imagenet80
  distill eval runs/ibotpp-seed0 compositional_pairs pairs=sugar-crepe/data
  distill eval runs/ibotpp-seed0 health
  distill eval runs/ibotpp-seed0 alignment hidden_ratio=0.5
  distill eval runs/vanilla-seed0 agreement
  distill eval runs/vanilla-seed0 agreement side=untrained
  distill eval open_clip:models/siglip2 zero_shot_segmentation evaluate.segmentation=ade20k
  distill eval timm:vit_base_patch16_dinov3 knn weights=dinov3.safetensors evaluate.classes=imagenet
  distill eval tips:models/tipsv2-b14 depth probe=dpt decoder=tipsv2_b14_depth_dpt.npz geometry=nyuv2
  distill eval runs/ibotpp-seed0 --suite scenes          all tasks on scenes, in one page
  distill eval runs/ibot-seed0 runs/ibotpp-seed0 --suite scenes     side by side, paired by picture
  distill eval runs/ibotpp-seed0 --suite tipsv2 --limit 100         what is there of the paper's data sets, a quick look
  distill eval list                         data sets: what is measured on them, and which are there
  distill eval list ade20k                  its layout, and where it comes from
  DISTILL_DATA=/data distill eval runs/ibotpp-seed0 zero_shot_segmentation evaluate.segmentation=ade20k
  distill eval runs/ibotpp-seed0 zero_shot_segmentation segmentation=ade20k root=/data      # or data.root=/data"""

CACHE = """\
examples:
  distill cache plan vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000
  distill cache write vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000 --to runs/features
  distill train vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000 teacher.cache=runs/features
  distill cache plan deit_photos data.views.fixed=4 teacher.cache_storage=int8

`train` writes the folder itself where it is not there. A writing that was interrupted goes on when the same command is
given again; several processes may write one folder, and `accelerate launch` does."""

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
    if list(arguments[:2]) == ["eval", "list"]:
        return build_list_parser().parse_args(arguments[2:])
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

    _add_study(commands, settings)
    _add_teachers(commands)

    _add_cache(commands, settings)

    command = _command(commands, "eval", "measure an encoder", EVAL, run=evaluate)
    about = "run folder, checkpoint folder, or an encoder as in teacher.model; with --suite any number of them"
    command.add_argument("path", metavar="RUN|CHECKPOINT|FAMILY:NAME", help=about)
    about = "one task, see below, and settings of the evaluation as key=value"
    command.add_argument("words", metavar="TASK|key=value", nargs="*", help=about)
    command.add_argument("--suite", metavar="NAME", help="many tasks in one go: tipsv2, scenes, samples, or a page")
    command.add_argument("--limit", type=_positive, metavar="N", help="a quick look at N pictures of each set")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="with several encoders: where the comparison goes")

    command = _command(commands, "recipes", "list the recipes, or show one with every setting", RECIPES)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "list", "names and descriptions", run=show_names)
    action = _command(actions, "show", "the resolved page as YAML", run=show_recipe)
    action.add_argument("recipe", metavar="RECIPE")
    action.add_argument("words", metavar="key=value", nargs="*", help=settings)
    return parser


def build_list_parser() -> argparse.ArgumentParser:
    """`eval list` stands where `eval RUN` has its run, so it has a parser of its own."""
    summary = "List the data sets that evaluation knows, what is measured on them, and which are there."
    parser = argparse.ArgumentParser(prog="distill eval list", description=summary)
    parser.add_argument("names", metavar="NAME", nargs="*", help="show the layout of these, and where they come from")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="holds the data sets (default: DISTILL_DATA)")
    parser.set_defaults(command=list_data_sets)
    return parser


def _add_study(commands: argparse._SubParsersAction, settings: str) -> None:
    command = _command(commands, "study", "run a study: a grid of recipes, its statistics and report", STUDY)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "list", "the studies that come with distill", run=study("list"))
    about = {
        "plan": "print cells, order, and an estimate of time and disk from a few measured steps",
        "run": "carry out what is not done yet, then write the report",
        "status": "say what became of every run",
        "report": "write the report on what is done so far",
        "pack": "copy the results, without checkpoints, to where they can be reported on or published",
        "work": "carry out one run (what the workers of `run` are started with)",
    }
    for name, summary in about.items():
        action = _command(actions, name, summary, run=study(name))
        action.add_argument("study", metavar="STUDY", help="a name of `distill study list`, or a YAML file")
        action.add_argument("words", metavar="key=value", nargs="*", help=settings)
        action.add_argument("--scale", help="mini, gpu or paper (default: the page's first)")
        action.add_argument("--quick", action="store_true", help="the small version, in minutes; one seed")
        action.add_argument("--seeds", metavar="0,1,2", help="seeds (default: the page's)")
        action.add_argument("--cell", action="append", default=[], metavar="NAME", help="only this cell and its needs")
        action.add_argument("--to", type=Path, default=STORE, metavar="FOLDER", help=f"of all runs (default: {STORE})")
        action.add_argument("--launch", metavar="PAGE", help="train every cell under accelerate with this page")
        if name == "pack":
            action.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="another folder for runs")
        if name == "work":
            action.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
        if name in ("plan", "run"):
            action.add_argument(
                "--workers", type=_positive, metavar="N", help="runs at a time (default: what the machine has)"
            )
        if name == "plan":
            action.add_argument("--no-measure", action="store_true", help="no estimate: measure no steps")
        if name == "run":
            action.add_argument("--on", choices=("local", "slurm"), default="local", help="where the cells run")
            action.add_argument("--slurm", action="append", default=[], metavar="key=value", help="submitit's settings")
    action = _command(actions, "promote", "write a study's winner out as a pretraining recipe", run=study("promote"))
    action.add_argument("study", metavar="STUDY")
    action.add_argument("--scale", help="mini, gpu or paper (default: the page's first)")
    action.add_argument("--results", type=Path, metavar="FOLDER", help=f"of its report (default: in {STORE})")
    action.set_defaults(store=STORE)
    action.add_argument("--to", type=Path, required=True, metavar="PAGE", dest="recipe", help="the page to write")


def _add_teachers(commands: argparse._SubParsersAction) -> None:
    summary = "list the families of encoders that can teach, or look at one of them"
    command = _command(commands, "teachers", summary, TEACHERS, run=inspection("list_families"))
    actions = command.add_subparsers(title="actions (without any: the list)", metavar="ACTION")
    action = _command(actions, "inspect", "load an encoder and look at its features", run=inspection("inspect"))
    action.add_argument("model", metavar="FAMILY:NAME", help="as in teacher.model")
    action.add_argument("--weights", metavar="FILE", help="as in teacher.weights: a file, or random")


def _add_cache(commands: argparse._SubParsersAction, settings: str) -> None:
    command = _command(commands, "cache", "run a frozen teacher once, and train from what it said", CACHE)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    about = {
        "plan": "print the size for every storage, and an estimate of the time; writes nothing",
        "write": "write the features of every fixed view, or what is missing of them",
    }
    for name, summary in about.items():
        action = _command(actions, name, summary, run=cache(name))
        action.add_argument("recipe", metavar="RECIPE", help="a name of `distill recipes list`, or a YAML file")
        action.add_argument("words", metavar="key=value", nargs="*", help=settings)
        if name == "write":
            action.add_argument("--to", type=Path, metavar="FOLDER", help="(default: the recipe's teacher.cache)")


def train(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.words)
    from distill.train.loop import train as carry_out

    return carry_out(recipe)


def study(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the study's actions; its module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill.study.command import ACTIONS

        return ACTIONS[name](options)

    return carry_out


def inspection(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the actions on teachers; their module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill import inspection

        return {"list_families": inspection.list_families, "inspect": inspection.inspect}[name](options)

    return carry_out


def cache(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the cache's actions; its module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill.cache.command import ACTIONS

        return ACTIONS[name](options)

    return carry_out


def evaluate(options: argparse.Namespace) -> int:
    path = Path(options.path)
    bare = [word for word in options.words if "=" not in word]
    settings = [word for word in options.words if "=" in word]
    if options.suite is not None:
        from distill.eval.suite.command import evaluate_suite

        return evaluate_suite([options.path, *bare], options.suite, settings, limit=options.limit, to=options.to)
    if options.to is not None:
        raise ValueError("--to is where a comparison of several encoders goes, which --suite makes")
    if len(bare) != 1 or bare[0] not in (*TASKS, AGREEMENT):
        said = "no task is named" if not bare else f"{' '.join(bare)} is no task"
        raise ValueError(f"{said}; name one of {', '.join((*TASKS, AGREEMENT))}, or a --suite")
    task = bare[0]
    if options.limit is not None:
        settings.append(f"evaluate.num_images={options.limit}")
    if not path.exists() and ":" in options.path:
        from distill.eval.of_a_family import evaluate_family

        return evaluate_family(options.path, task, settings)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run or checkpoint folder, and no FAMILY:NAME")
    from distill.eval.command import evaluate_checkpoint

    return evaluate_checkpoint(path, task, settings)


def list_data_sets(options: argparse.Namespace) -> int:
    from rich.console import Console

    from distill.eval.layouts.listing import show

    show(options.names, options.root, console=Console())
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


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


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
