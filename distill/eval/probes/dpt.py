"""The DPT head of TIPSv2: four depths of a ViT fused into one map (tipsv2.md section 7; DPT: arXiv 2103.13413).

Names of parameters are those of the released decoders. Legend: B images, D width, C channels, (h, w) patch grid.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from distill.contracts import Tokens


class DPTHead(nn.Module):
    """Tokens of four blocks, first to last, to `num_outputs` maps of 8 h x 8 w; odd grids are rounded up to even ones.

    `relu`: an activation before the last linear layer, which the released depth decoder has and the others lack.
    """

    def __init__(self, *, width: int, num_outputs: int, channels: int = 256, relu: bool = False):
        super().__init__()
        sizes = (width // 8, width // 4, width // 2, width)
        self.reassemble = Reassemble(width, sizes)
        self.convs = nn.ModuleList(nn.Conv2d(size, channels, 3, padding=1, bias=False) for size in sizes)
        self.fusion_blocks = nn.ModuleList(Fusion(channels, with_residual=place > 0) for place in range(4))
        self.project = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, num_outputs)
        self.relu = relu

    def forward(self, layers: Sequence[Tokens]) -> Float[Tensor, "B outputs h8 w8"]:
        maps = [conv(each) for conv, each in zip(self.convs, self.reassemble(layers), strict=True)]
        fused = self.fusion_blocks[0](maps[3])
        for block, finer in zip(self.fusion_blocks[1:], reversed(maps[:3]), strict=True):
            fused = block(fused, finer)
        projected = self.project(fused)
        features = projected.relu() if self.relu else projected
        return self.head(features.movedim(1, -1)).movedim(-1, 1)


class Reassemble(nn.Module):
    """Tokens to maps of D/8, D/4, D/2 and D channels at 4, 2, 1 and 1/2 times the patch grid.

    The readout: every patch beside CLS 1, through one linear layer and GELU (tanh), takes the patch's place.
    """

    def __init__(self, width: int, sizes: tuple[int, int, int, int]):
        super().__init__()
        self.readout_projects = nn.ModuleList(nn.Linear(2 * width, width) for _ in sizes)
        self.out_projections = nn.ModuleList(nn.Conv2d(width, size, 1) for size in sizes)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(sizes[0], sizes[0], 4, stride=4),
                nn.ConvTranspose2d(sizes[1], sizes[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(sizes[3], sizes[3], 3, stride=2, padding=1),
            )
        )

    def forward(self, layers: Sequence[Tokens]) -> list[Float[Tensor, "B _ _ _"]]:
        parts = zip(layers, self.readout_projects, self.out_projections, self.resize_layers, strict=True)
        return [resize(out(self._read(tokens, readout))) for tokens, readout, out, resize in parts]

    def _read(self, tokens: Tokens, readout: nn.Linear) -> Float[Tensor, "B D h w"]:
        cls = tokens.cls[:, :1].expand_as(tokens.patches)
        read = functional.gelu(readout(torch.cat([tokens.patches, cls], dim=-1)), approximate="tanh")
        return read.unflatten(1, tokens.grid).movedim(-1, 1)


class Fusion(nn.Module):
    """The coarser map plus the finer one, refined, at twice the size (bilinear, corners aligned)."""

    def __init__(self, channels: int, *, with_residual: bool):
        super().__init__()
        self.residual_unit = ResidualUnit(channels) if with_residual else None
        self.main_unit = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(
        self, coarse: Float[Tensor, "B C H W"], finer: Float[Tensor, "B C h w"] | None = None
    ) -> Float[Tensor, "B C H2 W2"]:
        """`finer` is brought to the size of `coarse` where odd grids made them differ."""
        if self.residual_unit is not None:
            if finer.shape != coarse.shape:
                finer = functional.interpolate(finer, coarse.shape[-2:], mode="bilinear", align_corners=False)
            coarse = coarse + self.residual_unit(finer)
        refined = self.main_unit(coarse)
        return self.out_conv(functional.interpolate(refined, scale_factor=2, mode="bilinear", align_corners=True))


class ResidualUnit(nn.Module):
    """Two 3 x 3 convolutions, each behind a ReLU, beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return maps + self.conv2(self.conv1(maps.relu()).relu())
