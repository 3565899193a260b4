"""Zero-shot segmentation: every pixel gets the class name its patch is most similar to (tipsv2.md section 7)."""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.contracts import ImageEncoder, SegmentationSet
from distill.encoders.dual import DualEncoder
from distill.eval.dense import LinearScores, check_slide, segment
from distill.eval.features import Kind, Precision, patch_map, resize_short_side, tokens, unit
from distill.eval.metrics import TaskResult, count_set, segmentation_result
from distill.eval.pictures.things import num_things_of
from distill.eval.prompts import check_templates, class_embeddings, zeroed


@dataclass(frozen=True, kw_only=True)
class ZeroShotSettings:
    """The protocol. The defaults are the paper's numbers other than its Table 8, which slides."""

    templates: Literal["plain", "tcl"] = "tcl"
    features: Kind = "value"
    mode: Literal["whole", "slide"] = "whole"
    short_side: int | None = 448
    """Pictures are resized so that the shorter side has so many pixels; None keeps them. Labels stay."""
    window: int = 448
    """slide: side of a window, pixels of the resized picture."""
    stride: int = 336
    background: Literal["named", "threshold"] = "named"
    """`named`: a class called background is a name like any other. `threshold`: it scores `background_score`."""
    background_score: float = 0.0
    """threshold: the cosine that the other classes have to exceed."""
    batch_size: int = 32
    """Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_templates(self.templates)
        check_slide(self.window, self.stride)
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"short_side={self.short_side} is not positive")
        if not -1 <= self.background_score <= 1:
            raise ValueError(f"background_score={self.background_score} is not a cosine: expected -1 to 1")


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: SegmentationSet, settings: ZeroShotSettings) -> TaskResult:
    """`miou`, `pixel_accuracy` and, where the set tells things from stuff, `miou_things` and `miou_stuff`."""
    scores = class_scores(encoder, data.class_names, settings)

    def predict_size(pixels: Tensor, size: tuple[int, int]) -> Tensor:
        return predict(encoder.image, pixels, scores=scores, size=size, settings=settings)

    return segmentation_result(
        count_set(data, predict_size, batch_size=settings.batch_size),
        class_names=data.class_names,
        num_things=num_things_of(data),
        settings=asdict(settings),
    )


def class_scores(encoder: DualEncoder, class_names: list[str], settings: ZeroShotSettings) -> LinearScores:
    """Cosine with each class name; with the threshold rule a constant for the class called background."""
    text_KD = class_embeddings(encoder, class_names, templates=settings.templates)
    bias_K = torch.zeros_like(text_KD[:, 0])
    if settings.background == "threshold":
        if "background" not in class_names:
            raise ValueError("background=threshold needs a class called 'background', and this set has none")
        place = class_names.index("background")
        text_KD = zeroed(text_KD, place)
        bias_K[place] = settings.background_score
    return LinearScores(text_KD, bias_K)


def predict(
    image: ImageEncoder,
    pixels: Float[Tensor, "B 3 H W"],
    *,
    scores: LinearScores,
    size: tuple[int, int],
    settings: ZeroShotSettings,
) -> Int[Tensor, "B H2 W2"]:
    """A class for every pixel of a label map of `size`."""
    resized = resize_short_side(pixels, settings.short_side)
    return segment(
        resized,
        lambda seen: _unit_map(image, seen, settings),
        scores,
        size=size,
        slide=None if settings.mode == "whole" else (settings.window, settings.stride),
        batch_size=settings.batch_size,
    )


def _unit_map(image: ImageEncoder, pixels: Tensor, settings: ZeroShotSettings) -> Tensor:
    found = tokens(image, pixels, kind=settings.features, precision=settings.precision)
    return unit(patch_map(found).movedim(1, -1)).movedim(-1, 1)
