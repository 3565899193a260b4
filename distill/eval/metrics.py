"""What the tasks count, picture by picture: pixels of classes, ranks; and what every task returns.

Ties and absent classes have stated results, because collapsed encoders produce both.
Legend: N pictures of a set, B of a batch, K classes, (H, W) pixels, Q queries, G gallery items, D width.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill.contracts import PixelSet, SegmentationSet
from distill.eval.features import InBatches, batches

MAX_ELEMENTS = 2**24
"""Largest temporary tensor of a task, in elements: 64 MiB in float32. Changes memory, not results."""


UNITS = {"_metres": "m", "_degrees": "°"}
"""Endings of the names of errors, of which less is better, and their sign. All other values are shares."""


def is_error(name: str) -> bool:
    """Whether less of this value is better."""
    return name.endswith(tuple(UNITS))


def shown_value(name: str, value: float | int | None) -> str:
    """For people: shares in percent, errors in their unit, losses as they are, a dash for a mean of nothing."""
    if value is None or math.isnan(value):
        return "–"
    if is_error(name):
        return f"{value:.3f} {unit_of(name)}"
    return f"{value:.4f}" if name.endswith("_loss") else f"{100 * value:.2f} %"


def unit_of(name: str) -> str:
    """The sign of a value's unit; nothing for losses, which have none."""
    if name.endswith("_loss"):
        return ""
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "%")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task found. Shares are in [0, 1], values that end in a unit are errors in it; NaN: a mean of nothing."""

    values: dict[str, float]
    """The headline comes first."""
    per_class: dict[str, float]
    """IoU or accuracy of every class; empty for tasks without classes, NaN for classes that never occurred."""
    per_picture: dict[str, Tensor]
    """What each of N pictures contributed, in the order of the set, on the CPU: the values follow from sums over it.

    Segmentation, int32: `intersection` and `union` [N, K], pixels by class in the order of `per_class`; `correct` and
    `labelled` [N], pixels. Retrieval: `image_to_text_r1` [N], hits, uint8; `text_to_image_r1` [N], the share of a
    picture's captions that hit, float32; `num_captions` [N], int32, its weight in the mean; also r5 and r10, and all
    of them as `cls1_...`. knn and linear classification: `correct` [N], uint8, of the pictures that have a class;
    zero-shot classification: `top1` and `top5` [N], uint8. Compositional pairs: `right` and `pairs` [N, categories],
    int32. Instance retrieval: `r1` [N], uint8, of the queries, and `subset` [N], int32. Depth and normals: sums over
    valid pixels, float64 [N], as `geometry` names them, and `valid` [N], how many. Alignment: patches, int32 [N], right
    ones by the names of the values, and `labelled`, `labelled_visible`, `labelled_hidden`. Health: cosines of the CLS
    token with itself, float32. Empty where a task has nothing.
    """
    settings: dict[str, Any]
    num_images: int
    notes: tuple[str, ...] = ()
    """Sentences for whoever reads the values, such as what looks wrong."""


@dataclass(frozen=True, kw_only=True)
class PixelCounts:
    """Labelled pixels of every picture. Over any choice of pictures the counts add up."""

    intersection_NK: Int[Tensor, "N K"]
    """Of this class and predicted as it."""
    union_NK: Int[Tensor, "N K"]
    """Of this class or predicted as it."""
    labelled_N: Int[Tensor, " N"]


def count_pixels(
    prediction_BHW: Int[Tensor, "B H W"], label_BHW: Int[Tensor, "B H W"], *, num_classes: int, ignore: int
) -> PixelCounts:
    """Counts, as int32, of the pixels whose label is not `ignore`; what is predicted elsewhere does not matter.

    Raises ValueError for labels that are neither a class nor `ignore`.
    """
    known_BHW = label_BHW != ignore
    strange_BHW = known_BHW & ((label_BHW < 0) | (label_BHW >= num_classes))
    if strange_BHW.any():
        label = label_BHW[strange_BHW][0].item()
        raise ValueError(f"label {label} is neither one of {num_classes} classes nor ignore={ignore}")
    num_pictures = len(label_BHW)
    first_B11 = torch.arange(num_pictures, device=label_BHW.device)[:, None, None] * num_classes
    nowhere = num_pictures * num_classes  # the bin of pixels that do not count

    def by_class(class_BHW: Tensor, counted_BHW: Tensor) -> Tensor:
        bin_BHW = torch.where(counted_BHW, first_B11 + class_BHW, nowhere)
        return torch.bincount(bin_BHW.flatten(), minlength=nowhere + 1)[:nowhere].view(num_pictures, num_classes)

    hit_BK = by_class(label_BHW, known_BHW & (label_BHW == prediction_BHW))
    label_BK, predicted_BK = by_class(label_BHW, known_BHW), by_class(prediction_BHW, known_BHW)
    return PixelCounts(
        intersection_NK=hit_BK.int(),
        union_NK=(label_BK + predicted_BK - hit_BK).int(),
        labelled_N=label_BK.sum(1).int(),
    )


def count_set(
    data: SegmentationSet, predict: Callable[[Tensor, tuple[int, int]], Tensor], *, batch_size: int
) -> PixelCounts:
    """`count_pixels` of every picture of a set, in its order.

    `predict` takes pixels [B, 3, H, W] and the size (H2, W2) of their labels and returns classes [B, H2, W2], on any
    device: pixels are counted there, and only the counts come back.
    """
    num_classes = len(data.class_names)
    hit_NK = torch.zeros(len(data), num_classes, dtype=torch.int)
    union_NK, labelled_N = torch.zeros_like(hit_NK), hit_NK.new_zeros(len(data))
    for places, pixels, labels in numbered_batches(data, batch_size):
        predicted = predict(pixels, tuple(labels.shape[-2:]))
        labels = labels.to(predicted.device)
        found = count_pixels(predicted, labels, num_classes=num_classes, ignore=data.ignore)
        hit_NK[places], union_NK[places] = found.intersection_NK.cpu(), found.union_NK.cpu()
        labelled_N[places] = found.labelled_N.cpu()
    return PixelCounts(intersection_NK=hit_NK, union_NK=union_NK, labelled_N=labelled_N)


def numbered_batches(data: PixelSet, batch_size: int) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
    """`features.batches` with the places of the pictures in the set: so results do not depend on the batch size."""
    if isinstance(data, InBatches):
        start = 0
        for pixels, labels in batches(data, batch_size):
            yield range(start, start + len(pixels)), pixels, labels
            start += len(pixels)
        return
    noted = _Noted(data)
    for pixels, labels in batches(noted, batch_size):
        waiting = noted.waiting[pixels.shape[1:]]
        yield [waiting.popleft() for _ in pixels], pixels, labels


class _Noted:
    """A set that notes which pictures of a size were read. Batches keep their order within a size."""

    def __init__(self, data: PixelSet):
        self.data = data
        self.waiting: dict[torch.Size, deque[int]] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.data[index]
        self.waiting.setdefault(pixels.shape, deque()).append(index)
        return pixels, labels


def intersection_over_union(intersection_K: Int[Tensor, " K"], union_K: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    """IoU of every class in float64; NaN where the union is empty: neither labelled nor predicted anywhere."""
    return torch.where(union_K > 0, intersection_K.double() / union_K, torch.nan)


def segmentation_result(
    counts: PixelCounts, *, class_names: list[str], num_things: int | None, settings: dict[str, Any]
) -> TaskResult:
    """mIoU over classes with a union, from the sums over all pictures; and pixel accuracy.

    Where the first `num_things` classes are things and others are not, also the mean over things and over stuff alone.
    """
    iou_K = intersection_over_union(counts.intersection_NK.sum(0), counts.union_NK.sum(0))
    correct_N = counts.intersection_NK.sum(1)
    total = counts.labelled_N.sum().item()
    if not total:
        raise ValueError("no pixel has a label, so there is nothing to score")
    values = {"miou": iou_K.nanmean().item(), "pixel_accuracy": correct_N.sum().item() / total}
    if num_things is not None and 0 < num_things < len(class_names):
        values |= {
            "miou_things": iou_K[:num_things].nanmean().item(),
            "miou_stuff": iou_K[num_things:].nanmean().item(),
        }
    return TaskResult(
        values=values,
        per_class=dict(zip(class_names, iou_K.tolist(), strict=True)),
        per_picture={
            "intersection": counts.intersection_NK,
            "union": counts.union_NK,
            "correct": correct_N.int(),
            "labelled": counts.labelled_N,
        },
        settings=settings,
        num_images=len(correct_N),
    )


def hit_ranks(
    query_QD: Float[Tensor, "Q D"], gallery_GD: Float[Tensor, "G D"], *, own_QG: Bool[Tensor, "Q G"]
) -> Int[Tensor, " Q"]:
    """How many strangers come before the best of each query's own gallery items; 0 is a hit at rank 1.

    Similarity is the scalar product. A stranger as similar as the best own item counts as before it, so an
    encoder that maps everything to one point hits nothing. NaN counts against the query.
    """
    similarity_QG = query_QD @ gallery_GD.T
    best_Q = similarity_QG.masked_fill(~own_QG, -torch.inf).amax(1)
    return (~own_QG & ~(similarity_QG < best_Q[:, None])).sum(1)
