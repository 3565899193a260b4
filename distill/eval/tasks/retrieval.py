"""Retrieval: which caption belongs to a picture, and which picture to a caption.

Legend: n pictures, c captions, m of them distinct, D width.
"""

from dataclasses import asdict, dataclass
from itertools import chain
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.contracts import ImageEncoder
from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, unit
from distill.eval.metrics import MAX_ELEMENTS, TaskResult, hit_ranks
from distill.eval.remembered import global_tokens, text_features

RANKS = (1, 5, 10)


@runtime_checkable
class PixelsByPlace(Protocol):
    """Pictures of one size."""

    def __len__(self) -> int: ...

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]: ...


@runtime_checkable
class CaptionedPictures(PixelsByPlace, Protocol):
    """Pictures of one size with one or more captions each."""

    captions: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings:
    cls: Literal[0, 1] = 0
    """Which CLS token speaks for the picture: 0 is the paper's CLS 1, 1 its CLS 2."""
    batch_size: int = 64
    """Changes memory, not results."""
    precision: Precision = "fp32"


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: CaptionedPictures, settings: RetrievalSettings) -> TaskResult:
    """Recall at 1, 5 and 10 in both directions: `image_to_text_r1`, `text_to_image_r1`, ...

    A picture is a hit when any of its own captions is among the first k. Equal captions are one text with several
    owners: none of them is a mistake for any of its owners, and in text-to-image it counts as often as it occurs.
    Similarities are made `MAX_ELEMENTS` at a time, so memory grows with pictures plus captions, not with their product.
    """
    text_of = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(data.captions)))}
    owner, text = _owners(data.captions, text_of)
    image_nD = image_embeddings(encoder, data, settings)
    text_mD = text_features(encoder, list(text_of))
    # Products in float64: an ulp of float32 must not decide between equal embeddings.
    to_text = _ranks(image_nD.double(), text_mD.double(), query=owner, item=text)
    to_image = _ranks(text_mD.double(), image_nD.double(), query=text, item=owner)[text]
    values = {f"image_to_text_r{k}": (to_text < k).double().mean().item() for k in RANKS}
    values |= {f"text_to_image_r{k}": (to_image < k).double().mean().item() for k in RANKS}
    return TaskResult(
        values=values,
        per_class={},
        per_picture=_per_picture(to_text, to_image, owner=owner),
        settings=asdict(settings),
        num_images=len(data),
    )


def _per_picture(
    to_text_n: Int[Tensor, " n"], to_image_c: Int[Tensor, " c"], *, owner: Int[Tensor, " c"]
) -> dict[str, Tensor]:
    """Hits of every picture from the ranks of n pictures and c captions (`metrics.TaskResult`)."""
    num_captions = owner.bincount(minlength=len(to_text_n))
    found = {f"image_to_text_r{k}": (to_text_n < k).to(torch.uint8) for k in RANKS}
    for k in RANKS:
        hits = owner.bincount((to_image_c < k).double(), minlength=len(to_text_n))
        found[f"text_to_image_r{k}"] = (hits / num_captions).float()
    return found | {"num_captions": num_captions.int()}


def image_embeddings(
    encoder: DualEncoder, data: CaptionedPictures, settings: RetrievalSettings
) -> Float[Tensor, "n D"]:
    """The chosen CLS token of every picture, normalised. Raises ValueError when the encoder lacks it."""
    return cls_embeddings(
        encoder.image, data, cls=settings.cls, batch_size=settings.batch_size, precision=settings.precision
    )


def cls_embeddings(
    image: ImageEncoder, data: PixelsByPlace, *, cls: int, batch_size: int, precision: Precision
) -> Float[Tensor, "n D"]:
    """The chosen CLS token of every picture, normalised. Raises ValueError when the encoder lacks it."""
    check_cls(image, cls)

    def read(start: int, stop: int) -> tuple[Tensor, None]:
        return data.pixels(start, stop), None

    found = global_tokens(image, data, read, batch_size=batch_size, precision=precision)
    # Made new batch by batch: a view would keep the tokens of all patches.
    return torch.cat([unit(tokens.cls[:, cls]) for tokens, _ in found])


def check_cls(image: ImageEncoder, cls: int) -> None:
    """Raise ValueError when the encoder has no such CLS token."""
    if cls >= image.num_cls:
        raise ValueError(f"cls={cls}: this encoder has {image.num_cls} CLS token(s), counted from 0")


def _owners(captions: list[list[str]], text_of: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Every caption as a pair (picture, distinct text)."""
    pairs = [(picture, text_of[text]) for picture, texts in enumerate(captions) for text in texts]
    if len(captions) != len({picture for picture, _ in pairs}):
        raise ValueError("every picture of a retrieval set needs at least one caption")
    owner, text = torch.tensor(pairs).T
    return owner, text


def _ranks(query_QD: Tensor, gallery_GD: Tensor, *, query: Tensor, item: Tensor) -> Int[Tensor, " Q"]:
    """`hit_ranks` of all queries, a chunk at a time; item[i] is the own item of query[i]. On the CPU."""
    step = max(1, MAX_ELEMENTS // len(gallery_GD))
    query, item = query.to(query_QD.device), item.to(query_QD.device)
    ranks = []
    for start in range(0, len(query_QD), step):
        part = query_QD[start : start + step]
        own = torch.zeros(len(part), len(gallery_GD), dtype=torch.bool, device=part.device)
        inside = (query >= start) & (query < start + len(part))
        own[query[inside] - start, item[inside]] = True
        ranks.append(hit_ranks(part, gallery_GD, own_QG=own).cpu())
    return torch.cat(ranks)
