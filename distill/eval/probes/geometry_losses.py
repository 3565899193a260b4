"""What trained depth and normals probes minimise, over the pixels that count.

Legend: B pictures, (H, W) pixels, K depth bins.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LOG_SHIFT = 1e-3
"""Added to depths, metres, before their logarithm is taken."""


def expected_depth(
    scores: Float[Tensor, "B K h w"], *, min_depth: float, max_depth: float, floor: float
) -> Float[Tensor, "B h w"]:
    """Mean of K depths, evenly spaced from `min_depth` to `max_depth` metres, with weights relu(score) + floor.

    Depth as a class with linear normalisation (AdaBins, arXiv 2011.14141; tipsv2.md section 7).
    """
    weight = scores.relu() + floor
    depths_K = torch.linspace(min_depth, max_depth, scores.shape[1], dtype=scores.dtype, device=scores.device)
    return torch.einsum("bkhw,k->bhw", weight / weight.sum(1, keepdim=True), depths_K)


def log_depth_loss(
    prediction: Float[Tensor, "B H W"],
    depth: Float[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    *,
    only_scale: bool = False,
) -> Float[Tensor, ""]:
    """Root of Var[g] + 0.15 Mean[g]^2 over valid pixels, where g is the difference of log depths.

    Scale-invariant loss of Eigen et al. 2014 (arXiv 1406.2283) as AdaBins weighs it; `only_scale` leaves the variance
    out, as DINOv2's probe does in its first 100 steps. 0 where fewer than two pixels are valid.
    """
    if valid.sum() < 2:
        return prediction.sum() * 0.0
    difference = (prediction[valid] + LOG_SHIFT).log() - (depth[valid] + LOG_SHIFT).log()
    squared_mean = 0.15 * difference.mean() ** 2
    # The root has no slope at 0, which a perfect prediction reaches.
    return (squared_mean if only_scale else difference.var() + squared_mean).clamp_min(1e-12).sqrt()


def log_gradient_loss(
    prediction: Float[Tensor, "B H W"], depth: Float[Tensor, "B H W"], valid: Bool[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Absolute differences, two pixels apart, of the error in log depth: summed over both directions where both pixels
    are valid, over the number of valid pixels; summed over the map and every 2nd, 4th and 6th pixel of it.

    As in DINOv2's depth probe, after MegaDepth (arXiv 1804.00607), but it is the pixels that are subsampled.
    """
    error = torch.where(valid, (prediction + LOG_SHIFT).log() - (depth + LOG_SHIFT).log(), 0.0)
    total = prediction.sum() * 0.0
    for stride in (1, 2, 4, 6):
        part, known = error[:, ::stride, ::stride], valid[:, ::stride, ::stride]
        rows = (part[:, 2:] - part[:, :-2]).abs() * (known[:, 2:] & known[:, :-2])
        columns = (part[:, :, 2:] - part[:, :, :-2]).abs() * (known[:, :, 2:] & known[:, :, :-2])
        total = total + (rows.sum() + columns.sum()) / known.sum().clamp_min(1)
    return total


def cosine_loss(
    prediction: Float[Tensor, "B 3 H W"], normals: Float[Tensor, "B 3 H W"], valid: Bool[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Mean of 1 - cosine over valid pixels; 0 without any."""
    cosine = torch.nn.functional.cosine_similarity(prediction, normals, dim=1)
    return ((1 - cosine) * valid).sum() / valid.sum().clamp_min(1)
