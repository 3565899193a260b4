"""Compositional pairs: is a picture closer to its caption than to a caption that is wrong in one detail?

As in SugarCrepe (Hsieh et al., 2023), whose seven categories add, replace or swap an object, attribute or relation.
Legend: N pictures, P pairs, D width.
"""

from dataclasses import asdict, dataclass
from itertools import chain
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision
from distill.eval.metrics import TaskResult
from distill.eval.remembered import text_features
from distill.eval.tasks.retrieval import cls_embeddings


@dataclass(frozen=True, kw_only=True)
class Pair:
    picture: int
    """Which of the set's pictures the captions are about."""
    caption: str
    negative: str
    category: str


@runtime_checkable
class ContrastedPictures(Protocol):
    """Pictures of one size, and pairs of a right and a wrong caption; `left_out` pairs have no picture here."""

    pairs: list[Pair]
    left_out: int

    def __len__(self) -> int: ...

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]: ...


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    cls: Literal[0, 1] = 0
    """Which CLS token speaks for the picture: 0 is the paper's CLS 1, 1 its CLS 2."""
    batch_size: int = 64
    """Changes memory, not results."""
    precision: Precision = "fp32"


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: ContrastedPictures, settings: PairSettings) -> TaskResult:
    """`accuracy` over pairs, chance 0.5; `category_accuracy`, its mean over categories; `per_class` by category.

    Captions that are equally similar are a mistake, so an encoder that maps everything to one point is never right.
    Raises ValueError without pairs or when the encoder lacks the CLS token.
    """
    if not data.pairs:
        raise ValueError("there are no pairs of captions, so there is nothing to score")
    image_ND = cls_embeddings(
        encoder.image, data, cls=settings.cls, batch_size=settings.batch_size, precision=settings.precision
    ).double()
    texts = list(dict.fromkeys(chain.from_iterable((pair.caption, pair.negative) for pair in data.pairs)))
    text_of = {text: number for number, text in enumerate(texts)}
    text_TD = text_features(encoder, texts).double()
    seen_PD = image_ND[[pair.picture for pair in data.pairs]]
    own_P, other_P = (
        (seen_PD * text_TD[[text_of[text] for text in chosen]]).sum(1)
        for chosen in ([pair.caption for pair in data.pairs], [pair.negative for pair in data.pairs])
    )
    return _result((own_P > other_P).cpu(), data, settings)


def _result(right_P: Tensor, data: ContrastedPictures, settings: PairSettings) -> TaskResult:
    categories = list(dict.fromkeys(pair.category for pair in data.pairs))
    bins_P = torch.tensor([pair.picture * len(categories) + categories.index(pair.category) for pair in data.pairs])
    count_NC, right_NC = (
        torch.bincount(bins_P[chosen_P], minlength=len(data) * len(categories)).view(len(data), len(categories))
        for chosen_P in (torch.ones_like(right_P), right_P)
    )
    share_C = right_NC.sum(0).double() / count_NC.sum(0)
    left_out = (f"{data.left_out} pairs were left out: their pictures are not here",) if data.left_out else ()
    return TaskResult(
        values={"accuracy": right_P.double().mean().item(), "category_accuracy": share_C.mean().item()},
        per_class=dict(zip(categories, share_C.tolist(), strict=True)),
        per_picture={"right": right_NC.int(), "pairs": count_NC.int()},
        settings=asdict(settings) | {"num_pairs": len(data.pairs), "left_out": data.left_out},
        num_images=len(data),
        notes=left_out,
    )
