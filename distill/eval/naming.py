"""What people call the data that a task was measured on."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.catalogue.data_sets import DATA_SETS
from distill.eval.layouts.tables import PREFIX, is_table

PLACE_OF = {
    **dict.fromkeys(("zero_shot_segmentation", "linear_segmentation", "alignment", "retrieval"), "segmentation"),
    **dict.fromkeys(("knn", "zero_shot_classification", "linear_classification", "health", "agreement"), "classes"),
    "compositional_pairs": "pairs",
    "instance_retrieval": "instances",
    **dict.fromkeys(("depth", "normals"), "geometry"),
}
"""Which setting of `evaluate` names a task's pictures; scenes are drawn where it is not set."""
SCENES = "scenes, held out"
WILD = re.compile(r"[*?\[{]")


def data_in_words(task: str, asked: Mapping[str, Any]) -> str:
    """A data set's name as papers have it, the last part of a folder's or a table's path, or scenes.

    `asked` are settings of `evaluate`. One that is missing was none yet when they were written, so it was not set.
    """
    place = asked.get(PLACE_OF[task])
    if place is None:
        return SCENES
    if is_table(place):
        split = asked.get("split")
        return f"table {last_part(place.removeprefix(PREFIX))}" + (f", split {split}" if split else "")
    if place in DATA_SETS and not Path(place).is_dir():  # of a folder that is called like a data set, it is the folder
        return _title(place)
    return f"folder {Path(place).resolve().name}"


def last_part(path: str) -> str:
    """What a path ends in: `photos` of `/data/photos/`. Of a glob with the folder that it looks in: `photos/*.jpg`."""
    parts = Path(path).parts
    first = next((number for number, part in enumerate(parts) if WILD.search(part)), len(parts))
    return "/".join(part for part in parts[max(first - 1, 0) :] if part not in ("/", ".", "..", "~"))


def _title(name: str) -> str:
    """Up to its first comma, where no other data set begins so: `ADE20K`."""
    begins = Counter(data.title.partition(",")[0] for data in DATA_SETS.values())
    title = DATA_SETS[name].title
    short = title.partition(",")[0]
    return short if begins[short] == 1 else title
