"""Linear segmentation by gradient descent: batch norm and one linear layer on frozen patches, as DINOv2 trains it.

Beside `linear_segmentation`, whose closed-form probe is quicker and has no learning rate.
Legend: B images, D width, K classes, (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from distill.contracts import ImageEncoder, SegmentationSet
from distill.encoders.dual import DualEncoder
from distill.eval.dense import LinearScores, check_slide, segment, upsample
from distill.eval.features import Kind, Precision, device_of, patch_map, resize_short_side, tokens
from distill.eval.metrics import TaskResult, count_set, segmentation_result
from distill.eval.pictures.things import num_things_of
from distill.eval.probes.probe_training import ProbeTraining, build_probe, flipped, train_probe

TRAINING = ProbeTraining(
    steps=40_000, lr=1e-3, weight_decay=1e-4, warmup=1500 / 40_000, decay="linear", zoom=(1.0, 2.0)
)
"""DINOv2's of ADE20K and VOC, by a public copy of its configuration, without zooming out and changing colours."""


@dataclass(frozen=True, kw_only=True)
class TrainedLinearSettings:
    """The protocol: trained on squares of the shorter side, scored in windows, whose scores are averaged."""

    features: Kind = "final"
    training: ProbeTraining = field(default_factory=lambda: TRAINING)
    short_side: int | None = 512
    """Pictures are resized so that the shorter side has so many pixels; None keeps them. Labels stay when scored."""
    mode: Literal["whole", "slide"] = "slide"
    window: int = 512
    """slide: side of a window, pixels of the resized picture."""
    stride: int = 341
    batch_size: int = 32
    """Of the scored pictures. Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_slide(self.window, self.stride)


class NormedLinear(nn.Module):
    """Batch norm over all patches of a batch, then a score for every class."""

    def __init__(self, *, width: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K h w"]:
        return self.linear(self.norm(features))

    @torch.no_grad()
    def scores(self) -> LinearScores:
        """The same map in eval mode, as weights on raw features."""
        norm = self.norm
        scale_D = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight_KD = self.linear.weight.flatten(1)
        shift_D = norm.bias - norm.running_mean * scale_D
        return LinearScores(weight_KD * scale_D, self.linear.bias + weight_KD @ shift_D)


@torch.no_grad()
def evaluate(
    encoder: DualEncoder, train_set: SegmentationSet, data: SegmentationSet, settings: TrainedLinearSettings
) -> TaskResult:
    """Train on `train_set`, score on `data`: the same values as zero-shot segmentation.

    Raises ValueError when the two sets differ in their classes.
    """
    if train_set.class_names != data.class_names:
        raise ValueError("the training and the evaluation pictures have different classes")
    scores = fit(encoder.image, train_set, settings)

    def predict(pixels: Tensor, size: tuple[int, int]) -> Tensor:
        return segment(
            resize_short_side(pixels, settings.short_side),
            lambda seen: _features(encoder.image, seen, settings),
            scores,
            size=size,
            slide=None if settings.mode == "whole" else (settings.window, settings.stride),
            mean_of="scores",
            batch_size=settings.batch_size,
        )

    return segmentation_result(
        count_set(data, predict, batch_size=settings.batch_size),
        class_names=data.class_names,
        num_things=num_things_of(data),
        settings=asdict(settings) | {"num_train_images": len(train_set)},
    )


def fit(image: ImageEncoder, train_set: SegmentationSet, settings: TrainedLinearSettings) -> LinearScores:
    """The probe as weights on raw features. Scores are brought to the labels' size before the cross-entropy."""
    num_classes, device = len(train_set.class_names), device_of(image)
    head = build_probe(lambda: NormedLinear(width=image.width, num_classes=num_classes), settings.training)
    head.to(device)

    def loss(head: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        resized = resize_short_side(pixels, settings.short_side)
        scores = upsample(head(_features(image, resized, settings)), tuple(labels.shape[-2:]))
        known = (labels != train_set.ignore).sum().clamp_min(1).to(device)
        each = functional.cross_entropy(scores, labels.to(device), ignore_index=train_set.ignore, reduction="sum")
        return each / known

    train_probe(head, train_set, loss, settings.training, side=settings.short_side, mirror=flipped)
    return head.scores()


def _features(image: ImageEncoder, pixels: Tensor, settings: TrainedLinearSettings) -> Float[Tensor, "B D h w"]:
    return patch_map(tokens(image, pixels, kind=settings.features, precision=settings.precision))
