"""A teacher that goes on learning in part: named parts of one of our own trainings, the rest as it was."""

from collections.abc import Iterator

import torch
from timm.layers import RmsNorm, SimpleNorm
from torch import nn

from distill.config import Teacher as Settings
from distill.contracts import Batch, ImageEncoder, Predictions, Targets, Teacher
from distill.encoders.dual import DualEncoder
from distill.encoders.head import Heads
from teachers.pixels import at_side

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, RmsNorm, SimpleNorm)
"""Norms of the image towers; those of timm that are not here are made from these."""

BIASES = ("bias", "q_bias", "k_bias", "v_bias")


class Partial(Teacher):
    """Learns with the student from the distillation losses, through the targets it makes.

    Its gradient lowers the cross-entropy from the other side, towards targets that the student can foretell; only
    centring or Sinkhorn keeps them from being all the same. What is not named in `trainable` is bitwise unchanged, and
    no history is built before the first part that learns. The optimiser moves it, not `follow`.
    """

    def __init__(self, encoder: DualEncoder, heads: Heads, *, image_size: int, settings: Settings):
        """`image_size`: side of the pictures this teacher looks at, pixels; the batch is resized to it.

        Raises ValueError when the image tower has fewer than `settings.last_k` blocks.
        """
        super().__init__()
        if settings.last_k > encoder.image.num_layers:
            raise ValueError(
                f"teacher.last_k is {settings.last_k}, but the teacher has {encoder.image.num_layers} blocks"
            )
        self.encoder = encoder
        self.heads = heads
        self.image_size = image_size
        self.loss_weight = settings.loss_weight
        self.requires_grad_(False)
        for parameter in self._named_by(settings):
            parameter.requires_grad_(True)
        self.eval()

    @property
    def image(self) -> ImageEncoder:
        return self.encoder.image

    @property
    def width(self) -> int:
        """Of its tokens."""
        return self.image.width

    def targets(self, batch: Batch, predictions: Predictions | None) -> Targets:
        """With history, unless nothing is to reach the teacher."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.loss_weight > 0):
            tokens = self.image(at_side(batch.pixels, self.image_size))
            return Targets(tokens=tokens, heads=self.heads, gradient=self.loss_weight)

    def follow(self, image: ImageEncoder, heads: Heads | None, *, momentum: float) -> None:
        """Stay."""

    def _named_by(self, settings: Settings) -> Iterator[nn.Parameter]:
        """Parameters of the parts that the settings name; some twice."""
        if "head" in settings.trainable:
            yield from self.heads.parameters()
        if "blocks" in settings.trainable:
            lowest = self.image.num_layers - settings.last_k + 1
            yield from (value for name, value in self.image.named_parameters() if self.image.layer_of(name) >= lowest)
        if "norms" in settings.trainable:
            yield from _norms_and_biases(self.image)


def _norms_and_biases(tower: nn.Module) -> Iterator[nn.Parameter]:
    for module in tower.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, NORMS) or name in BIASES:
                yield parameter
