"""What a linear map on patch features says of every pixel, scored in one way however the map was fitted.

Legend: B images, D width, (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from distill.contracts import ImageEncoder, SegmentationSet
from distill.eval.dense import LinearScores, check_slide, segment
from distill.eval.features import Kind, Precision, patch_map, resize_short_side, tokens
from distill.eval.metrics import TaskResult, count_set, segmentation_result
from distill.eval.pictures.things import num_things_of


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The protocol of a linear probe, which reads the final patch tokens by default, as the paper's do."""

    features: Kind = "final"
    short_side: int | None = 448
    """Pictures are resized so that the shorter side has so many pixels; None keeps them. Labels stay when scored."""
    mode: Literal["whole", "slide"] = "whole"
    """How pictures are scored. slide: scores are averaged over windows."""
    window: int = 448
    """slide: side of a window, pixels of the resized picture."""
    stride: int = 298
    batch_size: int = 32
    """Of the scored pictures. Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_slide(self.window, self.stride)


def check_classes(train_set: SegmentationSet, data: SegmentationSet) -> None:
    """Raise ValueError where other classes are learnt than asked for."""
    if train_set.class_names != data.class_names:
        raise ValueError("the training and the evaluation pictures have different classes")


@torch.no_grad()
def score(
    image: ImageEncoder, probe: LinearScores, data: SegmentationSet, settings: Scoring, *, num_train: int
) -> TaskResult:
    """The values of zero-shot segmentation, of a probe that was fitted on `num_train` pictures."""

    def predict(pixels: Tensor, size: tuple[int, int]) -> Tensor:
        return segment(
            resize_short_side(pixels, settings.short_side),
            lambda seen: seen_by(image, seen, settings),
            probe,
            size=size,
            slide=None if settings.mode == "whole" else (settings.window, settings.stride),
            mean_of="scores",
            batch_size=settings.batch_size,
        )

    return segmentation_result(
        count_set(data, predict, batch_size=settings.batch_size),
        class_names=data.class_names,
        num_things=num_things_of(data),
        settings=asdict(settings) | {"num_train_images": num_train},
    )


def seen_by(image: ImageEncoder, pixels: Float[Tensor, "B 3 H W"], settings: Scoring) -> Float[Tensor, "B D h w"]:
    """What the probe reads."""
    return patch_map(tokens(image, pixels, kind=settings.features, precision=settings.precision))
