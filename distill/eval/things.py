"""Pictures with a class in every pixel, and which classes are things: countable objects, not amorphous stuff."""

from typing import Protocol, runtime_checkable

from distill.contracts import SegmentationSet


@runtime_checkable
class Masks(SegmentationSet, Protocol):
    """`SegmentationSet`, in a form that type checkers can test for at run time."""


@runtime_checkable
class WithThings(Protocol):
    """A segmentation set whose first `num_things` classes are things and the others stuff."""

    num_things: int


def num_things_of(data: Masks) -> int | None:
    """How many of the set's classes are things; None where it does not say."""
    return data.num_things if isinstance(data, WithThings) else None
