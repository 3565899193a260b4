"""Projection heads and their prototypes (DINO, iBOT).

Legend: D width, d bottleneck, K prototypes; `...` any leading dimensions.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.config import Head


class ProjectionHead(nn.Module):
    """Three linear layers with GELU into an L2-normalised bottleneck, and unit-norm prototypes to compare with.

    The losses multiply the two in chunks, so the `[tokens, K]` logits never exist as a whole.
    """

    def __init__(self, *, width: int, hidden: int, bottleneck: int, num_prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.directions = nn.Parameter(torch.randn(num_prototypes, bottleneck))

    def forward(self, tokens: Float[Tensor, "... D"]) -> Float[Tensor, "... d"]:
        """Unit vectors, in float32 whatever the precision of the layers."""
        return F.normalize(self.mlp(tokens).float(), dim=-1)

    def prototypes(self) -> Float[Tensor, "K d"]:
        """Unit rows: weight normalisation with the gain fixed at 1."""
        return F.normalize(self.directions.float(), dim=-1)


class Heads(nn.Module):
    """The heads of the global loss (`cls`) and of the patch loss (`patch`); None where no loss listens.

    A shared head is stored once, under `shared`, so safetensors can write the state.
    """

    def __init__(self, **heads: ProjectionHead):
        """Either `shared`, or any of `cls` and `patch`."""
        super().__init__()
        assert set(heads) == {"shared"} or set(heads) <= {"cls", "patch"}, sorted(heads)
        self.members = nn.ModuleDict(heads)

    @property
    def cls(self) -> ProjectionHead | None:
        return self._of("cls")

    @property
    def patch(self) -> ProjectionHead | None:
        return self._of("patch")

    @property
    def num_prototypes(self) -> int:
        """Of each head."""
        return len(next(iter(self.members.values())).directions)

    def _of(self, role: str) -> ProjectionHead | None:
        for name in ("shared", role):
            if name in self.members:
                return self.members[name]
        return None


def build_heads(settings: Head, width: int, *, with_cls: bool, with_patch: bool) -> Heads | None:
    """Heads with random weights for the losses that listen; None when none does.

    A head nobody hears would get no gradient, which DistributedDataParallel refuses.
    """
    roles = [role for role, wanted in (("cls", with_cls), ("patch", with_patch)) if wanted]
    if not roles:
        return None
    names = ["shared"] if settings.shared else roles
    return Heads(**{name: _build_head(settings, width) for name in names})


def _build_head(settings: Head, width: int) -> ProjectionHead:
    return ProjectionHead(
        width=width,
        hidden=settings.hidden,
        bottleneck=settings.bottleneck,
        num_prototypes=settings.num_prototypes,
    )
