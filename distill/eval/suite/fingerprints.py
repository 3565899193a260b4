"""What a task was measured on, as numbers that two people can compare.

A fingerprint is made of what the encoder is shown and what is said about it: how many pictures, what the classes are
called, all captions, and the 8-bit pixels and labels of a few pictures spread over the set. So another release of the
data, another limit, another size, and another decoder that changes pixels all show.
"""

import hashlib
import json
from collections.abc import Sequence
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
"""Pictures of each set whose pixels count."""


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
    for place in spread(len(held), NUM_LOOKED):
        for tensor in _shown(held, place):
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(_bytes(tensor))
    return found.hexdigest()[:16]


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
