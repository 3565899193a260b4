"""What a known data set is, the folders it is unpacked to, and whether it is there. Nothing is ever downloaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

VARIABLE = "DISTILL_DATA"
"""The environment variable that names the folder with all data sets."""
SETTING = "evaluate.root"
"""The setting that names it for one recipe or one evaluation."""

Kind = Literal["segmentation", "classes", "captions", "pairs", "instances", "geometry"]
Role = Literal["train", "val"]
"""`val` is the split that papers report on, whatever the data set calls it."""


class MissingData(ValueError):
    """A data set that is not on this machine, rather than one that is broken."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set in the layout that its archives unpack to."""

    title: str
    kind: Kind
    tasks: tuple[str, ...]
    """Names of the tasks that are measured on it."""
    page: str
    """Where it comes from."""
    folders: tuple[str, ...]
    """Names it goes by below the root, the official one first."""
    tree: str
    """The files and folders inside, for people; `|` stands between names of which one is enough."""
    needs: Mapping[Role, tuple[str | tuple[str, ...], ...]]
    """Paths inside, `*` allowed, that each split needs; of several in one tuple, one is enough."""
    splits: Mapping[Role, str]
    """The data set's own names of the splits."""


def data_root(root: str | Path | None) -> Path:
    """The folder with all data sets: `root`, or else what DISTILL_DATA says. Raises ValueError if it is not there."""
    chosen = root if root is not None else os.environ.get(VARIABLE)
    if not chosen:
        raise MissingData(f"say which folder holds the data sets: {SETTING}=FOLDER, or set {VARIABLE} to it")
    if not Path(chosen).is_dir():
        raise ValueError(f"{chosen} is not a folder; {SETTING} or {VARIABLE} must name the one with the data sets")
    return Path(chosen)


def find(data: DataSet, root: str | Path | None = None, *, role: Role = "val") -> Path | None:
    """The data set's folder with all that the split needs; None where there is none. Errors as `data_root`."""
    candidates = _candidates(data, data_root(root))
    return next((folder for folder in candidates if folder.is_dir() and not absent(data, folder, role)), None)


def found(name: str, data: DataSet, root: str | Path | None, role: Role) -> Path:
    """As `find`, but raises MissingData for one that is not there: what is expected where, and where it comes from."""
    if role not in data.splits:
        raise ValueError(f"{name} has no {role} split, only {', '.join(data.splits)}")
    top = data_root(root)
    folder = find(data, top, role=role)
    if folder is not None:
        return folder
    present = next((each for each in _candidates(data, top) if each.is_dir()), None)
    lacks = "" if present is None else f" ({present} is there, but lacks {', '.join(absent(data, present, role))})"
    raise MissingData(
        f"{name}, split {data.splits[role]}, was not found below {top}{lacks}. Expected there:\n{layout_text(data)}\n"
        f"It comes from {data.page}; nothing is downloaded for you."
    )


def absent(data: DataSet, folder: Path, role: Role) -> list[str]:
    """What a split needs and the folder does not have."""
    needed = [(need,) if isinstance(need, str) else need for need in data.needs[role]]
    return [" or ".join(names) for names in needed if not any(any(folder.glob(name)) for name in names)]


def layout_text(data: DataSet) -> str:
    """The tree below the root, indented by two."""
    inside = "\n".join(f"    {line}" for line in data.tree.strip().splitlines())
    return f"  {' | '.join(data.folders)}/\n{inside}"


def one_of(folder: Path, *names: str) -> Path:
    """The first of several names that the folder has. Raises ValueError for none."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ValueError(f"{folder} has no {' or '.join(names)}")


def _candidates(data: DataSet, root: Path) -> list[Path]:
    return [root / name for name in data.folders]
