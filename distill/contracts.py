"""What the parts of distill promise each other.

Legend: B images, C CLS tokens (1 or 2), N patches in row-major order, D width, L caption tokens.
Pixels are RGB in [0, 1] everywhere; every encoder applies its own pixel statistics inside.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn


@dataclass(frozen=True)
class Tokens:
    """What an image encoder returns: CLS tokens, patches, and the (rows, columns) of the patch grid.

    `layers` are the patches of earlier layers that were asked for, in the order asked; their width may differ. Where
    hidden patches were dropped, patches and layers keep their shape and hold nan: nobody may hear them.
    """

    cls: Float[Tensor, "B C D"]
    patches: Float[Tensor, "B N D"]
    grid: tuple[int, int]
    layers: tuple[Float[Tensor, "B N _"], ...] = ()

    def detach(self) -> "Tokens":
        """The same values without their history."""
        layers = tuple(layer.detach() for layer in self.layers)
        return Tokens(cls=self.cls.detach(), patches=self.patches.detach(), grid=self.grid, layers=layers)

    def halves(self) -> tuple["Tokens", "Tokens"]:
        """The tokens of the first and of the second half of the batch."""
        parts = [tensor.chunk(2) for tensor in (self.cls, self.patches, *self.layers)]
        first, second = (
            Tokens(cls=cls, patches=patches, grid=self.grid, layers=tuple(layers))
            for cls, patches, *layers in zip(*parts, strict=True)
        )
        return first, second


@dataclass(frozen=True)
class Batch:
    """One rank's share of one global batch, on the device.

    `hidden` is True where the student cannot see the patch. `captions` holds one tokenised caption per
    CLS token; `local_crops` is None when no loss listens to them. `teacher_pixels` are the same view made larger from
    the source picture, by its side, for teachers that see more of it than the student. `stored` is what the teacher's
    `lookup` found about these views, one row of each tensor per picture; None for teachers that look at the pixels.
    `teacher_draws`, uniform in [0, 1), decide which of T teachers a picture hears; None where all are heard.
    """

    ids: list[str]
    pixels: Float[Tensor, "B 3 H W"]
    hidden: Bool[Tensor, "B N"]
    captions: Int[Tensor, "C B L"] | None
    local_crops: Float[Tensor, "M B 3 h w"] | None
    teacher_pixels: dict[int, Float[Tensor, "B 3 S S"]] = field(default_factory=dict)
    stored: dict[str, Tensor] | None = None
    teacher_draws: Float[Tensor, "B T"] | None = None


Lookup = Callable[[Int[Tensor, " B"]], dict[str, Tensor]]
"""From keys of views, `sample * views of each sample + view`, to what is stored about them, on the CPU."""


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each RGB channel, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageEncoder(nn.Module):
    """Contract of an image tower. `width` is D; `patch_size` is in pixels of its own input; `can_hide`: it can be kept
    from seeing patches; `can_drop`: its pass can leave them out; `gives_blocks`: `intermediate` has something to give.
    """

    can_hide: bool = False
    can_drop: bool = False
    gives_blocks: bool = False
    width: int
    num_cls: int
    patch_size: int
    num_layers: int
    pixel_mean: Float[Tensor, "1 3 1 1"]
    pixel_std: Float[Tensor, "1 3 1 1"]

    def keep_statistics(self, statistics: Statistics) -> None:
        """Make the pixel statistics buffers, which travel with the weights."""
        self.register_buffer("pixel_mean", torch.tensor(statistics.mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(statistics.std).view(1, 3, 1, 1))

    def standardise(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels in [0, 1] as the weights know them."""
        return (pixels - self.pixel_mean) / self.pixel_std

    def forward(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        hidden: Bool[Tensor, "B N"] | None = None,
        *,
        layers: tuple[int, ...] = (),
        drop: bool = False,
    ) -> Tokens:
        """Tokens after the final norm; hidden patches are replaced by the mask token before positions.

        What only students are asked for: `layers`, blocks counted from 1 as in `layer_of`, whose patches are kept as
        the block leaves them, before any final norm; and `drop`, which leaves hidden patches out of the pass instead of
        replacing them. ValueError for a block that is not there, and from a tower that can do neither.
        """
        raise NotImplementedError

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        """Tokens whose last block attends only to itself (tipsv2.md section 7: TIPS zero-shot notebook)."""
        raise NotImplementedError

    def intermediate(self, pixels: Float[Tensor, "B 3 H W"], blocks: tuple[int, ...]) -> tuple[Tokens, ...]:
        """Tokens as each of these blocks leaves them, counted from 1, taken where those of the last block go: through
        the final norm, and through pooling and projection where there are any.

        What DPT heads read (tipsv2.md section 7). Raises ValueError for a block that is not there, and from a tower
        that gives no earlier blocks, as here.
        """
        raise ValueError(f"{type(self).__name__} gives tokens of its last block only; probe it with a linear head")

    def check_blocks(self, blocks: tuple[int, ...]) -> None:
        """ValueError, naming them, for blocks that are not among those counted from 1."""
        unknown = [number for number in blocks if not 1 <= number <= self.num_layers]
        if unknown:
            raise ValueError(f"layers {unknown} are asked for, but this tower has blocks 1 to {self.num_layers}")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches for an input of this size in pixels."""
        raise NotImplementedError

    def layer_of(self, parameter_name: str) -> int:
        """Depth of one of its parameters: 0 embeddings, i for block i of `num_layers`."""
        raise NotImplementedError


class TextEncoder(nn.Module):
    """Contract of a text tower. `width` is D of the joint space."""

    width: int
    num_layers: int

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        """Token ids on the CPU, padded or cut to the tower's context length."""
        raise NotImplementedError

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """One embedding per text, not normalised."""
        raise NotImplementedError

    def layer_of(self, parameter_name: str) -> int:
        """Depth of one of its parameters: 0 embeddings, i for block i of `num_layers`."""
        raise NotImplementedError


@runtime_checkable
class SegmentationSet(Protocol):
    """Pictures with a label per pixel. Labels index `class_names`; `ignore` marks pixels that do not count."""

    class_names: list[str]
    ignore: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]: ...


@runtime_checkable
class PixelSet(Protocol):
    """Pictures with something said about every pixel: [H, W], or [3, H, W] for normals."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Shaped[Tensor, "*channels H W"]]: ...


@runtime_checkable
class DepthSet(Protocol):
    """Pictures with a depth per pixel, metres along the camera's axis; 0 marks pixels without a reading."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"]]: ...


@runtime_checkable
class NormalsSet(Protocol):
    """Pictures with the unit normal of the surface in every pixel; the zero vector marks pixels without one.

    x points right; where the other axes point is the set's own, the same in all its pictures.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "3 H W"]]: ...


@dataclass(frozen=True)
class Predictions:
    """What the student says about one batch. A pass that no loss hears is None.

    Without hidden patches there is no masked pass: the patch loss hears the unmasked one.
    """

    unmasked: Tokens | None
    masked: Tokens | None
    local_cls: Float[Tensor, "M B D"] | None
    text: Float[Tensor, "C B D"] | None


@dataclass(frozen=True)
class Targets:
    """What a teacher says about one batch's unmasked view; `heads` is None for teachers without projection heads.

    `gradient` is the factor on the distillation losses' gradient for tokens and heads; 0 for a teacher that does not
    learn by gradient: the losses take it for a constant.
    """

    tokens: Tokens
    heads: nn.Module | None
    gradient: float = 0.0


@dataclass(frozen=True)
class ManyTargets:
    """What several teachers say about one batch, by name. `draws` are the batch's `teacher_draws`."""

    members: dict[str, Targets]
    draws: Float[Tensor, "B T"] | None


class Teacher(nn.Module):
    """Who makes the targets. It owns its gradient policy, set once at its start, and stays in eval.

    The trainer trains its parameters that require gradients, which is none for all but partly trained teachers.
    """

    heads: nn.Module | None

    def targets(self, batch: Batch, predictions: Predictions | None) -> Targets | ManyTargets:
        """Targets for the unmasked view, without history unless the teacher learns from them."""
        raise NotImplementedError

    def towers(self) -> list[ImageEncoder]:
        """The image towers that it runs; the student's own is none of them."""
        raise NotImplementedError

    def lookup(self) -> Lookup | None:
        """What the loader calls ahead of time for every batch's `stored`; None for teachers that look at the pixels."""
        return None

    def follow(self, image: ImageEncoder, heads: nn.Module | None, *, momentum: float) -> None:
        """Move after the student, once per optimiser step; all but momentum teachers stay."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval whatever the trainer asks: dropout and norms must not drift."""
        return super().train(False)


@dataclass(frozen=True)
class Losses:
    """`total` carries the gradient; `terms` are the weighted sum's parts and `diagnostics` its details, detached."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    diagnostics: dict[str, Tensor]
