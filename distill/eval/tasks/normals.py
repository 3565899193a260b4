"""Surface normals: which way every pixel's surface faces, read out of frozen features (tipsv2.md section 7).

Legend: B images, (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from distill.contracts import ImageEncoder, NormalsSet
from distill.encoders.dual import DualEncoder
from distill.eval.dense import upsample
from distill.eval.features import Precision, device_of
from distill.eval.geometry import normals_result, normals_sums, sum_over_set, with_normal
from distill.eval.metrics import TaskResult
from distill.eval.probes.dpt_weights import load_decoder
from distill.eval.probes.geometry_losses import cosine_loss
from distill.eval.probes.geometry_probes import Head, Maps, Seen, maps_of, ridge_maps, trained_maps
from distill.eval.probes.probe_training import ProbeTraining, mirrored_normals

TRAINING = ProbeTraining(steps=38_400, lr=5e-4, weight_decay=0.01, warmup=1 / 3, decay="cosine", clip=35.0)
"""Ours: what is stated is that both sets of the paper are read with a DPT head."""


@dataclass(frozen=True, kw_only=True)
class NormalsSettings:
    """The protocol; the defaults are the paper's where it states any."""

    head: Head = "dpt"
    """`ridge` is closed-form and quick, `linear` one trained layer; neither is the paper's."""
    training: ProbeTraining = field(default_factory=lambda: TRAINING)
    """linear, dpt."""
    decoder: str | None = None
    """dpt: a released decoder (file or folder) that is scored as it is, instead of training one."""
    ridge: float = 1e-3
    """ridge: penalty on squared weights of standardised features, as a share of the number of patches."""
    short_side: int | None = 448
    """Pictures are resized so that the shorter side has so many pixels; None keeps them. Normals stay when scored."""
    batch_size: int = 32
    """Of the scored pictures. Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge={self.ridge} is not positive; without it equal features have no unique solution")
        if self.decoder is not None and self.head != "dpt":
            raise ValueError("decoder is a released DPT decoder: it needs head=dpt")


@torch.no_grad()
def evaluate(
    encoder: DualEncoder, train_set: NormalsSet | None, data: NormalsSet, settings: NormalsSettings
) -> TaskResult:
    """Fit on `train_set` (None with a released decoder), score on `data`: values of `geometry.normals_result`.

    Whole pictures; predictions are brought to the size of the maps of normals bilinearly.
    """
    maps = fit(encoder.image, train_set, settings)

    def sums_of(pixels: Tensor, normals: Tensor) -> dict[str, Tensor]:
        predicted = normals_of(maps(pixels), size=tuple(normals.shape[-2:])).cpu()
        return normals_sums(predicted, normals, with_normal(normals))

    return normals_result(
        sum_over_set(data, sums_of, batch_size=settings.batch_size),
        asdict(settings) | {"num_train_images": 0 if train_set is None else len(train_set)},
    )


def fit(image: ImageEncoder, train_set: NormalsSet | None, settings: NormalsSettings) -> Maps:
    """The probe's maps of vectors of any length."""
    seen = Seen(image, head=settings.head, short_side=settings.short_side, precision=settings.precision)
    if settings.decoder is not None:
        head = load_decoder(settings.decoder, "normals", width=image.width)
        return maps_of(head.to(device_of(image)), seen)
    if train_set is None:
        raise ValueError("a probe of normals needs pictures with normals to be fitted on")
    if settings.head == "ridge":
        return ridge_maps(seen, train_set, with_normal, ridge=settings.ridge, batch_size=settings.batch_size)

    def loss(maps: Tensor, normals: Tensor, step: int) -> Tensor:
        return cosine_loss(normals_of(maps, size=tuple(normals.shape[-2:])), normals, with_normal(normals))

    return trained_maps(seen, train_set, loss, settings.training, num_outputs=3, relu=False, mirror=mirrored_normals)


def normals_of(maps: Float[Tensor, "B 3 h w"], *, size: tuple[int, int]) -> Float[Tensor, "B 3 H W"]:
    """Unit vectors at `size`: normalised, up-sampled, normalised again. Zero stays zero."""
    return functional.normalize(upsample(functional.normalize(maps, dim=1), size), dim=1)
