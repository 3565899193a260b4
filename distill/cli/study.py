"""`distill study`: a grid of recipes, its statistics and report."""

import argparse
from collections.abc import Callable
from pathlib import Path

from distill.cli.parsers import SETTINGS, Commands, add_command, positive

STORE = Path("runs/study")
SUMMARIES = {
    "plan": "print cells, order, and an estimate of time and disk from a few measured steps",
    "run": "carry out what is not done yet, then write the report",
    "status": "say what became of every run",
    "report": "write the report on what is done so far",
    "pack": "copy the results, without checkpoints, to where they can be reported on or published",
    "work": "carry out one run (what the workers of `run` are started with)",
}
"""Of the actions on the runs of one study."""

HELP = """\
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


def add(commands: Commands) -> None:
    parser = add_command(commands, "study", "run a study: a grid of recipes, its statistics and report", HELP)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_command(actions, "list", "the studies that come with distill", run=study("list"))
    for name, summary in SUMMARIES.items():
        _add_runs(add_command(actions, name, summary, run=study(name)), name)
    _add_promote(actions)


def _add_runs(action: argparse.ArgumentParser, name: str) -> None:
    """Which runs of a study are meant, and what the action `name` takes beside that."""
    action.add_argument("study", metavar="STUDY", help="a name of `distill study list`, or a YAML file")
    action.add_argument("words", metavar="key=value", nargs="*", default=[], help=SETTINGS)
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
        about = "runs at a time (default: what the machine has)"
        action.add_argument("--workers", type=positive, metavar="N", help=about)
    if name == "plan":
        action.add_argument("--no-measure", action="store_true", help="no estimate: measure no steps")
    if name == "run":
        action.add_argument("--on", choices=("local", "slurm"), default="local", help="where the cells run")
        action.add_argument("--slurm", action="append", default=[], metavar="key=value", help="submitit's settings")


def _add_promote(actions: Commands) -> None:
    summary = "write a study's winner out as a pretraining recipe"
    action = add_command(actions, "promote", summary, run=study("promote"))
    action.add_argument("study", metavar="STUDY")
    action.add_argument("--scale", help="mini, gpu or paper (default: the page's first)")
    action.add_argument("--results", type=Path, metavar="FOLDER", help=f"of its report (default: in {STORE})")
    action.set_defaults(store=STORE)
    action.add_argument("--to", type=Path, required=True, metavar="PAGE", dest="recipe", help="the page to write")


def study(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the study's actions; its module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill.study.command import ACTIONS

        return ACTIONS[name](options)

    return carry_out
