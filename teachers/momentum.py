"""A teacher that follows the student: exponential moving average of encoder and head, or of the head alone."""

import copy

import torch
from torch import nn

from distill.contracts import Batch, ImageEncoder, Predictions, Targets, Teacher
from distill.encoders.head import Heads


class Momentum(Teacher):
    """Full EMA (`image` is a copy), or head-only EMA (`image` is None; tipsv2.md section 3).

    Head-only EMA sets f_t = f_s: the targets are the student's own unmasked pass behind a stop-gradient, so one
    forward pass and one copy of the encoder are saved. The contrastive loss keeps the encoder from collapsing.
    """

    def __init__(self, image: ImageEncoder | None, heads: Heads):
        """Takes the student's modules and copies them."""
        super().__init__()
        self.image = None if image is None else copy.deepcopy(image)
        self.heads = copy.deepcopy(heads)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def targets(self, batch: Batch, predictions: Predictions | None) -> Targets:
        """Head-only EMA needs `predictions.unmasked`; full EMA looks at `batch.pixels`."""
        if self.image is not None:
            return Targets(tokens=self.image(batch.pixels), heads=self.heads)
        return Targets(tokens=predictions.unmasked.detach(), heads=self.heads)

    def towers(self) -> list[ImageEncoder]:
        return [] if self.image is None else [self.image]

    @torch.no_grad()
    def follow(self, image: ImageEncoder, heads: Heads, *, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, once per optimiser step."""
        if self.image is not None:
            _lerp(self.image, image, momentum=momentum)
        _lerp(self.heads, heads, momentum=momentum)


def _lerp(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Buffers are the student's own, the running statistics of batch norms among them.

    Averaged at the same momentum these would stay near their start for hundreds of steps. Measured on a small ResNet
    (120 steps, momentum 0.994 to 1): running variances are off the teacher's true ones by a factor of 1.7 when copied
    (mean of absolute logarithms) and by 190 when averaged.
    """
    ours, theirs = list(teacher.parameters()), list(student.parameters())
    torch._foreach_lerp_(ours, theirs, 1.0 - momentum)
    for ours_buffer, theirs_buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        ours_buffer.copy_(theirs_buffer)
