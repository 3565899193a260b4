"""What the tasks count: confusion matrices, neighbours' votes, ranks; and the result every task returns.

Ties and absent classes have stated results, because collapsed encoders produce both.
Legend: K classes, Q queries, G gallery items, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_ELEMENTS = 2**24
"""Largest temporary tensor of a task, in elements: 64 MiB in float32. Changes memory, not results."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task found. Shares are in [0, 1]; NaN marks a mean over nothing."""

    values: dict[str, float]
    """The headline comes first."""
    per_class: dict[str, float]
    """IoU or accuracy of every class; empty for tasks without classes, NaN for classes that never occurred."""
    settings: dict[str, Any]
    num_images: int


def confusion_matrix(
    prediction: Int[Tensor, "*shape"], label: Int[Tensor, "*shape"], *, num_classes: int, ignore: int
) -> Int[Tensor, "K K"]:
    """Counts [label, prediction] of all positions whose label is not `ignore`, as int64.

    Raises ValueError for labels that are neither a class nor `ignore`.
    """
    counts = label != ignore
    label_n, prediction_n = label[counts].long(), prediction[counts].long()
    strange = label_n[(label_n < 0) | (label_n >= num_classes)]
    if len(strange):
        raise ValueError(f"label {strange[0].item()} is neither one of {num_classes} classes nor ignore={ignore}")
    flat = torch.bincount(label_n * num_classes + prediction_n, minlength=num_classes**2)
    return flat.view(num_classes, num_classes)


def intersection_over_union(confusion_KK: Int[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """IoU of every class in float64; NaN where the union is empty: neither labelled nor predicted anywhere."""
    hit_K = confusion_KK.diagonal().double()
    union_K = confusion_KK.sum(0) + confusion_KK.sum(1) - hit_K
    return torch.where(union_K > 0, hit_K / union_K, torch.nan)


def segmentation_result(
    confusion_KK: Int[Tensor, "K K"],
    *,
    class_names: list[str],
    num_things: int | None,
    settings: dict[str, Any],
    num_images: int,
) -> TaskResult:
    """mIoU over classes with a union, from one confusion matrix over all pictures; and pixel accuracy.

    Where the first `num_things` classes are things and others are not, also the mean over things and over stuff alone.
    """
    iou_K = intersection_over_union(confusion_KK.cpu())
    correct, total = confusion_KK.diagonal().sum().item(), confusion_KK.sum().item()
    if not total:
        raise ValueError("no pixel has a label, so there is nothing to score")
    values = {"miou": iou_K.nanmean().item(), "pixel_accuracy": correct / total}
    if num_things is not None and 0 < num_things < len(class_names):
        values |= {
            "miou_things": iou_K[:num_things].nanmean().item(),
            "miou_stuff": iou_K[num_things:].nanmean().item(),
        }
    per_class = dict(zip(class_names, iou_K.tolist(), strict=True))
    return TaskResult(values=values, per_class=per_class, settings=settings, num_images=num_images)


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


def neighbour_votes(
    query_QD: Float[Tensor, "Q D"],
    gallery_GD: Float[Tensor, "G D"],
    gallery_label_G: Int[Tensor, " G"],
    *,
    num_neighbours: int,
    num_classes: int,
) -> Int[Tensor, " Q"]:
    """Class of each query by majority among its most similar gallery items.

    Equally many votes: the class whose neighbours are more similar in sum; still equal: the lower class.
    Equally similar items at the edge of the neighbourhood: the earlier in the gallery.
    """
    similarity_QG = query_QD @ gallery_GD.T
    edge_Q1 = similarity_QG.topk(num_neighbours, dim=1).values[:, -1:]
    nearer_QG, edge_QG = similarity_QG > edge_Q1, similarity_QG == edge_Q1
    room_Q1 = num_neighbours - nearer_QG.sum(1, keepdim=True)
    chosen_QG = (nearer_QG | (edge_QG & (edge_QG.cumsum(1) <= room_Q1))).double()
    onehot_GK = torch.nn.functional.one_hot(gallery_label_G.long(), num_classes).double()
    votes_QK = chosen_QG @ onehot_GK
    weight_QK = (chosen_QG * similarity_QG) @ onehot_GK
    most_QK = votes_QK == votes_QK.amax(1, keepdim=True)
    return weight_QK.masked_fill(~most_QK, -torch.inf).argmax(1)
