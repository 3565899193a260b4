"""Everything that is trained, and its passes over one batch.

Legend: B images, N patches, C CLS tokens, M local crops, L caption tokens, D width.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from distill.contracts import Batch, Predictions, Tokens
from distill.encoders.batch_norm import mixes_pictures, running_statistics_stay
from distill.encoders.dual import DualEncoder
from distill.encoders.head import Heads
from distill.objective.adapters import Adapters
from distill.objective.contrastive import Temperatures


class Learner(nn.Module):
    """The student's encoders and what trains with them and stays behind: heads, temperatures, adapters."""

    def __init__(
        self,
        encoder: DualEncoder,
        *,
        heads: Heads | None,
        temperatures: Temperatures | None,
        adapters: Adapters | nn.ModuleDict | None,
        sees_unmasked: bool,
        sees_masked: bool,
        drops_hidden: bool,
        layers: tuple[int, ...] = (),
    ):
        """`adapters`: with several teachers, those to each under its name.
        `sees_unmasked`, `sees_masked`: which passes some loss listens to. A pass nobody hears is not made.
        `drops_hidden`: the masked pass leaves hidden patches out instead of replacing them.
        `layers`: earlier blocks whose patches come along."""
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.temperatures = temperatures
        self.adapters = adapters
        self.sees_unmasked = sees_unmasked
        self.sees_masked = sees_masked
        self.drops_hidden = drops_hidden
        self.layers = layers

    def forward(self, batch: Batch) -> Predictions:
        """The three passes of tipsv2.md section 2: unmasked, masked, local crops; and the captions."""
        unmasked, masked = self._global_views(batch)
        return Predictions(
            unmasked=unmasked,
            masked=masked,
            local_cls=self._local_crops(batch.local_crops),
            text=self._captions(batch.captions),
        )

    def _global_views(self, batch: Batch) -> tuple[Tokens | None, Tokens | None]:
        image, hidden = self.encoder.image, batch.hidden
        both = self.sees_unmasked and self.sees_masked
        # Batch norm would show each half what is in the other.
        if both and not self.drops_hidden and not mixes_pictures(image):
            # One call on 2B pictures: small towers are slow because of small matrices.
            pixels, none_and_some = torch.cat([batch.pixels] * 2), torch.cat([torch.zeros_like(hidden), hidden])
            return image(pixels, none_and_some, layers=self.layers).halves()
        unmasked = image(batch.pixels, layers=self.layers) if self.sees_unmasked else None
        if not self.sees_masked:
            return unmasked, None
        with self._statistics_of_the_first(self.sees_unmasked):
            return unmasked, image(batch.pixels, hidden, layers=self.layers, drop=self.drops_hidden)

    def _local_crops(self, crops: Tensor | None) -> Tensor | None:
        """CLS 1 of every local crop, [M, B, D]."""
        if crops is None:
            return None
        with self._statistics_of_the_first(self.sees_unmasked or self.sees_masked):
            return self.encoder.image(crops.flatten(0, 1)).cls[:, 0].unflatten(0, crops.shape[:2])

    def _statistics_of_the_first(self, was_made: bool) -> AbstractContextManager:
        """Running statistics of batch norms are of one pass only: of unmasked pictures, where some loss hears them,
        because evaluation and momentum teachers see those."""
        return running_statistics_stay(self.encoder.image) if was_made else nullcontext()

    def _captions(self, captions: Tensor | None) -> Tensor | None:
        """Text features, [C, B, D]."""
        if captions is None:
            return None
        return self.encoder.text(captions.flatten(0, 1)).unflatten(0, captions.shape[:2])
