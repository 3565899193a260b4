"""UnED, the eight collections of instances of Ypsilantis et al. (2023), by the info files that they publish.

An info file lists pictures: {"path": below images/, "class_id": a number or a list of them}. A query with several
numbers shows several instances, and any of them is right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.catalogue.pictures import UNED_INDEX, UNED_SUBSETS, UNED_WITH_INDEX
from distill.eval.pictures.datasets import spread
from distill.eval.pictures.files import read_json
from distill.eval.pictures.instances import Numbered
from distill.eval.tasks.instance_retrieval import InstanceSubset


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture and the instances in it, one except in queries."""

    picture: Path
    instances: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One sub-set; `query` is None where every picture of the index asks all others."""

    name: str
    index: list[Shown]
    query: list[Shown] | None


def uned(folder: Path, split: str) -> list[Collection]:
    """The eight sub-sets with the split that asks."""
    found = []
    for name in UNED_SUBSETS:
        asked = _shown(folder, name, split)
        if name not in UNED_WITH_INDEX:
            found.append(Collection(name=name, index=asked, query=None))
        else:
            found.append(Collection(name=name, index=_shown(folder, name, UNED_INDEX), query=asked))
        several = [each.picture for each in found[-1].index if len(each.instances) != 1]
        if several:
            raise ValueError(f"{name}: {several[0]} is in the index with more than one class_id")
    return found


def subset_of(collection: Collection, *, image_size: int, limit: int | None) -> InstanceSubset:
    """Ready to be asked. `limit` takes so many of the instances that are asked for, evenly spaced, with all their
    pictures, and leaves the others out of the index."""
    asked = collection.index if collection.query is None else collection.query
    chosen = sorted({instance for each in asked for instance in each.instances})
    if limit is None:
        chosen = sorted({*chosen, *(each.instances[0] for each in collection.index)})
    else:
        chosen = [chosen[place] for place in spread(len(chosen), limit)]
    number_of = {instance: number for number, instance in enumerate(chosen)}

    def numbered(listed: list[Shown]) -> tuple[Numbered, dict[int, tuple[int, ...]]]:
        """The pictures with their first instance, and the further ones of those that show several."""
        known = [(each.picture, [number_of[one] for one in each.instances if one in number_of]) for each in listed]
        kept = [(picture, numbers) for picture, numbers in known if numbers]
        pictures = Numbered(
            [(picture, numbers[0]) for picture, numbers in kept], [str(one) for one in chosen], image_size=image_size
        )
        return pictures, {place: tuple(numbers[1:]) for place, (_, numbers) in enumerate(kept) if len(numbers) > 1}

    index, _ = numbered(collection.index)
    query, also = (None, {}) if collection.query is None else numbered(collection.query)
    return InstanceSubset(name=collection.name, index=index, query=query, also=also)


def _shown(folder: Path, subset: str, part: str) -> list[Shown]:
    """What an info file lists. Raises ValueError for another layout and for an empty list."""
    file, pictures = folder / "info_files" / subset / f"{part}.json", folder / "images"
    try:
        found = [
            Shown(picture=_there(pictures, each["path"]), instances=_instances(each["class_id"]))
            for each in read_json(file)
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected a list of path and class_id ({error!r})") from error
    if not found:
        raise ValueError(f"{file} lists nothing")
    return found


def _instances(class_id: Any) -> tuple[int, ...]:
    ids = tuple(class_id) if isinstance(class_id, list) else (class_id,)
    if not ids or not all(isinstance(each, int) for each in ids):
        raise TypeError(f"class_id {class_id}")
    return ids


def _there(folder: Path, path: str) -> Path:
    """Archives of RP2k unpacked without its Chinese letters have `#U` and their code instead."""
    if path.isascii() or (folder / path).is_file():
        return folder / path
    return folder / "".join(letter if letter.isascii() else f"#U{ord(letter):04x}" for letter in path)
