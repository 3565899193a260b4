"""Parameters to pixels and masks, a batch at a time, on any device.

Every picture is a stack of flat layers (two tones per background region, one layer per thing); a layer's weight
is its soft coverage times what the nearer layers leave over, and a pixel is the weighted sum of layer colours.

Legend: B pictures, R = 2 regions, T thing slots, L = 4 + T layers, M chosen things or regions, H = W pixels.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.data.scenes.geometry import depth_and_normals
from distill.data.scenes.hashing import uniforms
from distill.data.scenes.sampling import Ground, Light, Parameters, Things
from distill.data.scenes.shapes import SHAPES
from distill.data.scenes.textures import NOISE, PERIODIC
from distill.data.scenes.vocabulary import STUFF, THINGS

_NOISE_TILE = 256
_FAR_AWAY = 1e4


@dataclass(frozen=True)
class Pictures:
    """A batch of rendered pictures. Pixels are RGB in [0, 1], the mask holds class ids, depth is in metres,
    normals are unit vectors (x right, y up, z towards the camera)."""

    pixels: Float[Tensor, "B 3 H W"]
    mask: Int[Tensor, "B H W"]
    depth: Float[Tensor, "B H W"] | None
    normals: Float[Tensor, "B 3 H W"] | None


def render(parameters: Parameters, *, size: int, num_things: int, device: torch.device, geometry: bool) -> Pictures:
    """Draw the pictures. Class ids are the thing's kind, or `num_things` plus the texture's kind."""
    things, ground = parameters.things, parameters.ground
    axis = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
    distance_BTHW = thing_distances(things, axis)
    border_BHW = border_distance(ground, axis)
    pixels = _paint(parameters, distance_BTHW, border_BHW, axis)
    mask = _mask(things, ground, distance_BTHW, border_BHW, num_things)
    depth, normals = None, None
    if geometry:
        depth, normals = depth_and_normals(things, ground, distance_BTHW < 0, border_BHW > 0, axis)
    return Pictures(pixels=pixels, mask=mask, depth=depth, normals=normals)


def _plane(along_x: Tensor, along_y: Tensor, constant: Tensor, axis: Tensor) -> Tensor:
    """along_x * x + along_y * y + constant on the pixel grid: three tensors [...] -> [..., H, W]."""
    columns = along_x[..., None] * axis
    rows = along_y[..., None] * axis + constant[..., None]
    return columns[..., None, :] + rows[..., :, None]


def _select(chosen: np.ndarray, *values: Tensor, device: torch.device) -> list[Tensor]:
    """Rows of per-slot parameters, flattened over [B, slots], on the device."""
    rows = torch.from_numpy(chosen)
    return [value.flatten(0, 1)[rows].to(device) for value in values]


def thing_distances(things: Things, axis: Tensor) -> Float[Tensor, "B T H W"]:
    """Signed distance to every thing's rim in pixels, negative inside; absent things are far away."""
    num, slots = things.present.shape
    size, device = len(axis), axis.device
    distance = torch.full((num * slots, size, size), _FAR_AWAY, device=device)
    kinds = torch.where(things.present, things.kind, -1).flatten().numpy()
    cosine, sine = things.angle.double().cos().float(), things.angle.double().sin().float()
    for kind in np.unique(kinds[kinds >= 0]):
        chosen = np.flatnonzero(kinds == kind)
        centre, radius, cos, sin = _select(chosen, things.centre, things.radius, cosine, sine, device=device)
        along, across = cos / radius, sin / radius
        x = _plane(along, across, -(along * centre[:, 0] + across * centre[:, 1]), axis)
        y = _plane(-across, along, across * centre[:, 0] - along * centre[:, 1], axis)
        local = SHAPES[THINGS[kind].name](x, y)
        distance[torch.from_numpy(chosen).to(device)] = local.mul_((radius * size)[:, None, None])
    return distance.view(num, slots, size, size)


def border_distance(ground: Ground, axis: Tensor) -> Float[Tensor, "B H W"]:
    """Distance from the bowed border between the regions in pixels, positive in region 1."""
    size, device = len(axis), axis.device
    normal, offset, bend, split = (
        value.to(device) for value in (ground.border_normal, ground.border_offset, ground.border_bend, ground.split)
    )
    middle = -0.5 * (normal[:, 0] + normal[:, 1])
    towards = _plane(normal[:, 0], normal[:, 1], middle - offset, axis)
    along = _plane(-normal[:, 1], normal[:, 0], 0.5 * (normal[:, 1] - normal[:, 0]), axis)
    bowed = towards + (along * along * 4.0 - 0.5) * bend[:, None, None]
    return torch.where(split[:, None, None], bowed * size, -_FAR_AWAY)


def second_tone(ground: Ground, axis: Tensor) -> Float[Tensor, "B R H W"]:
    """Share of each region's second tone in every pixel; zero for the second region of undivided pictures."""
    num, size, device = len(ground.split), len(axis), axis.device
    tone = torch.zeros(num * 2, size, size, device=device)
    used = torch.stack([torch.ones_like(ground.split), ground.split], dim=1)
    kinds = torch.where(used, ground.kind, -1).flatten().numpy()
    cosine, sine = ground.angle.double().cos().float(), ground.angle.double().sin().float()
    for kind in np.unique(kinds[kinds >= 0]):
        chosen = np.flatnonzero(kinds == kind)
        rows = torch.from_numpy(chosen)
        name = STUFF[kind].name
        if name in NOISE:
            drawn = NOISE[name](ground.seed.flatten()[rows], size, device)
        else:
            period, phase, cos, sin = _select(chosen, ground.period, ground.phase, cosine, sine, device=device)
            along, across = cos / period, sin / period
            u = _plane(along, across, phase[:, 0] - 0.5 * (along + across), axis)
            v = _plane(-across, along, phase[:, 1] + 0.5 * (across - along), axis)
            drawn = PERIODIC[name](u, v, (period * size)[:, None, None])
        tone[rows.to(device)] = drawn
    return tone.view(num, 2, size, size)


def _tones(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """The muted named colour of a texture and its second tone: darker for light colours, lighter for dark ones."""
    first = 0.75 * rgb + 0.25 * 0.6
    light = first.mean(dim=-1, keepdim=True) > 0.5
    return first, torch.where(light, first * 0.6, first + 0.4 * (1 - first))


def _paint(parameters: Parameters, distance_BTHW: Tensor, border_BHW: Tensor, axis: Tensor) -> Tensor:
    things, ground, light = parameters.things, parameters.ground, parameters.light
    num, slots, size, _ = distance_BTHW.shape
    weight_BLHW = torch.empty(num, 4 + slots, size, size, device=axis.device)
    left = torch.ones(num, size, size, device=axis.device)
    shade_BTHW = _shade(things, light, distance_BTHW, axis)
    for slot in reversed(range(slots)):
        share = (0.5 - distance_BTHW[:, slot]).clamp_(0, 1).mul_(left)
        left = left - share
        torch.mul(share, shade_BTHW[:, slot], out=weight_BLHW[:, 4 + slot])
    tone_BRHW = second_tone(ground, axis)
    second = (border_BHW + 0.5).clamp_(0, 1).mul_(left)
    for region, share in enumerate((left - second, second)):
        torch.mul(share, tone_BRHW[:, region], out=weight_BLHW[:, 2 * region + 1])
        torch.sub(share, weight_BLHW[:, 2 * region + 1], out=weight_BLHW[:, 2 * region])
    main, other = _tones(ground.rgb)
    rgb_BL3 = torch.cat([torch.stack([main, other], dim=2).flatten(1, 2), things.rgb], dim=1).to(axis.device)
    pixels = torch.bmm(rgb_BL3.transpose(1, 2), weight_BLHW.flatten(2)).view(num, 3, size, size)
    pixels.mul_(_illumination(light, axis)[:, None]).add_(_noise(light, size, axis.device)[:, None])
    return pixels.clamp_(0, 1)


def _shade(things: Things, light: Light, distance_BTHW: Tensor, axis: Tensor) -> Tensor:
    """Brightness of domed things: lit from the side the light comes from, with a darker rim 1/40 of the side wide."""
    towards = light.gradient / light.gradient.norm(dim=1, keepdim=True).clamp_min(1e-6)
    slope = (0.18 * towards[:, None] / things.radius[..., None]).to(axis.device)
    centre = things.centre.to(axis.device)
    dome = _plane(slope[..., 0], slope[..., 1], 1.0 - (slope * centre).sum(-1), axis)
    rim = (distance_BTHW * (-40.0 / len(axis))).clamp_(0, 1).mul_(0.4).add_(0.6)
    return dome.mul_(rim)


def _illumination(light: Light, axis: Tensor) -> Tensor:
    gain, gradient = light.gain.to(axis.device), light.gradient.to(axis.device)
    across, down = gain * gradient[:, 0], gain * gradient[:, 1]
    return _plane(across, down, gain - 0.5 * (across + down), axis)


@functools.cache
def _noise_tile(side: int) -> Tensor:
    """Uniform noise in [-1, 1), the same in every world: [side, side] on the CPU."""
    return torch.from_numpy(uniforms(0, np.arange(side), side).astype(np.float32) * 2 - 1)


def _noise(light: Light, size: int, device: torch.device) -> Tensor:
    """A window of a fixed tile of noise, at a place drawn per picture."""
    side = max(_NOISE_TILE, size)
    tile = _noise_tile(side)
    steps = torch.arange(size)
    rows = (light.noise_offset[:, 0, None] + steps) % side
    columns = (light.noise_offset[:, 1, None] + steps) % side
    window = tile[rows[:, :, None], columns[:, None, :]]
    return (window * light.noise[:, None, None]).to(device)


def _mask(things: Things, ground: Ground, distance_BTHW: Tensor, border_BHW: Tensor, num_things: int) -> Tensor:
    device = border_BHW.device
    stuff = (ground.kind + num_things).to(device=device, dtype=torch.uint8)[..., None, None]
    mask = torch.where(border_BHW > 0, stuff[:, 1], stuff[:, 0])
    kinds = things.kind.to(device=device, dtype=torch.uint8)[..., None, None]
    for slot in range(distance_BTHW.shape[1]):
        mask = torch.where(distance_BTHW[:, slot] < 0, kinds[:, slot], mask)
    return mask.long()


def join(parts: Sequence[Pictures]) -> Pictures:
    """Concatenate batches of pictures."""
    if len(parts) == 1:
        return parts[0]
    depths = [part.depth for part in parts if part.depth is not None]
    normals = [part.normals for part in parts if part.normals is not None]
    return Pictures(
        pixels=torch.cat([part.pixels for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        depth=torch.cat(depths) if depths else None,
        normals=torch.cat(normals) if normals else None,
    )
