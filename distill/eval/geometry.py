"""Errors of depth and of surface normals, picture by picture, over the pixels that count.

Two means are given of a root mean square: over pictures of each picture's own, as depth toolboxes report NYUv2, and
over all pixels together. Which of them the TIPS papers report is not stated.
Legend: B pictures of a batch, N of a set, (H, W) pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distill.contracts import DepthSet, NormalsSet
from distill.eval.metrics import TaskResult, numbered_batches

DELTAS = {f"delta{power}": 1.25**power for power in (1, 2, 3)}
"""Pixels count as near enough when prediction over truth, or its inverse, is below this."""
ANGLES = {f"share_under_{angle:g}": angle for angle in (11.25, 22.5, 30.0)}
"""Degrees."""

Sums = dict[str, Float[Tensor, " N"]]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The part of a picture of this size that counts, in pixels; ends are outside."""

    size: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    def counted(self, size: tuple[int, int]) -> Bool[Tensor, "H W"]:
        """True inside. Raises ValueError for another size than the crop is stated for."""
        if size != self.size:
            raise ValueError(
                f"the crop of these depth maps is stated for {self.size} pixels and one has {size}: score whole "
                "pictures (evaluate.depth_crop=none)"
            )
        counted = torch.zeros(size, dtype=torch.bool)
        counted[slice(*self.rows), slice(*self.columns)] = True
        return counted


EIGEN_CROP = Crop(size=(480, 640), rows=(45, 471), columns=(41, 601))
"""Of NYUv2: the crop of Eigen et al. (2014), in the pixels that public evaluation code takes it to be (BTS, and the
depth toolbox under DINOv2's evaluation, whose configuration of NYUv2 says eigen_crop)."""


@runtime_checkable
class WithCrop(Protocol):
    """A depth set that says which part of its pictures published scores count; None: all of it."""

    crop: Crop | None


def crop_of(data: DepthSet) -> Crop | None:
    """None also for a set that does not say it."""
    return data.crop if isinstance(data, WithCrop) else None


def with_depth(depth: Float[Tensor, "*any"], *, max_depth: float) -> Bool[Tensor, "*any"]:
    """Pixels with a reading that is not beyond `max_depth` metres."""
    return (depth > 0) & (depth <= max_depth)


def with_normal(normals: Float[Tensor, "B 3 H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels whose normal is not the zero vector."""
    return normals.norm(dim=1) > 0.5


def depth_sums(
    prediction: Float[Tensor, "B H W"], depth: Float[Tensor, "B H W"], valid: Bool[Tensor, "B H W"]
) -> dict[str, Float[Tensor, " B"]]:
    """Sums over valid pixels in float64: `squared_error` (square metres), `relative_error` (|p - d| / d), `delta1` to
    `delta3` (counts), and `valid`, how many there are. Predictions are positive."""
    predicted, truth = prediction.double(), depth.double().masked_fill(~valid, 1.0)
    ratio = torch.maximum(predicted / truth, truth / predicted)
    every = {"squared_error": (predicted - truth) ** 2, "relative_error": (predicted - truth).abs() / truth}
    every |= {name: (ratio < limit).double() for name, limit in DELTAS.items()}
    return _sums(every, valid)


def angle_degrees(prediction: Float[Tensor, "B 3 H W"], normals: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
    """Angle between the two vectors, of any length, in float64, exact for small ones too; 90 for a vector of length 0,
    which points nowhere."""
    ours, theirs = prediction.double(), normals.double()
    angle = torch.atan2(torch.linalg.cross(ours, theirs, dim=1).norm(dim=1), (ours * theirs).sum(1)).rad2deg()
    return torch.where((ours.norm(dim=1) > 0) & (theirs.norm(dim=1) > 0), angle, 90.0)


def normals_sums(
    prediction: Float[Tensor, "B 3 H W"], normals: Float[Tensor, "B 3 H W"], valid: Bool[Tensor, "B H W"]
) -> dict[str, Float[Tensor, " B"]]:
    """Sums over valid pixels in float64: `squared_angle`, `angle` (degrees), `share_under_...` (counts), `valid`."""
    angle = angle_degrees(prediction, normals)
    every = {"squared_angle": angle**2, "angle": angle}
    return _sums(every | {name: (angle < limit).double() for name, limit in ANGLES.items()}, valid)


def depth_result(sums: Sums, settings: dict[str, Any]) -> TaskResult:
    """`rmse_metres`, then `pooled_rmse_metres` over all pixels, `abs_rel` and the `delta`s, means over pictures.

    A picture without a valid pixel is left out. Raises ValueError when there is none in any.
    """
    mean = _picture_means(sums, what="depth")
    values = {
        "rmse_metres": mean["squared_error"].sqrt().mean().item(),
        "pooled_rmse_metres": (sums["squared_error"].sum() / sums["valid"].sum()).sqrt().item(),
        "abs_rel": mean["relative_error"].mean().item(),
    }
    return _result(values | {name: mean[name].mean().item() for name in DELTAS}, sums, settings)


def normals_result(sums: Sums, settings: dict[str, Any]) -> TaskResult:
    """`rmse_degrees`, then `pooled_rmse_degrees` over all pixels, `mean_degrees` and the shares, means over pictures.

    A picture without a valid pixel is left out. Raises ValueError when there is none in any.
    """
    mean = _picture_means(sums, what="normal")
    values = {
        "rmse_degrees": mean["squared_angle"].sqrt().mean().item(),
        "pooled_rmse_degrees": (sums["squared_angle"].sum() / sums["valid"].sum()).sqrt().item(),
        "mean_degrees": mean["angle"].mean().item(),
    }
    return _result(values | {name: mean[name].mean().item() for name in ANGLES}, sums, settings)


def sum_over_set(
    data: DepthSet | NormalsSet,
    sums_of: Callable[[Tensor, Tensor], dict[str, Tensor]],
    *,
    batch_size: int,
) -> Sums:
    """What `sums_of(pixels, truth)` says of each picture of a set, in its order, on the CPU."""
    if not len(data):
        raise ValueError("there are no pictures to score")
    found: Sums = {}
    for places, pixels, truth in numbered_batches(data, batch_size):
        for name, values in sums_of(pixels, truth).items():
            found.setdefault(name, torch.zeros(len(data), dtype=torch.double))[places] = values.cpu()
    return found


def _sums(every: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    sums = {name: values.masked_fill(~valid, 0.0).flatten(1).sum(1) for name, values in every.items()}
    return sums | {"valid": valid.flatten(1).sum(1).double()}


def _picture_means(sums: Sums, *, what: str) -> dict[str, Tensor]:
    seen = sums["valid"] > 0
    if not seen.any():
        raise ValueError(f"no pixel has a {what}, so there is nothing to score")
    return {name: values[seen] / sums["valid"][seen] for name, values in sums.items()}


def _result(values: dict[str, float], sums: Sums, settings: dict[str, Any]) -> TaskResult:
    return TaskResult(values=values, per_class={}, per_picture=sums, settings=settings, num_images=len(sums["valid"]))
