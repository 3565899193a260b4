"""`distill teachers`: the families of encoders that can teach, and a look at one of them."""

import argparse

from distill.catalogue.families import families_text
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
    parser = add_command(commands, "teachers", summary, HELP, run=list_families)
    actions = parser.add_subparsers(title="actions (without any: the list)", metavar="ACTION")
    action = add_command(actions, "inspect", "load an encoder and look at its features", run=inspect)
    action.add_argument("model", metavar="FAMILY:NAME", help="as in teacher.model")
    action.add_argument("--weights", metavar="FILE", help="as in teacher.weights: a file, or random")


def list_families(options: argparse.Namespace) -> int:
    print(families_text())
    return 0


def inspect(options: argparse.Namespace) -> int:
    from distill.inspection import inspect as carry_out

    return carry_out(options)
