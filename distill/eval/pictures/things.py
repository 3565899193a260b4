"""Pictures with a class in every pixel, and which classes are things: countable objects, not amorphous stuff."""

from typing import Protocol, runtime_checkable

from distill.contracts import SegmentationSet


@runtime_checkable
class WithThings(Protocol):
    """A segmentation set whose first `num_things` classes are things and the others stuff."""

    num_things: int


def num_things_of(data: SegmentationSet) -> int | None:
    """How many of the set's classes are things; None where it does not say."""
    return data.num_things if isinstance(data, WithThings) else None
