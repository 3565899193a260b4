"""Class names: data files beside the code, each with its source at the top.

A file has one class a line; of several columns, separated by tabs, the last is what a class is called.
"""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "names"


@cache
def rows(name: str) -> tuple[tuple[str, ...], ...]:
    """The columns of every line of `names/NAME.txt` that is no comment."""
    return tuple(rows_of(FOLDER / f"{name}.txt"))


def rows_of(file: Path) -> list[tuple[str, ...]]:
    """The columns of every line that is no comment. Raises ValueError for a file that cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    return [tuple(line.split("\t")) for line in lines if not line.startswith("#")]


def names(name: str) -> list[str]:
    """What the classes are called, in the order of their labels."""
    return [row[-1] for row in rows(name)]


def ids(name: str) -> list[int]:
    """The first column as numbers: the value that the data set's files use for each class."""
    return [int(row[0]) for row in rows(name)]
