"""Instance retrieval in the manner of UnED: is the picture most similar to a query one of the same instance?

Legend: Q queries, M instances that a query shows at most, G pictures of an index, g of a part of it, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill.contracts import ImageEncoder
from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, unit
from distill.eval.metrics import MAX_ELEMENTS, TaskResult
from distill.eval.tasks.knn import ClassifiedPictures, classified_features
from distill.eval.tasks.retrieval import check_cls


@dataclass(frozen=True, kw_only=True)
class InstanceSubset:
    """One collection. Classes are instances, numbered alike in both; without queries every picture asks all others."""

    name: str
    index: ClassifiedPictures
    query: ClassifiedPictures | None
    also: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Further instances that a query shows, by the query's place: any of them is right."""


@dataclass(frozen=True, kw_only=True)
class InstanceSettings:
    cls: Literal[0, 1] = 0
    """Which CLS token speaks for the picture: 0 is the paper's CLS 1, 1 its CLS 2."""
    index: Literal["own", "merged"] = "own"
    """Queries look among the pictures of their own sub-set, or of all, as UnED's benchmark does. TIPSv2 does not say
    which it reports."""
    batch_size: int = 64
    """Changes memory, not results."""
    precision: Precision = "fp32"


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: Sequence[InstanceSubset], settings: InstanceSettings) -> TaskResult:
    """`r1`: recall at 1 of every sub-set, and their mean whatever their sizes; `per_class` by sub-set.

    A stranger as similar as the best picture of the query's own instance counts as before it. A query whose instance
    has no picture in the index is missed. Raises ValueError without sub-sets or when the encoder lacks the CLS token.
    """
    if not data:
        raise ValueError("there are no sub-sets, so there is nothing to retrieve")
    check_cls(encoder.image, settings.cls)
    indices = [_embedded(encoder.image, subset.index, settings) for subset in data]
    first_instance = _starts([len(subset.index.class_names) for subset in data])
    first_picture = _starts([len(labels) for _, labels in indices])
    gallery = None
    if settings.index == "merged":
        gallery = (
            torch.cat([features for features, _ in indices]),
            torch.cat([labels + first for (_, labels), first in zip(indices, first_instance, strict=True)]),
        )
    hits = []
    for number, subset in enumerate(data):
        query = indices[number] if subset.query is None else _embedded(encoder.image, subset.query, settings)
        own, offset, itself = indices[number], 0, 0
        if gallery is not None:
            own, offset, itself = gallery, first_instance[number], first_picture[number]
        hits.append(
            nearest_is_own(
                query[0],
                own[0],
                query_label_QM=_all_labels(query[1], subset.also, offset),
                gallery_label_G=own[1],
                itself=itself if subset.query is None else None,
            )
        )
    return _result(hits, data, settings)


def nearest_is_own(
    query_QD: Float[Tensor, "Q D"],
    gallery_GD: Float[Tensor, "G D"],
    *,
    query_label_QM: Int[Tensor, "Q M"],
    gallery_label_G: Int[Tensor, " G"],
    itself: int | None,
) -> Bool[Tensor, " Q"]:
    """True where the best gallery item of a query's labels is more similar than every other item. On the CPU.

    A label of -1 is none. `itself`: query i is gallery item `itself + i` and does not find itself; None for queries
    that are not in there. Similarities are made `MAX_ELEMENTS` at a time, in float64.
    """
    device, (num_queries, width) = gallery_GD.device, query_QD.shape
    query_label_QM = query_label_QM.to(device)
    best_own_Q = torch.full((num_queries,), -torch.inf, dtype=torch.double, device=device)
    best_other_Q = best_own_Q.clone()
    rows = max(1, MAX_ELEMENTS // width)
    for first in range(0, len(gallery_GD), rows):
        gallery_gD = gallery_GD[first : first + rows].double()
        label_g = gallery_label_G[first : first + rows].to(device)
        step = max(1, MAX_ELEMENTS // max(len(gallery_gD), width))
        for start in range(0, num_queries, step):
            asking = slice(start, min(start + step, num_queries))
            similarity_qg = query_QD[asking].double() @ gallery_gD.T
            if itself is not None:
                place_q = torch.arange(asking.start, asking.stop, device=device) + itself - first
                (inside,) = torch.where((place_q >= 0) & (place_q < len(gallery_gD)))
                similarity_qg[inside, place_q[inside]] = -torch.inf
            own_qg = (query_label_QM[asking, :, None] == label_g).any(1)
            for best_Q, strange_qg in ((best_own_Q, ~own_qg), (best_other_Q, own_qg)):
                nearest_q = similarity_qg.masked_fill(strange_qg, -torch.inf).amax(1)
                best_Q[asking] = torch.maximum(best_Q[asking], nearest_q)
    return (best_own_Q > best_other_Q).cpu()


def _all_labels(label_Q: Tensor, also: Mapping[int, tuple[int, ...]], offset: int) -> Int[Tensor, "Q M"]:
    """Every query's instances in the numbers of the gallery; -1 where it has fewer than others."""
    label_QM = torch.full((len(label_Q), 1 + max(map(len, also.values()), default=0)), -1)
    label_QM[:, 0] = label_Q + offset
    for place, others in also.items():
        label_QM[place, 1 : 1 + len(others)] = torch.tensor(others) + offset
    return label_QM


def _embedded(image: ImageEncoder, pictures: ClassifiedPictures, settings: InstanceSettings) -> tuple[Tensor, Tensor]:
    return classified_features(
        image,
        pictures,
        lambda found: unit(found.cls[:, settings.cls]),
        batch_size=settings.batch_size,
        precision=settings.precision,
    )


def _starts(lengths: list[int]) -> list[int]:
    return [sum(lengths[:number]) for number in range(len(lengths))]


def _result(hits: list[Tensor], data: Sequence[InstanceSubset], settings: InstanceSettings) -> TaskResult:
    per_class = {subset.name: hit.double().mean().item() for subset, hit in zip(data, hits, strict=True)}
    subset_Q = torch.cat([torch.full(hit.shape, number) for number, hit in enumerate(hits)])
    return TaskResult(
        values={"r1": sum(per_class.values()) / len(per_class)},
        per_class=per_class,
        per_picture={"r1": torch.cat(hits).to(torch.uint8), "subset": subset_Q.int()},
        settings=asdict(settings) | {"num_queries": {s.name: len(hit) for s, hit in zip(data, hits, strict=True)}},
        num_images=len(subset_Q),
    )
