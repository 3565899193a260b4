"""Health of features: whether they have collapsed, in how many directions they differ, and what they keep of a picture
that is cropped or resized. Needs pictures alone, and knows nothing of how the encoder was trained.

Robustness is a correlation of centred features: features that are the same everywhere agree with nothing.
Legend: B pictures, M vectors, D width, (h, w) patch grid, (H, W) pixels.
"""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from distill.contracts import ImageEncoder, Tokens
from distill.encoders.dual import DualEncoder
from distill.eval import sanity
from distill.eval.features import Precision, patch_map, tokens
from distill.eval.metrics import TaskResult
from distill.eval.pictures.datasets import spread
from distill.eval.progress import saw_pictures
from distill.eval.tasks.knn import ClassifiedPictures


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    crop: float = 0.75
    """Side of the crop as a share of the picture's; its place is drawn once for every picture."""
    scales: tuple[float, ...] = (0.5, 2.0)
    """Sides of the resized pictures as shares of the picture's."""
    num_looked: int = 64
    """Pictures that the alarms look at, evenly spaced over the set (`sanity.look_at`)."""
    seed: int = 0
    batch_size: int = 64
    """Changes memory, not results."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop={self.crop} is not in (0, 1]")
        if not all(scale > 0 for scale in self.scales):
            raise ValueError(f"scales={self.scales}: expected positive numbers")
        if self.num_looked < 2:
            raise ValueError(f"num_looked={self.num_looked}: at least two pictures are needed to tell them apart")


@torch.no_grad()
def evaluate(encoder: DualEncoder, data: ClassifiedPictures, settings: HealthSettings) -> TaskResult:
    """Shares in [0, 1] and correlations in [-1, 1]; NaN where nothing varies. Labels are not looked at.

    `patch_rank`, `cls_rank`: effective rank (Roy and Vetterli, 2007) as a share of the largest possible one;
    `patches_alive`, `cls_alive`: share of the squared length that varies; `crop_patches`, `crop_cls`,
    `patches_at_0.5x`, ...: correlation with the same place, the same picture, when cropped or resized. CLS is CLS 1.
    Alarms are `notes`. Raises ValueError for fewer than two pictures.
    """
    if len(data) < 2:
        raise ValueError(f"{len(data)} picture(s): at least two are needed to tell them apart")
    place_N2 = torch.rand(len(data), 2, generator=torch.Generator().manual_seed(settings.seed))
    spreads = {"patch": Spread(), "cls": Spread()}
    views = ["crop", *(f"{scale:g}x" for scale in settings.scales)]
    correlations = {(view, kind): Correlation() for view in views for kind in ("patches", "cls")}
    cosines: dict[str, list[Tensor]] = {view: [] for view in views}
    for start in range(0, len(data), settings.batch_size):
        pixels = data.batch(start, min(start + settings.batch_size, len(data)))[0]
        saw_pictures(len(pixels))
        whole = tokens(encoder.image, pixels, kind="final", precision=settings.precision)
        spreads["patch"].add(whole.patches.flatten(0, 1))
        spreads["cls"].add(whole.cls[:, 0])
        for view, (cls_BD, here_BDhw, there_BDhw) in zip(
            views, _views(encoder.image, pixels, whole, place_N2[start : start + len(pixels)], settings), strict=True
        ):
            correlations[view, "patches"].add(_vectors(here_BDhw), _vectors(there_BDhw))
            correlations[view, "cls"].add(whole.cls[:, 0], cls_BD)
            cosines[view].append(functional.cosine_similarity(whole.cls[:, 0], cls_BD).cpu())
    values = {f"{name}_rank": each.rank / max(each.largest_rank, 1) for name, each in spreads.items()}
    values |= {"patches_alive": spreads["patch"].alive, "cls_alive": spreads["cls"].alive}
    values |= {_name(view, kind): found.value for (view, kind), found in correlations.items()}
    return TaskResult(
        values=values,
        per_class={},
        per_picture={f"cosine_{_name(view, 'cls')}": torch.cat(found) for view, found in cosines.items()},
        settings=asdict(settings),
        num_images=len(data),
        notes=(*_ranks(spreads), *_alarms(encoder.image, data, spreads["cls"], settings)),
    )


class Spread:
    """Sums over vectors that their variances in all directions need, in float64: D² + D numbers."""

    def __init__(self) -> None:
        self.count = 0
        self.x_D = self.xx_DD = torch.zeros((), dtype=torch.double)

    def add(self, x_MD: Float[Tensor, "M D"]) -> None:
        x_MD = x_MD.double()
        self.count += len(x_MD)
        self.x_D = x_MD.sum(0) + self.x_D.to(x_MD.device)
        self.xx_DD = x_MD.T @ x_MD + self.xx_DD.to(x_MD.device)

    @property
    def largest_rank(self) -> int:
        return min(self.count - 1, len(self.x_D))

    @property
    def alive(self) -> float:
        """Share of the squared length that varies; the rest is the mean."""
        total = self.xx_DD.trace()
        return ((total - self.x_D.square().sum() / self.count).clamp(min=0) / total.clamp(min=sanity.TINY)).item()

    @property
    def rank(self) -> float:
        """Effective rank; NaN where nothing varies."""
        if self.alive < 1e-9:
            return math.nan
        return sanity.rank_of(torch.linalg.eigvalsh(self.xx_DD - torch.outer(self.x_D, self.x_D) / self.count))


class Correlation:
    """Sum over all dimensions of the covariances of two views' features, over the root of their variances."""

    def __init__(self) -> None:
        self.count = 0
        self.sums_2D = torch.zeros((), dtype=torch.double)
        self.squares_2 = self.product = torch.zeros((), dtype=torch.double)

    def add(self, here_MD: Float[Tensor, "M D"], there_MD: Float[Tensor, "M D"]) -> None:
        both_2MD = torch.stack([here_MD, there_MD]).double()
        self.count += len(here_MD)
        self.sums_2D = both_2MD.sum(1) + self.sums_2D.to(both_2MD.device)
        self.squares_2 = both_2MD.square().sum((1, 2)) + self.squares_2.to(both_2MD.device)
        self.product = (both_2MD[0] * both_2MD[1]).sum() + self.product.to(both_2MD.device)

    @property
    def value(self) -> float:
        """NaN where one of the views does not vary."""
        variances_2 = self.squares_2 - self.sums_2D.square().sum(1) / self.count
        if (variances_2 <= 1e-9 * self.squares_2).any():
            return math.nan
        covariance = self.product - (self.sums_2D[0] * self.sums_2D[1]).sum() / self.count
        return (covariance / variances_2.prod().sqrt()).item()


def zoom(
    maps_BDhw: Float[Tensor, "B D h w"], place_B2: Float[Tensor, "B 2"], *, side: float, size: tuple[int, int]
) -> Float[Tensor, "B D h2 w2"]:
    """A square window of each map, `side` of its sides, bilinear; place (0, 0) is top left and (1, 1) bottom right."""
    affine_B23 = torch.zeros(len(maps_BDhw), 2, 3, device=maps_BDhw.device)
    affine_B23[:, 0, 0] = affine_B23[:, 1, 1] = side
    affine_B23[:, :, 2] = (2 * place_B2.to(maps_BDhw.device).flip(1) - 1) * (1 - side)
    grid = functional.affine_grid(affine_B23, [*maps_BDhw.shape[:2], *size], align_corners=False)
    return functional.grid_sample(maps_BDhw, grid, padding_mode="border", align_corners=False)


def _views(
    image: ImageEncoder, pixels: Tensor, whole: Tokens, place_B2: Tensor, settings: HealthSettings
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each view: its CLS 1, the whole picture's patches where the view looks, and the view's patches there."""
    here = patch_map(whole)
    cropped = zoom(pixels, place_B2, side=settings.crop, size=tuple(pixels.shape[-2:]))
    found = tokens(image, cropped, kind="final", precision=settings.precision)
    views = [(found.cls[:, 0], zoom(here, place_B2, side=settings.crop, size=found.grid), patch_map(found))]
    for scale in settings.scales:
        size = tuple(max(1, round(scale * side)) for side in pixels.shape[-2:])
        resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        found = tokens(image, resized, kind="final", precision=settings.precision)
        there = functional.interpolate(patch_map(found), whole.grid, mode="bilinear", antialias=True)
        views.append((found.cls[:, 0], here, there))
    return views


def _vectors(maps_BDhw: Tensor) -> Tensor:
    return maps_BDhw.permute(0, 2, 3, 1).flatten(0, 2)


def _name(view: str, kind: str) -> str:
    return f"crop_{kind}" if view == "crop" else f"{kind}_at_{view}"


def _ranks(spreads: dict[str, Spread]) -> list[str]:
    called = {"patch": "patch", "cls": "CLS 1"}
    return [
        f"effective rank of the {called[name]} features: {each.rank:.1f} of {each.largest_rank}"
        for name, each in spreads.items()
    ]


def _alarms(image: ImageEncoder, data: ClassifiedPictures, cls: Spread, settings: HealthSettings) -> list[str]:
    looked = torch.cat([data.batch(at, at + 1)[0] for at in spread(len(data), settings.num_looked)])
    found = tokens(image, looked, kind="final", precision=settings.precision)
    alarms = sanity.warnings(sanity.look_at(found, looked.to(found.patches.device)))
    if cls.rank < 2:
        alarms.append("CLS 1 differs along one direction only: it has collapsed")
    return [f"alarm: {sentence}" for sentence in alarms]
