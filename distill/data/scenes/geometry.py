"""Depth and surface normals: things are caps of spheres in front of tilted background planes.

Legend: B pictures, T thing slots, H = W pixels. The camera is orthographic and sees `SIDE_METRES` metres across;
depth grows away from it. Normals are unit vectors, x right, y up, z towards the camera, and are the exact
derivatives of the depth.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distill.data.scenes.sampling import Ground, Things

SIDE_METRES = 2.0
GROUND_METRES = 7.0
CURVATURE = 0.7
"""Sine of the surface's angle at the unit circle of a thing: its sphere has radius `radius / CURVATURE`."""


def depth_and_normals(
    things: Things,
    ground: Ground,
    inside_BTHW: Bool[Tensor, "B T H W"],
    second_BHW: Bool[Tensor, "B H W"],
    axis: Float[Tensor, " H"],
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B 3 H W"]]:
    """Depth in metres and normals of the surface that each pixel shows."""
    top_BHW = torch.zeros(second_BHW.shape, dtype=torch.int64, device=axis.device)
    for slot in range(1, inside_BTHW.shape[1]):
        top_BHW.masked_fill_(inside_BTHW[:, slot], slot)
    thing_BHW = inside_BTHW.any(dim=1)
    plane_depth, plane_normals = _planes(ground, second_BHW, axis)
    cap_depth, cap_normals = _caps(things, top_BHW, axis)
    depth = torch.where(thing_BHW, cap_depth, plane_depth)
    normals = torch.stack([torch.where(thing_BHW, *both) for both in zip(cap_normals, plane_normals, strict=True)], 1)
    return depth, normals


def _planes(ground: Ground, second_BHW: Tensor, axis: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Depth and the three components of the normals of the background, [B, H, W] each."""
    right, down = ground.slope.to(axis.device)[..., None, None].unbind(2)
    middle = axis - 0.5
    planes = GROUND_METRES + right * middle + down * middle[:, None]
    tilted = torch.stack([right, -down, torch.full_like(right, SIDE_METRES)])
    components = (tilted / tilted.norm(dim=0)).unbind(0)
    chosen = [torch.where(second_BHW, value[:, 1], value[:, 0]) for value in (planes, *components)]
    return chosen[0], chosen[1:]


def _caps(things: Things, top_BHW: Tensor, axis: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The same for the things, each pixel on the cap of the slot that `top_BHW` names. Every shape stays within
    1.2 of its radius, so the root is real wherever the thing is; elsewhere the values mean nothing."""
    steepness = CURVATURE / things.radius
    table = torch.stack([things.centre[..., 0], things.centre[..., 1], steepness, things.distance]).to(axis.device)
    rows = top_BHW.flatten(1)
    centre_x, centre_y, steep, distance = (values.gather(1, rows).view(top_BHW.shape) for values in table)
    across, down = (axis - centre_x) * steep, (axis[:, None] - centre_y) * steep
    outward = (1 - across * across - down * down).clamp_min_(0).sqrt_()
    rim = (1 - CURVATURE**2) ** 0.5
    return distance - (outward - rim) * SIDE_METRES / steep, [across, -down, outward]
