"""The splits of a local table or folder of pictures, for evaluation, opened with Hugging Face `datasets`.

What is there decides how it is read: a folder that `datasets` saved, Parquet files, Arrow files, or pictures, with the
lines of their metadata or else with the name of their folder as `label`. Nothing here touches the network.
"""

import glob
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import datasets

from distill.data.tables import METADATA, rows_of_metadata, undecoded
from distill.data.tars import PICTURES

SPLITS: dict[Literal["train", "val"], tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev", "test"),
}
"""What people call the split that is trained on and the one that is scored; the first that is there is taken."""


class NotHere(ValueError):
    """There is no such file or folder."""


Read = Callable[[list[Path]], datasets.Dataset]


def open_split(place: str, role: Literal["train", "val"], *, scored: str | None = None) -> datasets.Dataset:
    """The rows of one split, with undecoded pictures. `scored` names the split of `val`.

    A split's name is a word of the file's path: `data/train-00000-of-00002.parquet`, `val/rose/1.jpg`. Files without
    any such word are all scored, and there is nothing to train on. Raises ValueError for what is not there.
    """
    wanted = SPLITS[role] if role == "train" or scored is None else (scored,)
    if _was_saved(Path(place)):
        return undecoded(_saved(Path(place), role, wanted))
    files, read = _files(place)
    root = Path(place) if Path(place).is_dir() else Path(place).parent
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, root, scored), []).append(file)
    if set(by_split) == {None} and role == "val" and scored is None:
        return undecoded(read(files))
    found = next((name for name in wanted if name in by_split), None)
    if found is None:
        raise ValueError(_no_split(place, role, wanted, [name for name in by_split if name]))
    return undecoded(read(by_split[found]))


def _no_split(place: str, role: str, wanted: tuple[str, ...], known: list[str]) -> str:
    there = f"there are {', '.join(sorted(known))}" if known else "no file says which split it belongs to"
    return f"{place} has no {role} split, which would be called {' or '.join(wanted)}; {there}"


def _was_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _saved(folder: Path, role: str, wanted: tuple[str, ...]) -> datasets.Dataset:
    """Of a folder that `save_to_disk` wrote."""
    try:
        rows = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read as a saved data set: {error}") from error
    if isinstance(rows, datasets.Dataset):
        rows = datasets.DatasetDict({"val": rows})
        wanted = ("val",) if role == "val" else wanted
    found = next((name for name in wanted if name in rows), None)
    if found is None:
        raise ValueError(_no_split(str(folder), role, wanted, list(rows)))
    return rows[found]


def _files(place: str) -> tuple[list[Path], Read]:
    """Files of one kind below a folder, or the file, or those of a glob, sorted; and what reads them."""
    folder = Path(place)
    found = [*folder.rglob("*")] if folder.is_dir() else [Path(name) for name in glob.glob(place, recursive=True)]
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise NotHere(
            f"there is no {place!r} here. Names on a hub are not read: download the data first and give its folder, a "
            "file or a glob"
        )
    root = folder if folder.is_dir() else folder.parent
    for suffixes, read in ((("parquet",), _parquet), (("arrow",), _arrow), (PICTURES, _pictures)):
        of_kind = [file for file in files if file.suffix.lower().lstrip(".") in suffixes]
        if of_kind and read is _pictures:
            return of_kind, partial(_pictures, root=root, names=sorted({file.parent.name for file in of_kind}))
        if of_kind:
            return of_kind, read
    raise ValueError(f"{place!r} holds no .parquet, no .arrow and no picture files")


def _split_of(file: Path, root: Path, scored: str | None) -> str | None:
    """The last word of the path below the root, in small letters, that is the name of a split."""
    known = {name for names in SPLITS.values() for name in names} | ({scored} if scored else set())
    below = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    *folders, name = below.parts
    # A folder of pictures has its splits as folders: `validation_dog.jpg` in train/ is trained on.
    words = [part.lower() for part in folders if part.lower() in known]
    if file.suffix.lower().lstrip(".") not in PICTURES:
        words += [word for word in re.split(r"[^0-9A-Za-z]+", name.lower()) if word in known]
    return words[-1] if words else None


def _parquet(files: list[Path]) -> datasets.Dataset:
    try:
        return datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"{files[0].parent}: its Parquet files cannot be read ({error.__cause__ or error})") from error


def _arrow(files: list[Path]) -> datasets.Dataset:
    try:
        return datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    except (OSError, ValueError) as error:
        raise ValueError(f"{files[0].parent}: its Arrow files cannot be read ({error})") from error


def _pictures(files: list[Path], root: Path, names: list[str]) -> datasets.Dataset:
    """The lines of metadata that are about the pictures, or else every picture with the name of its folder as label."""
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(root)}
    tables = [folder / f"metadata{suffix}" for folder in sorted(folders) for suffix in METADATA]
    listed = [row for table in tables if table.is_file() for row in rows_of_metadata(table)]
    if listed:
        wanted = set(files)
        return datasets.Dataset.from_list([row for row in listed if Path(row["image"]) in wanted])
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
    return datasets.Dataset.from_dict(rows, features=features)
