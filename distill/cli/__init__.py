"""The `distill` command. Recipes are checked before anything heavy, such as torch, is imported.

One module for each command, with its help, its parser and the function that carries it out; that function imports what
it needs. Every module has `add(commands)`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from distill import __version__
from distill.cli import cache, data, demo, evaluate, publish, recipes, show, study, teachers, train
from distill.cli.evaluate import AGREEMENT, TASKS, build_list_parser
from distill.cli.parsers import Plain

__all__ = ["AGREEMENT", "TASKS", "build_list_parser", "build_parser", "main", "parse"]

COMMANDS = (recipes, train, study, teachers, data, cache, evaluate, show, publish, demo)
"""In the order in which people meet them, which is that of the help."""

TOP = """\
Distillation and pretraining of image and image-text encoders: two corners of one grid, one trainer.

start here:
  distill recipes list                      what there is to train
  distill train smoke                       twenty steps, to see that everything works
  distill study run first --quick           a small study of iBOT against iBOT++
"""

BOTTOM = """\
`distill COMMAND --help` has examples. After an error, DISTILL_TRACEBACK=1 shows where in the code it arose."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    A user's mistake, or a file that cannot be read or written, is one message and 2; Ctrl-C is 130.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return options.command(options)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("DISTILL_TRACEBACK") == "1":
            raise
        print(f"distill: error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distill: interrupted", file=sys.stderr)
        return 130


def _sentence(error: ValueError | OSError) -> str:
    """The operating system's errors by their reason and file, such as `No space left on device: sheet.png`."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


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
    """The parser of `distill`, with those of all commands below it."""
    parser = argparse.ArgumentParser(prog="distill", description=TOP, epilog=BOTTOM, formatter_class=Plain)
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return parser
