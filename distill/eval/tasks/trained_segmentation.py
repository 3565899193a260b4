"""Linear segmentation by gradient descent: batch norm and one linear layer on frozen patches, as DINOv2 trains it.

Beside `linear_segmentation`, whose closed-form probe is quicker and has no learning rate.
Legend: B images, D width, K classes, (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from distill.contracts import ImageEncoder, SegmentationSet
from distill.encoders.dual import DualEncoder
from distill.eval.dense import LinearScores, upsample
from distill.eval.features import device_of, resize_short_side
from distill.eval.metrics import TaskResult
from distill.eval.probes.linear_scoring import Scoring, check_classes, score, seen_by
from distill.eval.probes.probe_training import ProbeTraining, build_probe, flipped, train_probe

TRAINING = ProbeTraining(
    steps=40_000, lr=1e-3, weight_decay=1e-4, warmup=1500 / 40_000, decay="linear", zoom=(1.0, 2.0)
)
"""DINOv2's of ADE20K and VOC, by a public copy of its configuration, without zooming out and changing colours."""


@dataclass(frozen=True, kw_only=True)
class TrainedLinearSettings(Scoring):
    """Trained on squares of the shorter side, scored in windows, whose scores are averaged."""

    training: ProbeTraining = field(default_factory=lambda: TRAINING)
    short_side: int | None = 512
    mode: Literal["whole", "slide"] = "slide"
    window: int = 512
    stride: int = 341


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


def evaluate(
    encoder: DualEncoder, train_set: SegmentationSet, data: SegmentationSet, settings: TrainedLinearSettings
) -> TaskResult:
    """Train on `train_set`, score on `data`: the same values as zero-shot segmentation.

    Raises ValueError when the two sets differ in their classes.
    """
    check_classes(train_set, data)
    return score(encoder.image, fit(encoder.image, train_set, settings), data, settings, num_train=len(train_set))


def fit(image: ImageEncoder, train_set: SegmentationSet, settings: TrainedLinearSettings) -> LinearScores:
    """The probe as weights on raw features. Scores are brought to the labels' size before the cross-entropy."""
    num_classes, device = len(train_set.class_names), device_of(image)
    head = build_probe(lambda: NormedLinear(width=image.width, num_classes=num_classes), settings.training)
    head.to(device)

    def loss(head: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        resized = resize_short_side(pixels, settings.short_side)
        scores = upsample(head(seen_by(image, resized, settings)), tuple(labels.shape[-2:]))
        known = (labels != train_set.ignore).sum().clamp_min(1).to(device)
        each = functional.cross_entropy(scores, labels.to(device), ignore_index=train_set.ignore, reduction="sum")
        return each / known

    train_probe(head, train_set, loss, settings.training, side=settings.short_side, mirror=flipped)
    return head.scores()
