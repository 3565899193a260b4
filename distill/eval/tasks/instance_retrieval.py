"""Instance retrieval in the manner of UnED: is the picture most similar to a query one of the same instance?

Legend: Q queries, G pictures of an index, D width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
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


@dataclass(frozen=True, kw_only=True)
class InstanceSettings:
    cls: Literal[0, 1] = 0
    """Which CLS token speaks for the picture: 0 is the paper's CLS 1, 1 its CLS 2."""
    index: Literal["own", "merged"] = "own"
    """Queries look among the pictures of their own sub-set, or of all. TIPSv2 does not say which."""
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
    merged = (
        torch.cat([features for features, _ in indices]),
        torch.cat([labels + first for (_, labels), first in zip(indices, first_instance, strict=True)]),
    )
    hits = []
    for number, subset in enumerate(data):
        query = indices[number] if subset.query is None else _embedded(encoder.image, subset.query, settings)
        own, offset = (indices[number], 0) if settings.index == "own" else (merged, first_instance[number])
        itself = first_picture[number] if settings.index == "merged" else 0
        hits.append(
            nearest_is_own(
                query[0],
                own[0],
                query_label_Q=query[1] + offset,
                gallery_label_G=own[1],
                itself=itself if subset.query is None else None,
            )
        )
    return _result(hits, data, settings)


def nearest_is_own(
    query_QD: Float[Tensor, "Q D"],
    gallery_GD: Float[Tensor, "G D"],
    *,
    query_label_Q: Int[Tensor, " Q"],
    gallery_label_G: Int[Tensor, " G"],
    itself: int | None,
) -> Tensor:
    """True where the best gallery item of a query's label is more similar than every other item. On the CPU.

    `itself`: query i is gallery item `itself + i` and does not find itself; None for queries that are not in there.
    """
    gallery_GD, gallery_label_G = gallery_GD.double(), gallery_label_G.to(gallery_GD.device)
    step = max(1, MAX_ELEMENTS // len(gallery_GD))
    found = []
    for start in range(0, len(query_QD), step):
        similarity_QG = query_QD[start : start + step].double() @ gallery_GD.T
        label_Q = query_label_Q[start : start + step].to(gallery_GD.device)
        if itself is not None:
            rows = torch.arange(len(label_Q), device=gallery_GD.device)
            similarity_QG[rows, rows + start + itself] = -torch.inf
        own_QG = gallery_label_G == label_Q[:, None]
        best_own_Q = similarity_QG.masked_fill(~own_QG, -torch.inf).amax(1)
        best_other_Q = similarity_QG.masked_fill(own_QG, -torch.inf).amax(1)
        found.append((best_own_Q > best_other_Q).cpu())
    return torch.cat(found)


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
