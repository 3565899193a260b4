"""Depth: how far away every pixel is, in metres, read out of frozen features by a probe (tipsv2.md section 7).

Legend: B images, K depth bins, (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from distill.contracts import DepthSet, ImageEncoder
from distill.encoders.dual import DualEncoder
from distill.eval.dense import upsample
from distill.eval.features import Precision, device_of
from distill.eval.geometry import crop_of, depth_result, depth_sums, sum_over_set, with_depth
from distill.eval.metrics import TaskResult
from distill.eval.probes.dpt_weights import load_decoder
from distill.eval.probes.geometry_losses import expected_depth, log_depth_loss, log_gradient_loss
from distill.eval.probes.geometry_probes import Head, Maps, Seen, maps_of, ridge_maps, trained_maps
from distill.eval.probes.probe_training import ProbeTraining, flipped

LINEAR = ProbeTraining(steps=38_400, lr=5e-3, weight_decay=0.01, warmup=1 / 3, decay="cosine", clip=35.0)
"""DINOv2's NYUv2 probe, by a public copy of its configuration; which learning rate TIPS took is not stated."""
DPT = replace(LINEAR, lr=5e-4)
"""Ours: nothing is stated about how the released decoder was trained but its shape."""
STEPS_OF_SCALE = 100
"""First steps of a training of any length in which only the mean error in log depth is heard."""


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """The protocol; the defaults are the paper's for NYUv2. `DepthSettings(head="dpt", training=DPT)` is for NAVI."""

    head: Head = "linear"
    """`ridge` is closed-form and quick, and not the paper's; `linear` and `dpt` are trained."""
    training: ProbeTraining = field(default_factory=lambda: LINEAR)
    """linear, dpt."""
    decoder: str | None = None
    """dpt: a released decoder (file or folder) that is scored as it is, instead of training one."""
    num_bins: int = 256
    """linear, dpt: depths that a pixel's depth is a mean of."""
    ridge: float = 1e-3
    """ridge: penalty on squared weights of standardised features, as a share of the number of patches."""
    min_depth: float = 1e-3
    """Metres. Predictions are not below it."""
    max_depth: float = 10.0
    """Metres. Predictions are not beyond it, and pixels that are do not count."""
    crop: Literal["eigen", "none"] = "eigen"
    """Which pixels of NYUv2 count: those inside the Eigen crop, as in DINOv2's protocol, or all. Others have none."""
    short_side: int | None = 448
    """Pictures are resized so that the shorter side has so many pixels; None keeps them. Depths stay when scored."""
    batch_size: int = 32
    """Of the scored pictures. Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"min_depth={self.min_depth}, max_depth={self.max_depth}: expected 0 < min < max")
        if self.num_bins < 2 or not self.ridge > 0:
            raise ValueError(f"num_bins={self.num_bins}, ridge={self.ridge}: expected at least 2, and more than 0")
        if self.decoder is not None and self.head != "dpt":
            raise ValueError("decoder is a released DPT decoder: it needs head=dpt")


@torch.no_grad()
def evaluate(encoder: DualEncoder, train_set: DepthSet | None, data: DepthSet, settings: DepthSettings) -> TaskResult:
    """Fit on `train_set` (None with a released decoder), score on `data`: values of `geometry.depth_result`.

    Whole pictures are seen, and trained on; a crop decides what is scored. Predictions are brought to the size of the
    depth maps bilinearly.
    """
    maps = fit(encoder.image, train_set, settings)
    crop = crop_of(data) if settings.crop == "eigen" else None

    def sums_of(pixels: Tensor, depth: Tensor) -> dict[str, Tensor]:
        predicted = depth_of(maps(pixels), settings, size=tuple(depth.shape[-2:])).cpu()
        valid = with_depth(depth, max_depth=settings.max_depth)
        return depth_sums(predicted, depth, valid if crop is None else valid & crop.counted(tuple(depth.shape[-2:])))

    return depth_result(
        sum_over_set(data, sums_of, batch_size=settings.batch_size),
        asdict(settings)
        | {"crop": "none" if crop is None else "eigen", "num_train_images": 0 if train_set is None else len(train_set)},
    )


def fit(image: ImageEncoder, train_set: DepthSet | None, settings: DepthSettings) -> Maps:
    """The probe's maps: depth for `ridge`, scores of depth bins for the others."""
    seen = Seen(image, head=settings.head, short_side=settings.short_side, precision=settings.precision)
    if settings.decoder is not None:
        head = load_decoder(settings.decoder, "depth", width=image.width)
        return maps_of(head.to(device_of(image)), seen)
    if train_set is None:
        raise ValueError("a depth probe needs pictures with depth to be fitted on")
    if settings.head == "ridge":
        return ridge_maps(
            seen,
            train_set,
            lambda depth: with_depth(depth, max_depth=settings.max_depth),
            ridge=settings.ridge,
            batch_size=settings.batch_size,
        )

    def loss(scores: Tensor, depth: Tensor, step: int) -> Tensor:
        predicted = depth_of(scores, settings, size=tuple(depth.shape[-2:]))
        valid = with_depth(depth, max_depth=settings.max_depth)
        scale_first = step < min(STEPS_OF_SCALE, settings.training.steps // 4)
        return log_depth_loss(predicted, depth, valid, only_scale=scale_first) + 0.5 * log_gradient_loss(
            predicted, depth, valid
        )

    return trained_maps(
        seen, train_set, loss, settings.training, num_outputs=settings.num_bins, relu=True, mirror=flipped
    )


def depth_of(
    maps: Float[Tensor, "B K h w"], settings: DepthSettings, *, size: tuple[int, int]
) -> Float[Tensor, "B H W"]:
    """Metres at `size`. Linear probes keep 0.1 of every bin, as DINOv2's; the DPT decoder keeps `min_depth`."""
    if settings.head == "ridge":
        depth = maps[:, 0]
    else:
        floor = 0.1 if settings.head == "linear" else settings.min_depth
        depth = expected_depth(maps, min_depth=settings.min_depth, max_depth=settings.max_depth, floor=floor)
    return upsample(depth[:, None], size)[:, 0].clamp(settings.min_depth, settings.max_depth)
