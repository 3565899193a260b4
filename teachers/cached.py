"""A frozen teacher that is not there: its features come from a folder that was written once (distill/cache)."""

import torch

from distill.cache.basis import Basis
from distill.cache.reader import Reader
from distill.cache.storage import decode
from distill.contracts import Batch, ImageEncoder, Lookup, Predictions, Targets, Teacher
from distill.encoders.head import Heads


class Cached(Teacher):
    """Teaches what `Frozen` would about the same fixed views, without an image tower.

    From fp32 the losses are the live teacher's to about 1e-6, because a tower's last digits depend on how many pictures
    it looks at together; `distill.cache.storage` says what the other storages lose. `heads`, for one of our own
    trainings, are run: what they make of the features is not stored.
    """

    image = None

    def __init__(self, reader: Reader, heads: Heads | None):
        """Raises ValueError when the basis of the components is not what was written."""
        super().__init__()
        self.reader = reader
        self.heads = heads
        self.width = reader.layout.width
        basis = reader.basis()
        self.has_basis = basis is not None
        if basis is not None:
            self.register_buffer("basis_mean", basis.mean)
            self.register_buffer("basis_components", basis.components)
        self.requires_grad_(False)
        self.eval()

    def lookup(self) -> Lookup:
        return self.reader.gather

    @torch.no_grad()
    def targets(self, batch: Batch, predictions: Predictions | None) -> Targets:
        """From `batch.stored`, which the loader looked up."""
        assert batch.stored is not None, "the loader was not given this teacher's lookup"
        basis = Basis(mean=self.basis_mean, components=self.basis_components) if self.has_basis else None
        return Targets(tokens=decode(batch.stored, layout=self.reader.layout, basis=basis), heads=self.heads)

    def towers(self) -> list[ImageEncoder]:
        return []

    def follow(self, image: object, heads: Heads | None, *, momentum: float) -> None:
        """Stay."""
