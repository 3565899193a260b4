"""How features lie in a cache: dtypes, shapes, and what is lost.

Legend: B views, C CLS tokens, N patches, D width of the teacher, K channels or components that are kept.

| storage | patches | CLS tokens | largest error of a kept number |
|---|---|---|---|
| fp32 | float32 | float32 | none |
| fp16 | float16 | float16 | 2^-11 of its size (normal numbers, below 65,504) |
| int8 | 256 steps from the channel's smallest to its largest value in this view | float16 | 1/510 of that range |

Steps are taken per view and channel: encoders have channels a hundred times as large as the others, whose mean would
use up the steps of a scale per token. CLS tokens are 1/N of the numbers, so they are never coded in 8 bits.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from distill.cache.basis import Basis
from distill.contracts import Tokens

Storage = Literal["fp32", "fp16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)

VALID = "valid"
"""One byte a view: 0 where its sample could not be read."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What one view's features are made of. `components` 0 keeps all of `width`."""

    storage: Storage
    num_cls: int
    grid: tuple[int, int]
    width: int
    components: int

    def __post_init__(self) -> None:
        if self.components >= self.width:
            raise ValueError(
                f"teacher.cache_components={self.components}: patches are {self.width} wide, so fewer are kept"
            )

    @property
    def kept(self) -> int:
        return self.components or self.width

    def tensors(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Name to dtype and shape per view."""
        num_patches = self.grid[0] * self.grid[1]
        few = torch.float32 if self.storage == "fp32" else torch.float16
        many = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[self.storage]
        found = {"cls": (few, (self.num_cls, self.width)), "patches": (many, (num_patches, self.kept))}
        if self.storage == "int8":
            found |= {name: (torch.float32, (self.kept,)) for name in ("low", "step")}
        return found | {VALID: (torch.uint8, ())}

    def bytes_per_view(self) -> int:
        return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in self.tensors().values())


def encode(tokens: Tokens, *, layout: Layout, basis: Basis | None) -> dict[str, Tensor]:
    """The tensors of a batch of views, on the CPU. Raises ValueError where fp16 cannot hold a number."""
    patches_BND = tokens.patches.float()
    patches_BNK = patches_BND if basis is None else basis.reduced(patches_BND)
    cls_BCD = tokens.cls.float()
    if layout.storage == "fp32":
        found = {"cls": cls_BCD, "patches": patches_BNK}
    elif layout.storage == "fp16":
        found = {"cls": _half(cls_BCD), "patches": _half(patches_BNK)}
    else:
        found = {"cls": _half(cls_BCD)} | _stepped(patches_BNK)
    valid = torch.ones(len(cls_BCD), dtype=torch.uint8)
    return {name: value.cpu().contiguous() for name, value in found.items()} | {VALID: valid}


def decode(stored: dict[str, Tensor], *, layout: Layout, basis: Basis | None) -> Tokens:
    """Tokens in float32, on the device of `stored`."""
    patches_BNK = stored["patches"].float()
    if layout.storage == "int8":
        patches_BNK = stored["low"][:, None] + patches_BNK * stored["step"][:, None]
    patches_BND = patches_BNK if basis is None else basis.restored(patches_BNK)
    return Tokens(cls=stored["cls"].float(), patches=patches_BND, grid=layout.grid)


def _stepped(patches_BNK: Float[Tensor, "B N K"]) -> dict[str, Tensor]:
    low_BK, high_BK = patches_BNK.amin(dim=1), patches_BNK.amax(dim=1)
    step_BK = (high_BK - low_BK) / 255
    divisor_BK = torch.where(step_BK > 0, step_BK, torch.ones_like(step_BK))
    codes_BNK = ((patches_BNK - low_BK[:, None]) / divisor_BK[:, None]).round().clamp(0, 255)
    return {"patches": codes_BNK.to(torch.uint8), "low": low_BK, "step": step_BK}


def _half(values: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    half = values.half()
    if not bool(half.isfinite().all()):
        raise ValueError(
            f"the teacher's features reach {float(values.abs().max()):g}, more than 16 bits hold (65,504); "
            "use teacher.cache_storage=fp32"
        )
    return half
