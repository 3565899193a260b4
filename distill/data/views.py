"""One picture becomes one global view and some local crops: resize, crop and flip only (tipsv2.md 2).

Legend: S crops (any shape), B images, V = view side in pixels. A box is (left, top, right, bottom) as shares of
the picture's width and height, so one draw serves pictures of any size.

A crop shows a share of the picture's area with an aspect within 3/4 .. 4/3, at a uniform place, and is then
resized to a square. Where no such aspect reaches the wanted area (a photo wider than 4:3 whose global view is
"the whole picture") the crop is the largest one with the nearest allowed aspect: a 4:3 photo is seen whole, a
3:2 photo to 8/9, a panorama through a 4:3 window. A caption speaks of the whole picture, so as much as
possible of it is shown. Of a square picture, scale (1, 1) is exactly the picture.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop, drawn log-uniformly."""


def draw_crops(*shape: int, generator: torch.Generator) -> Float[Tensor, "*S 4"]:
    """Uniform draws of (area, aspect, horizontal place, vertical place): a crop before the picture is known."""
    return torch.rand(*shape, 4, generator=generator, dtype=torch.float64)


def draw_flips(*shape: int, probability: float, generator: torch.Generator) -> Bool[Tensor, "*S"]:
    """True where a crop is mirrored left to right."""
    return torch.rand(*shape, generator=generator) < probability


def place_crops(
    draws: Float[Tensor, "*S 4"], *, scale: tuple[float, float], aspect: float = 1.0
) -> Float[Tensor, "*S 4"]:
    """Boxes of drawn crops in a picture whose width over height is `aspect`. `scale`: range of the area share."""
    area_u, aspect_u, x_u, y_u = draws.unbind(-1)
    area = scale[0] + area_u * (scale[1] - scale[0])
    # A crop of this area fits only when area x aspect <= crop aspect <= aspect / area.
    low, high = (area * aspect).clamp(*ASPECT).log(), (aspect / area).clamp(*ASPECT).log()
    crop_aspect = (low + aspect_u * (high - low)).exp()
    width, height = (area * crop_aspect / aspect).sqrt(), (area * aspect / crop_aspect).sqrt()
    too_large = torch.maximum(width, height).clamp(min=1.0)
    width, height = width / too_large, height / too_large
    left, top = x_u * (1 - width), y_u * (1 - height)
    return torch.stack([left, top, (left + width).clamp(max=1.0), (top + height).clamp(max=1.0)], dim=-1)


def crop_tensor(
    images: Float[Tensor, "B 3 H W"], boxes: Float[Tensor, "B 4"], flip: Bool[Tensor, " B"], *, size: int
) -> Float[Tensor, "B 3 V V"]:
    """The boxes of a batch of pictures as views of size x size, pixels in [0, 1].

    Bicubic with Pillow's kernel and antialiasing, so `crop_picture` gives the same view to within the rounding
    of 8 bits. `boxes` and `flip` lie on the CPU: whether there is anything to do is decided without asking the
    device. Whole pictures of the right size come back as they are.
    """
    height, width = images.shape[-2:]
    whole = bool((boxes == boxes.new_tensor([0.0, 0.0, 1.0, 1.0])).all())
    if whole and (height, width) == (size, size):
        if not bool(flip.any()):
            return images
        return torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)
    left, top, right, bottom = boxes.to(images.device, images.dtype).unbind(-1)
    across_BVW = _resampling(left, right, length=width, size=size)
    across_BVW = torch.where(flip.to(images.device)[:, None, None], across_BVW.flip(1), across_BVW)
    down_BVH = _resampling(top, bottom, length=height, size=size)
    narrow_B3HV = images @ across_BVW.transpose(1, 2)[:, None]
    return (down_BVH[:, None] @ narrow_B3HV).clamp(0.0, 1.0)


def _resampling(
    start_B: Float[Tensor, " B"], end_B: Float[Tensor, " B"], *, length: int, size: int
) -> Float[Tensor, "B V length"]:
    """Weights of every input pixel in every output pixel along one axis: bicubic (a = -1/2), widened to shrink."""
    step_B = (end_B - start_B) * length / size
    output = torch.arange(size, device=start_B.device, dtype=start_B.dtype) + 0.5
    centre_BV = (start_B * length)[:, None] + output * step_B[:, None]
    pixel = torch.arange(length, device=start_B.device, dtype=start_B.dtype) + 0.5
    distance = ((pixel - centre_BV[..., None]) / step_B.clamp(min=1.0)[:, None, None]).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    return weights / weights.sum(dim=-1, keepdim=True)


def crop_picture(
    picture: Image.Image, box: tuple[float, float, float, float], *, flip: bool, size: int
) -> UInt8[Tensor, "3 V V"]:
    """One box of an RGB picture as a view of size x size: Pillow's bicubic, antialiased."""
    width, height = picture.size
    corners = (box[0] * width, box[1] * height, min(box[2] * width, width), min(box[3] * height, height))
    view = picture.resize((size, size), Image.Resampling.BICUBIC, box=corners)
    if flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1).contiguous()


def needed_side(boxes: Float[Tensor, "S 4"], *, size: int) -> int:
    """Side in pixels below which a whole picture would be too small to cut these boxes at `size` sharply."""
    sides = torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return math.ceil(size / max(float(sides.min()), 1e-3)) if len(boxes) else 0
