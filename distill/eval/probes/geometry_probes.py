"""Probes that read maps of numbers out of frozen features: closed form, a trained linear layer, a trained DPT head.

Legend: B images, n patches, D width, K numbers per pixel, (h, w) patch grid, (H, W) pixels.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from distill.contracts import DepthSet, ImageEncoder, NormalsSet, Tokens
from distill.eval.dense import LinearScores, upsample
from distill.eval.features import (
    Precision,
    batches,
    device_of,
    patch_map,
    quarter_tokens,
    resize_short_side,
    tokens,
)
from distill.eval.probes.dpt import DPTHead
from distill.eval.probes.probe_training import ProbeTraining, build_probe, train_probe
from distill.eval.tasks.linear_segmentation import Moments

Head = Literal["ridge", "linear", "dpt"]
Maps = Callable[[Tensor], Float[Tensor, "B K h w"]]
"""From pixels [B, 3, H, W] to maps."""
CHANNELS = 256
"""Of DPT heads: the released decoders'."""


class LinearMaps(nn.Module):
    """One linear layer on every patch beside CLS 1, four times up-sampled, as in DINOv2's depth probe."""

    def __init__(self, *, width: int, num_outputs: int):
        super().__init__()
        self.patch = nn.Linear(width, num_outputs)
        self.cls = nn.Linear(width, num_outputs, bias=False)
        # As one layer of twice the width would start.
        for layer in (self.patch, self.cls):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(self.patch.bias)

    def forward(self, found: Tokens) -> Float[Tensor, "B K h4 w4"]:
        read = self.patch(found.patches) + self.cls(found.cls[:, :1])
        maps = read.unflatten(1, found.grid).movedim(-1, 1)
        # A linear layer and bilinear maps commute: the layer comes first, on fewer places.
        return upsample(maps, (4 * found.grid[0], 4 * found.grid[1]))


class Seen:
    """What a head is given of pictures: the frozen tokens, at one size and precision."""

    def __init__(self, image: ImageEncoder, *, head: Head, short_side: int | None, precision: Precision):
        self.image, self.head, self.short_side, self.precision = image, head, short_side, precision

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens | tuple[Tokens, ...]:
        resized = resize_short_side(pixels, self.short_side)
        if self.head == "dpt":
            return quarter_tokens(self.image, resized, precision=self.precision)
        return tokens(self.image, resized, kind="final", precision=self.precision)


def ridge_maps(
    seen: Seen,
    data: DepthSet | NormalsSet,
    valid_of: Callable[[Tensor], Tensor],
    *,
    ridge: float,
    batch_size: int,
) -> Maps:
    """Maps by ridge regression from a patch's features to the mean of what is said about its valid pixels.

    Raises ValueError when no training pixel is valid.
    """
    moments = Moments()
    for pixels, truth in batches(data, batch_size):
        found = seen(pixels)
        valid = valid_of(truth)
        mean_nK, known_n = patch_means(_with_channel(truth), valid, grid=found.grid, patch_size=seen.image.patch_size)
        device = found.patches.device
        moments.add(found.patches.flatten(0, 1)[known_n.to(device)], mean_nK[known_n].to(device))
    scores: LinearScores = moments.solve(ridge)
    return lambda pixels: scores.of(patch_map(seen(pixels)))


def patch_means(
    truth: Float[Tensor, "B K H W"], valid: Bool[Tensor, "B H W"], *, grid: tuple[int, int], patch_size: int
) -> tuple[Float[Tensor, "n K"], Bool[Tensor, " n"]]:
    """Means over the valid pixels of every patch, row-major, and which patches have any.

    The truth is brought to the encoder's input size by nearest neighbour.
    """
    size = (grid[0] * patch_size, grid[1] * patch_size)
    weight = valid[:, None].double()
    both = torch.cat([truth.double() * weight, weight], dim=1)
    sums = functional.avg_pool2d(functional.interpolate(both, size, mode="nearest-exact"), patch_size)
    sums_nK1 = sums.movedim(1, -1).flatten(0, 2)
    share_n1 = sums_nK1[:, -1:]
    return sums_nK1[:, :-1] / share_n1.clamp_min(1e-12), share_n1[:, 0] > 0


def trained_maps(
    seen: Seen,
    data: DepthSet | NormalsSet,
    loss: Callable[[Tensor, Tensor, int], Tensor],
    training: ProbeTraining,
    *,
    num_outputs: int,
    relu: bool,
    mirror: Callable[[Tensor], Tensor],
) -> Maps:
    """Maps of a head trained to make `loss(maps, truth, step)` small; `relu` is the DPT head's."""
    width = seen.image.width

    def build() -> nn.Module:
        if seen.head == "dpt":
            return DPTHead(width=width, num_outputs=num_outputs, channels=CHANNELS, relu=relu)
        return LinearMaps(width=width, num_outputs=num_outputs)

    def loss_of(head: nn.Module, pixels: Tensor, truth: Tensor, step: int) -> Tensor:
        return loss(head(seen(pixels)), truth.to(device), step)

    device = device_of(seen.image)
    head = build_probe(build, training).to(device)
    train_probe(head, data, loss_of, training, side=seen.short_side, mirror=mirror)
    return maps_of(head, seen)


def maps_of(head: nn.Module, seen: Seen) -> Maps:
    """A trained head's maps. The head must be where the encoder is."""
    return lambda pixels: head(seen(pixels))


def _with_channel(truth: Tensor) -> Float[Tensor, "B K H W"]:
    return truth[:, None] if truth.dim() == 3 else truth
