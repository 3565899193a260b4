"""Everything that is trained, and its passes over one batch.

Legend: B images, N patches, C CLS tokens, M local crops, L caption tokens, D width.
"""

import torch
from torch import Tensor, nn

from distill.contracts import Batch, Predictions, Tokens
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
        adapters: Adapters | None,
        sees_unmasked: bool,
        sees_masked: bool,
        layers: tuple[int, ...] = (),
    ):
        """`sees_unmasked`, `sees_masked`: which passes some loss listens to. A pass nobody hears is not made.
        `layers`: earlier blocks whose patches come along."""
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.temperatures = temperatures
        self.adapters = adapters
        self.sees_unmasked = sees_unmasked
        self.sees_masked = sees_masked
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
        if not (self.sees_unmasked and self.sees_masked):
            return (
                image(batch.pixels, layers=self.layers) if self.sees_unmasked else None,
                image(batch.pixels, hidden, layers=self.layers) if self.sees_masked else None,
            )
        # One call on 2B pictures: small towers are slow because of small matrices.
        pixels, none_and_some = torch.cat([batch.pixels, batch.pixels]), torch.cat([torch.zeros_like(hidden), hidden])
        both = image(pixels, none_and_some, layers=self.layers)
        return both.halves()

    def _local_crops(self, crops: Tensor | None) -> Tensor | None:
        """CLS 1 of every local crop, [M, B, D]."""
        if crops is None:
            return None
        return self.encoder.image(crops.flatten(0, 1)).cls[:, 0].unflatten(0, crops.shape[:2])

    def _captions(self, captions: Tensor | None) -> Tensor | None:
        """Text features, [C, B, D]."""
        if captions is None:
            return None
        return self.encoder.text(captions.flatten(0, 1)).unflatten(0, captions.shape[:2])
