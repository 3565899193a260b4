"""Named terms of a loss, and how they become one number. Legend: B images of this rank."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from distill.contracts import Losses


@dataclass(frozen=True)
class Term:
    """`weight` times `value` is added to the loss; `value` itself and the diagnostics are logged.

    `by_image` is what each image adds to `value`, for terms that several teachers have.
    """

    name: str
    weight: float
    value: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    by_image: Float[Tensor, " B"] | None = None


def add_up(terms: list[Term]) -> Losses:
    """The weighted sum with gradient, and what it is made of without."""
    return Losses(
        total=sum((term.weight * term.value for term in terms), start=torch.zeros(())),
        terms={term.name: term.value.detach() for term in terms},
        diagnostics={name: value for term in terms for name, value in term.diagnostics.items()},
    )
