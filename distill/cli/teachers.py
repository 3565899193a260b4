"""`distill teachers`: the families of encoders that can teach, and a look at one of them."""

import argparse
from collections.abc import Callable

from distill.cli.parsers import Commands, add_command

HELP = """\
examples:
  distill teachers                          the families of encoders there are, and what each gives
  distill teachers inspect distill:runs/ibotpp-seed0
  distill teachers inspect transformers:models/dinov2-small
  distill teachers inspect timm:deit_tiny_patch16_224 --weights model.safetensors
  distill teachers inspect timm:convnext_tiny --weights random"""


def add(commands: Commands) -> None:
    summary = "list the families of encoders that can teach, or look at one of them"
    parser = add_command(commands, "teachers", summary, HELP, run=inspection("list_families"))
    actions = parser.add_subparsers(title="actions (without any: the list)", metavar="ACTION")
    action = add_command(actions, "inspect", "load an encoder and look at its features", run=inspection("inspect"))
    action.add_argument("model", metavar="FAMILY:NAME", help="as in teacher.model")
    action.add_argument("--weights", metavar="FILE", help="as in teacher.weights: a file, or random")


def inspection(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the actions on teachers; their module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill import inspection

        return {"list_families": inspection.list_families, "inspect": inspection.inspect}[name](options)

    return carry_out
