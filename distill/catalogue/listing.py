"""`distill eval list`: which data sets there are, what is measured on them, and which of them are on this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distill.catalogue.data_sets import DATA_SETS
from distill.catalogue.layout import VARIABLE, DataSet, Role, data_root, find, layout_text


def show(names: Sequence[str], root: str | Path | None, *, console: Console) -> None:
    """Tables of all data sets by task; of those that are named, the layout and where they come from.

    Raises ValueError for an unknown name, or a root that is not there. Without any root all are missing.
    """
    unknown = [name for name in names if name not in DATA_SETS]
    if unknown:
        raise ValueError(f"there is no data set {unknown[0]}; there are {', '.join(DATA_SETS)}")
    top = None if root is None and not os.environ.get(VARIABLE) else data_root(root)
    for name in names:
        console.print(details(name, DATA_SETS[name], top), markup=False, highlight=False, soft_wrap=True)
    if not names:
        for tasks in dict.fromkeys(data.tasks for data in DATA_SETS.values()):
            console.print(table(tasks, top))
        hint = "`distill eval list NAME` tells a data set's layout and where it comes from"
        console.print(f"{_looked_in(top)}\n{hint}", markup=False, highlight=False, soft_wrap=True)


def table(tasks: tuple[str, ...], root: Path | None) -> Table:
    """One row for each data set that serves these tasks: whether its splits were found."""
    made = Table("data set", "what it is", "train", "val", title=", ".join(tasks), title_justify="left", min_width=78)
    for name, data in DATA_SETS.items():
        if data.tasks == tasks:
            made.add_row(name, data.title, state(data, root, "train"), state(data, root, "val"))
    return made


def state(data: DataSet, root: Path | None, role: Role) -> str:
    """found, missing, or - for a split that the data set does not have."""
    if role not in data.splits:
        return "-"
    return "missing" if root is None or find(data, root, role=role) is None else "found"


def details(name: str, data: DataSet, root: Path | None) -> str:
    """Everything about one data set."""
    splits = ", ".join(f"{role}: {split} ({state(data, root, role)})" for role, split in data.splits.items())
    lines = [
        f"{name}: {data.title}",
        f"tasks: {', '.join(data.tasks)}",
        f"splits: {splits}; {_looked_in(root)}",
        f"from: {data.page}",
        "expected below the root:",
        layout_text(data),
    ]
    return "\n".join(lines)


def _looked_in(root: Path | None) -> str:
    return f"looked in {root}" if root is not None else f"looked nowhere: {VARIABLE} is not set, and there is no --root"
