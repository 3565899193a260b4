"""Frozen features of pictures: sizes made to fit, pictures of one size together, precision stated.

Legend: B images, N patches, D width, (h, w) patch grid, (H, W) pixels.
"""

import math
from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from distill.contracts import ImageEncoder, PixelSet, Tokens
from distill.eval.progress import saw_pictures

Kind = Literal["value", "final"]
Precision = Literal["fp32", "bf16"]


@runtime_checkable
class InBatches(Protocol):
    """A set whose pictures all have one size and come faster in batches: [start, stop) of it, cut at its end."""

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]: ...


def unit(x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """Divided by its Euclidean norm; zero stays zero."""
    return functional.normalize(x, dim=-1)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the module's parameters, or else its buffers, lie; the CPU for one that has neither."""
    tensor = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def tokens(
    image: ImageEncoder,
    pixels: Float[Tensor, "B 3 H W"],
    *,
    kind: Kind,
    precision: Precision,
    hidden: Bool[Tensor, "B N"] | None = None,
) -> Tokens:
    """Tokens in float32, without history. Pictures are stretched to a multiple of the patch size first.

    `value`: the last block attends only to itself; nothing is `hidden` then. Raises ValueError for features that are
    not finite.
    """
    device = device_of(image)
    fitting = stretch(pixels.to(device), image.patch_size)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        if kind == "value":
            assert hidden is None, "value features are of whole pictures"
            return _in_float32(image.values(fitting))
        return _in_float32(image(fitting) if hidden is None else image(fitting, hidden.to(device)))


def quarters(image: ImageEncoder) -> tuple[int, int, int, int]:
    """The blocks, counted from 1, after each quarter of the tower: those of the released TIPSv2 decoders at B, L, SO
    and g (tipsv2.md section 7, which counts from 0)."""
    return tuple(math.ceil(quarter * image.num_layers / 4) for quarter in (1, 2, 3, 4))


def quarter_tokens(
    image: ImageEncoder, pixels: Float[Tensor, "B 3 H W"], *, precision: Precision
) -> tuple[Tokens, Tokens, Tokens, Tokens]:
    """`tokens` after each quarter of the tower. Raises ValueError for towers that give their last block only."""
    return block_tokens(image, pixels, quarters(image), precision=precision)


def block_tokens(
    image: ImageEncoder, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...], *, precision: Precision
) -> tuple[Tokens, ...]:
    """`tokens` after each of these blocks, from 1 on. Raises ValueError for towers that give their last block only."""
    device = device_of(image)
    fitting = stretch(pixels.to(device), image.patch_size)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        found = image.intermediate(fitting, blocks)
    return tuple(_in_float32(each) for each in found)


def _in_float32(found: Tokens) -> Tokens:
    return Tokens(
        cls=check_finite(found.cls.float(), "CLS"),
        patches=check_finite(found.patches.float(), "patch"),
        grid=found.grid,
    )


def check_finite(features: Tensor, name: str) -> Tensor:
    """The same features. Raises ValueError for any that are not finite: NaN would win or lose every comparison."""
    if not torch.isfinite(features).all():
        raise ValueError(f"the encoder's {name} features are not finite: its training has diverged")
    return features


def patch_map(found: Tokens) -> Float[Tensor, "B D h w"]:
    """Patch features as a picture."""
    return found.patches.unflatten(1, found.grid).permute(0, 3, 1, 2)


def stretch(pixels: Float[Tensor, "B 3 H W"], patch_size: int) -> Float[Tensor, "B 3 H2 W2"]:
    """Both sides brought up to the next multiple of the patch size, bicubic as inside the TIPSv2 encoder.

    The result may overshoot [0, 1] by a little, as there.
    """
    height, width = pixels.shape[-2:]
    size = (math.ceil(height / patch_size) * patch_size, math.ceil(width / patch_size) * patch_size)
    return pixels if size == (height, width) else functional.interpolate(pixels, size, mode="bicubic")


def short_side_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) with the shorter side at `short_side` and the aspect kept, rounded to whole pixels."""
    if short_side is None:
        return height, width
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))


def resize_short_side(pixels: Float[Tensor, "B 3 H W"], short_side: int | None) -> Float[Tensor, "B 3 H2 W2"]:
    """Bicubic with antialiasing, which is Pillow's, and clamped to [0, 1]; None leaves pictures alone."""
    size = short_side_size(*pixels.shape[-2:], short_side)
    if size == tuple(pixels.shape[-2:]):
        return pixels
    return functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)


def batches(
    data: PixelSet, batch_size: int
) -> Iterator[tuple[Float[Tensor, "B 3 H W"], Shaped[Tensor, "B *channels H W"]]]:
    """Every picture of the set once, pictures of equal size together; at most 4 batches are held back."""
    if isinstance(data, InBatches):
        for start in range(0, len(data), batch_size):
            saw_pictures(min(batch_size, len(data) - start))
            yield data.batch(start, min(start + batch_size, len(data)))
        return
    waiting: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for index in range(len(data)):
        pixels, labels = data[index]
        saw_pictures(1)
        waiting.setdefault(pixels.shape, []).append((pixels, labels))
        fullest = max(waiting, key=lambda size: len(waiting[size]))
        held = sum(len(group) for group in waiting.values())
        if len(waiting[fullest]) == batch_size or held >= 4 * batch_size:
            yield _stack(waiting.pop(fullest))
    for group in waiting.values():
        yield _stack(group)


def _stack(group: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    pixels, labels = zip(*group, strict=True)
    return torch.stack(pixels), torch.stack(labels)
