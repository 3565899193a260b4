"""Low-rank adapters of attention: W + alpha / r * B A, with B zero at the start (Hu et al. 2021, arXiv 2106.09685).

Legend: O outputs and I inputs of a linear map, r rank.

The sum is a parametrization of the weight, so it is there for whoever reads the weight: linear layers, timm's and
open_clip's attention on the bare matrix, `nn.MultiheadAttention` on its packed one, value features, recomputed blocks.
The price, against adapters beside the layer, is one more copy of attention's weights while there is history, and the
gradient of the whole matrix on its way to A and B.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

IN_ATTENTION = re.compile(r"\.\d+\.(?:.+\.)?(?:attn|attention|self_attn|token_mixer)(?:\.|$)")
"""Paths of modules that are, or lie in, the attention of a numbered block. Pooling by attention is not among them."""

STORED = re.compile(r"parametrizations\.(\w+)\.original$")
ADAPTER = re.compile(r"parametrizations\.\w+\.\d+\.(?:down|up)$")


class LowRank(nn.Module):
    """What is added to one weight: `up` is B [O, r] and zero at first, `down` is A [r, I] and random."""

    def __init__(self, weight_OI: Float[Tensor, "O I"], *, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        num_outputs, num_inputs = weight_OI.shape
        down_rI = torch.randn(rank, num_inputs, generator=generator) / num_inputs**0.5
        self.down = nn.Parameter(down_rI.to(weight_OI))
        self.up = nn.Parameter(weight_OI.new_zeros(num_outputs, rank))
        self.scale = alpha / rank

    def forward(self, weight_OI: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """In the weight's own precision: bf16 would round small changes away."""
        with torch.autocast(weight_OI.device.type, enabled=False):
            return weight_OI + self.scale * (self.up @ self.down)


def add_adapters(tower: nn.Module, *, rank: int, alpha: float, generator: torch.Generator) -> None:
    """Put an adapter on every linear map of attention whose weight does not learn itself.

    What the tower computes stays the same to the bit. A fused qkv is one map: its three parts share A. Raises
    ValueError when the tower has no attention in its blocks, when all of it learns already, and when `rank` exceeds
    what a weight has.
    """
    found = attention_weights(tower)
    if not found:
        raise ValueError("the image tower has no attention in its blocks for adapters to sit on; train norms or blocks")
    resting = [(module, name) for module, name in found if not getattr(module, name).requires_grad]
    if not resting:
        raise ValueError("every block learns already and needs no adapters; leave them out, or lower last_k")
    smallest = min((getattr(module, name).shape for module, name in resting), key=min)
    if rank > min(smallest):
        raise ValueError(f"adapters of rank {rank} do not fit attention's weights of {smallest[0]} x {smallest[1]}")
    for module, name in resting:
        adapter = LowRank(getattr(module, name), rank=rank, alpha=alpha, generator=generator)
        parametrize.register_parametrization(module, name, adapter)


def attention_weights(tower: nn.Module) -> list[tuple[nn.Module, str]]:
    """(module, name of its weight): the linear layers and packed projections in the attention of numbered blocks."""
    found: list[tuple[nn.Module, str]] = []
    for path, module in tower.named_modules():
        if IN_ATTENTION.search(f".{path}"):
            if isinstance(module, nn.Linear):
                found.append((module, "weight"))
            elif isinstance(module, nn.MultiheadAttention):
                packed = [name for name, _ in module.named_parameters(recurse=False) if name.endswith("proj_weight")]
                found += [(module, name) for name in packed]
    return found


def merge_adapters(tower: nn.Module) -> None:
    """Make every adapter part of the weight it sits on: the tower computes the same and is plain again."""
    for module in list(tower.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def state_without_adapters(tower: nn.Module) -> dict[str, Tensor]:
    """The state of the tower as it was before `add_adapters`, names included."""
    return {STORED.sub(r"\1", name): value for name, value in tower.state_dict().items() if not ADAPTER.search(name)}
