"""`distill cache`: the features of a frozen teacher, computed once."""

import argparse
from collections.abc import Callable
from pathlib import Path

from distill.cli.parsers import SETTINGS, Commands, add_command

HELP = """\
examples:
  distill cache plan vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000
  distill cache write vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000 --to runs/features
  distill train vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000 teacher.cache=runs/features
  distill cache plan deit_photos data.views.fixed=4 teacher.cache_storage=int8

`train` writes the folder itself where it is not there. A writing that was interrupted goes on when the same command is
given again; several processes may write one folder, and `accelerate launch` does."""


def add(commands: Commands) -> None:
    parser = add_command(commands, "cache", "run a frozen teacher once, and train from what it said", HELP)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    about = {
        "plan": "print the size for every storage, and an estimate of the time; writes nothing",
        "write": "write the features of every fixed view, or what is missing of them",
    }
    for name, summary in about.items():
        action = add_command(actions, name, summary, run=cache(name))
        action.add_argument("recipe", metavar="RECIPE", help="a name of `distill recipes list`, or a YAML file")
        action.add_argument("words", metavar="key=value", nargs="*", default=[], help=SETTINGS)
        if name == "write":
            action.add_argument("--to", type=Path, metavar="FOLDER", help="(default: the recipe's teacher.cache)")


def cache(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the cache's actions; its module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill.cache.command import ACTIONS

        return ACTIONS[name](options)

    return carry_out
