"""Encoders whose answers are known beforehand, for the tests of evaluation.

Legend: B images, N patches, D width, L characters.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distill.contracts import ImageEncoder, TextEncoder, Tokens
from distill.encoders.dual import DualEncoder


class Painted(ImageEncoder):
    """Reads the class that was painted into a picture: red is class / 16, and a patch shows what is most of it."""

    num_cls = 2

    def __init__(self, *, num_classes: int, patch_size: int):
        super().__init__()
        self.width, self.patch_size = num_classes, patch_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        classes = (pixels[:, 0] * 16).round().long().clamp(0, self.width - 1)
        share = nn.functional.one_hot(classes, self.width).permute(0, 3, 1, 2).float()
        patches = nn.functional.avg_pool2d(share, self.patch_size).flatten(2).transpose(1, 2)
        majority = nn.functional.one_hot(patches.argmax(2), self.width).float()
        cls = patches.mean(1, keepdim=True).expand(-1, 2, -1)
        return Tokens(cls=cls.contiguous(), patches=majority, grid=self.grid(*pixels.shape[-2:]))

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        return self(pixels)


class Spoken(TextEncoder):
    """Knows every class name in any sentence: the unit vector of that class."""

    def __init__(self, class_names: list[str]):
        super().__init__()
        self.class_names, self.width = class_names, len(class_names)
        self.table = nn.Parameter(torch.eye(self.width))

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        return torch.tensor([[next(i for i, name in enumerate(self.class_names) if name in text)] for text in texts])

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.table[ids[:, 0]]


class Scrambled(ImageEncoder):
    """A fixed random layer on the pixels of every patch; `values` is another one. Any size of picture."""

    num_cls = 2

    def __init__(self, *, width: int, patch_size: int, seed: int = 0):
        super().__init__()
        self.width, self.patch_size = width, patch_size
        self.final_layer = nn.Conv2d(3, width, patch_size, patch_size)
        self.value_layer = nn.Conv2d(3, width, patch_size, patch_size)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        return self._tokens(self.final_layer(pixels))

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        return self._tokens(self.value_layer(pixels))

    def _tokens(self, maps: Tensor) -> Tokens:
        patches = maps.tanh().flatten(2).transpose(1, 2)
        cls = torch.stack([patches.mean(1), patches.amax(1)], dim=1)
        return Tokens(cls=cls, patches=patches, grid=tuple(maps.shape[-2:]))


class Lettered(TextEncoder):
    """A fixed random vector per letter and place, summed: different sentences, different directions."""

    def __init__(self, *, width: int, seed: int = 1):
        super().__init__()
        self.width = width
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(256, 64, width, generator=generator))

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        return torch.tensor([list(text.encode().ljust(64)[:64]) for text in texts])

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.table[ids, torch.arange(ids.shape[1])].sum(1)


class Listed:
    """A segmentation set of given pictures and labels, of any sizes."""

    def __init__(self, items: list[tuple[Tensor, Tensor]], class_names: list[str], *, ignore: int = 255):
        self.items, self.class_names, self.ignore = items, class_names, ignore

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.items[index]


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def painted(labels: Int[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """The picture that `Painted` understands."""
    return (labels / 16).float().expand(3, -1, -1).contiguous()


def all_knowing(class_names: list[str], *, patch_size: int = 8) -> DualEncoder:
    return DualEncoder(Painted(num_classes=len(class_names), patch_size=patch_size), Spoken(class_names))


def know_nothing(*, width: int = 24, patch_size: int = 7, seed: int = 0) -> DualEncoder:
    return DualEncoder(Scrambled(width=width, patch_size=patch_size, seed=seed), Lettered(width=width, seed=seed + 1))
