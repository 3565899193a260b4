"""What the parsers of all commands share."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

Commands = argparse._SubParsersAction
"""What `add_subparsers` returns: the commands of `distill`, or the actions of one of them."""

SETTINGS = "settings that replace the recipe's, such as optim.lr=1e-3; values are YAML"


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    text: str = "",
    *,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> argparse.ArgumentParser:
    """The parser of one command or action; `text` ends its help, and `run` carries it out and returns the exit code."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=text, formatter_class=Plain
    )
    if run is not None:
        parser.set_defaults(command=run)
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def check_encoders(words: Iterable[str]) -> None:
    """Raises FileNotFoundError for a word that is no setting, no path and no FAMILY:NAME.

    Asked before anything heavy, such as torch, is imported.
    """
    for word in words:
        key, equals, _ = word.partition("=")
        if not (equals and key.isidentifier()) and ":" not in word and not Path(word).exists():
            raise FileNotFoundError(f"{word}: no such run or checkpoint folder, and no FAMILY:NAME")


class Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples."""
