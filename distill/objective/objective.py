"""The whole loss of one batch: contrast of pictures and captions, plus what the teacher, or several, teach.

Legend: B images of this rank, N patches.
"""

from jaxtyping import Bool
from torch import Tensor, nn

from distill import config
from distill.contracts import Losses, ManyTargets, Predictions, Targets
from distill.objective.adapters import Adapters
from distill.objective.contrastive import Temperatures, contrastive_loss
from distill.objective.ensemble import EnsembleTransfer
from distill.objective.prototype_terms import Heads, Offsets
from distill.objective.terms import Term, add_up
from distill.objective.transfer import Transfer

CONTRAST_NAMES = ("contrastive/first", "contrastive/second")


class Objective(nn.Module):
    """Losses of a recipe: `contrast`, and the `transfer` of its teachers with the running state of the targets.

    It holds no parameters: heads, temperatures and adapters are given. Its buffers belong into checkpoints.
    """

    def __init__(self, settings: config.Objective, transfer: Transfer | EnsembleTransfer) -> None:
        super().__init__()
        self.settings = settings
        self.transfer = transfer

    def forward(
        self,
        predictions: Predictions,
        targets: Targets | ManyTargets | None,
        *,
        hidden: Bool[Tensor, "B N"],
        heads: Heads | None = None,
        temperatures: Temperatures | None = None,
        adapters: Adapters | nn.ModuleDict | None = None,
        progress: float,
        offsets: Offsets | None = None,
        overhear: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> Losses:
        """Everything at once: `contrast` plus `transfer`, whose arguments these are."""
        contrast = self.contrast(predictions, temperatures=temperatures, rank=rank, world=world)
        transfer = self.transfer(
            predictions,
            targets,
            hidden=hidden,
            heads=heads,
            adapters=adapters,
            progress=progress,
            offsets=offsets,
            overhear=overhear,
        )
        return Losses(
            total=contrast.total + transfer.total,
            terms=contrast.terms | transfer.terms,
            diagnostics=contrast.diagnostics | transfer.diagnostics,
        )

    def contrast(
        self, predictions: Predictions, *, temperatures: Temperatures | None, rank: int = 0, world: int = 1
    ) -> Losses:
        """weight * mean over captions of the contrastive losses: terms contrastive/first, contrastive/second."""
        settings = self.settings.contrastive
        if settings.weight == 0:
            return add_up([])
        losses_C = contrastive_loss(
            predictions.unmasked.cls,
            predictions.text,
            temperatures=temperatures,
            kind=settings.kind,
            rank=rank,
            world=world,
        )
        share = settings.weight / len(losses_C)
        names = CONTRAST_NAMES[: len(losses_C)]
        return add_up([Term(name, share, loss) for name, loss in zip(names, losses_C, strict=True)])

    def step(self) -> None:
        """Once per optimiser step, on every rank."""
        self.transfer.step()
