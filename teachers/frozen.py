"""A teacher that never changes: one of our own trainings with its heads, or a timm model from a local file."""

import torch

from distill.contracts import Batch, ImageEncoder, Predictions, Targets, Teacher
from distill.encoders.dual import DualEncoder
from distill.encoders.head import Heads
from teachers.pixels import seen_at


class Frozen(Teacher):
    """Any image encoder, bitwise unchanged by training. `heads` is None for encoders released without them."""

    def __init__(self, encoder: DualEncoder, heads: Heads | None, *, image_size: int):
        """`image_size`: side of the pictures this teacher looks at, pixels; the batch is resized to it."""
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.image_size = image_size
        self.requires_grad_(False)
        self.eval()

    @property
    def image(self) -> ImageEncoder:
        return self.encoder.image

    @property
    def width(self) -> int:
        """Of its tokens."""
        return self.image.width

    @torch.no_grad()
    def targets(self, batch: Batch, predictions: Predictions | None) -> Targets:
        return Targets(tokens=self.image(seen_at(batch, self.image_size)), heads=self.heads)

    def towers(self) -> list[ImageEncoder]:
        return [self.image]

    def follow(self, image: ImageEncoder, heads: Heads | None, *, momentum: float) -> None:
        """Stay."""
