"""What a task was measured on, as numbers that two people can compare.

A fingerprint is made of how many pictures there are and what is said about them: names of classes, all captions, all
labels, what turns a mask's values into labels, and the names and sizes of all files that the set lists, pictures and
truths; of a few of them also what is in them. Of a set that lists no files, such as scenes, the 8-bit pixels of a few
pictures count. So another release of the data, another limit, and a label that moved show. Where the files lie, and the
size at which an encoder looks at them, do not; nor does a change inside of files that keeps their sizes and is in none
of the few.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.contracts import PixelSet, SegmentationSet
from distill.eval.pictures.datasets import spread
from distill.eval.sets import EvaluationData
from distill.eval.tasks.compositional_pairs import ContrastedPictures
from distill.eval.tasks.instance_retrieval import InstanceSubset
from distill.eval.tasks.knn import ClassifiedPictures
from distill.eval.tasks.retrieval import CaptionedPictures

NUM_LOOKED = 8
"""Places whose files, or pixels in a set that lists no files, are read."""


def fingerprints(data: EvaluationData) -> dict[str, dict[str, Any]]:
    """`num_images` and `sha256`, 16 hexadecimal digits, of every set that is there, by its name."""
    return {name: {"num_images": len(one), "sha256": _digest(one)} for name, one in sets_of(data).items()}


def sets_of(data: EvaluationData) -> dict[str, Any]:
    """Every set that is there: both of the captions, index and queries of every collection of instances."""
    found: dict[str, Any] = {}
    for name, held in vars(data).items():
        if name in ("image_size", "short_side") or held is None:
            continue
        if isinstance(held, tuple) and all(isinstance(one, CaptionedPictures) for one in held):
            # A folder has one kind of captions, for both CLS tokens.
            distinct = held[:1] if held[0] is held[1] else held
            found |= {f"{name}_{number}": one for number, one in enumerate(distinct, 1)}
        elif isinstance(held, Sequence) and all(isinstance(one, InstanceSubset) for one in held):
            found |= {f"{name}_{one.name}_index": one.index for one in held}
            found |= {f"{name}_{one.name}_query": one.query for one in held if one.query is not None}
        else:
            found[name] = held
    return found


def _digest(held: Any) -> str:
    found = hashlib.sha256(json.dumps(_said(held)).encode())
    listed = Listing()
    for value in vars(held).values():
        listed.add(value)
    found.update(listed.sum.digest())
    for file in listed.looked_at():
        found.update(file.read_bytes())
    for place in () if listed.files else spread(len(held), NUM_LOOKED):
        for tensor in _shown(held, place):
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(_bytes(tensor))
    return found.hexdigest()[:16]


class Listing:
    """What a set keeps in lists: words, numbers, and files by their last names and their sizes."""

    def __init__(self) -> None:
        self.sum = hashlib.sha256()
        self.files: list[Path] = []

    def add(self, value: Any, *, inside: bool = False) -> None:
        """Lists and what is in them; single values of a set are its settings, which the measurement knows, but for
        tables, which are tensors."""
        if isinstance(value, Path) and inside:
            self.files.append(value)
            size = value.stat().st_size if value.is_file() else 0
            self.sum.update(f"{'/'.join(value.parts[-2:])} {size}\n".encode())
        elif isinstance(value, str | int | float | None) and inside:
            self.sum.update(f"{value!r}\n".encode())
        elif isinstance(value, Tensor):
            self.sum.update(_bytes(value))
        elif isinstance(value, dict):
            for key, each in value.items():
                self.add(key, inside=True)
                self.add(each, inside=True)
        elif isinstance(value, list | tuple):
            for each in value:
                self.add(each, inside=True)
        elif is_dataclass(value) and inside:
            for each in vars(value).values():
                self.add(each, inside=True)

    def looked_at(self) -> list[Path]:
        """Some of the files that are there, each with the next one: a picture and its truth, where these alternate."""
        there = [file for file in self.files if file.is_file()]
        places = {place + step for place in spread(len(there), NUM_LOOKED) for step in (0, 1)}
        return [there[place] for place in sorted(places) if place < len(there)]


def _said(held: Any) -> list[Any]:
    """How many there are, and every word that belongs to them."""
    said: list[Any] = [len(held)]
    if isinstance(held, SegmentationSet | ClassifiedPictures):
        said += [held.class_names]
    if isinstance(held, CaptionedPictures):
        said += [held.captions]
    if isinstance(held, ContrastedPictures):
        said += [[pair.picture, pair.caption, pair.negative, pair.category] for pair in held.pairs]
    return said


def _shown(held: Any, place: int) -> tuple[Tensor, ...]:
    if isinstance(held, CaptionedPictures | ContrastedPictures):
        return (held.pixels(place, place + 1),)
    if isinstance(held, ClassifiedPictures) and not isinstance(held, PixelSet):
        return held.batch(place, place + 1)
    return held[place]


def _bytes(tensor: Tensor) -> bytes:
    """Whole numbers as they are; others in steps of 1/255, so that the last bits of a renderer do not show."""
    if tensor.is_floating_point():
        tensor = (tensor.double() * 255).round().clamp(-(2**31), 2**31 - 1).int()
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
