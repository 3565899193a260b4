"""A teacher that goes on learning in part: named parts of any encoder and its head, the rest as it was."""

from collections.abc import Iterator

import torch
from timm.layers import RmsNorm, SimpleNorm
from torch import nn

from distill.config import Teacher as Settings
from distill.contracts import Batch, ImageEncoder, Predictions, Targets, Teacher
from distill.encoders.dual import DualEncoder
from distill.encoders.head import Heads
from distill.encoders.low_rank import add_adapters
from teachers.pixels import seen_at

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm2d, RmsNorm, SimpleNorm)
"""Norms of the image towers; those of timm that are not here are made from these."""

BIASES = ("bias", "q_bias", "k_bias", "v_bias", "in_proj_bias")


class Partial(Teacher):
    """Learns with the student from the distillation losses, through the targets it makes.

    Its gradient lowers the loss from the other side, towards targets that the student can foretell. The easiest of
    those is one target for every picture, so something has to forbid it. Balanced prototypes do: balance moves mass
    from prototypes that many tokens choose to those that few do, so that if all tokens are alike their targets are
    uniform, and the cross-entropy is log K, its worst and not its best. Plain features do not: under cosine, smooth L1
    or relations between tokens a constant teacher is met exactly. Hence any encoder may learn in part, but only with
    prototypes: those of its own training, or of a fresh head, which then has to learn too.

    Sinkhorn balances the very batch; centring follows with its momentum, and an eager teacher outruns it (measured in
    tests/test_learning_teachers.py): where much of the tower learns fast, and no contrastive loss holds the student,
    use Sinkhorn or a small `lr_scale`.

    What is not named in `trainable` is bitwise unchanged, and no history is built before the first part that learns.
    The optimiser moves it, not `follow`; its weight decay draws adapters back to zero, that is to the start.
    """

    def __init__(self, encoder: DualEncoder, heads: Heads | None, *, image_size: int, settings: Settings):
        """`image_size`: side of the pictures this teacher looks at, pixels; the batch is resized to it.

        Raises ValueError when the image tower has fewer than `settings.last_k` blocks, or no place for adapters.
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
        if "adapters" in settings.trainable:
            # The recipe's seed, without a draw from the generator that starts the student.
            generator = torch.Generator().manual_seed(torch.initial_seed())
            add_adapters(self.image, rank=settings.rank, alpha=settings.alpha, generator=generator)
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
            tokens = self.image(seen_at(batch, self.image_size))
            return Targets(tokens=tokens, heads=self.heads, gradient=self.loss_weight)

    def towers(self) -> list[ImageEncoder]:
        return [self.image]

    def follow(self, image: ImageEncoder, heads: Heads | None, *, momentum: float) -> None:
        """Stay."""

    def _named_by(self, settings: Settings) -> Iterator[nn.Parameter]:
        """Parameters that are there from the start, of the parts that the settings name; some twice."""
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
