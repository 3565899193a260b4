"""Encoders that are shown real photos: one knows every photo by heart, one draws its features.

Legend: B pictures, P known photos, N patches, (h, w) patch grid, D width, K classes, L tokens.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from distill.contracts import ImageEncoder, TextEncoder, Tokens

SIDE = 12
"""Of the thumbnails by which photos are told apart, pixels."""

Answer = Callable[[int, tuple[int, int]], tuple[Tensor, Tensor]]
"""From a photo's number and the patch grid it is shown on to CLS [D] and patches [h * w, D]."""


def thumbnail(pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
    return nn.functional.adaptive_avg_pool2d(pixels, SIDE).flatten(1)


class ByHeart(ImageEncoder):
    """Recognises a photo by its thumbnail, whatever size it was brought to, and says what is known of it."""

    num_cls = 1

    def __init__(self, photos: Sequence[Float[Tensor, "3 H W"]], answer: Answer, *, width: int, patch_size: int):
        super().__init__()
        self.width, self.patch_size, self.answer = width, patch_size, answer
        self.register_buffer("known_Pd", torch.cat([thumbnail(photo[None]) for photo in photos]))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        grid = self.grid(*pixels.shape[-2:])
        distance_BP = torch.cdist(thumbnail(pixels), self.known_Pd)
        answers = [self.answer(number, grid) for number in distance_BP.argmin(1).tolist()]
        cls, patches = (torch.stack(each) for each in zip(*answers, strict=True))
        return Tokens(cls=cls[:, None], patches=patches, grid=grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        return self(pixels)


class Dictionary(TextEncoder):
    """Knows a vector for every sentence of a list, and 0 for all others."""

    def __init__(self, vectors: dict[str, Float[Tensor, " D"]]):
        super().__init__()
        self.number_of = {text: number for number, text in enumerate(vectors, start=1)}
        rows = torch.stack([*vectors.values()])
        self.width = rows.shape[1]
        self.table = nn.Parameter(torch.cat([torch.zeros_like(rows[:1]), rows]))

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        return torch.tensor([[self.number_of.get(text, 0)] for text in texts])

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.table[ids[:, 0]]


class Drawn(ImageEncoder):
    """Features drawn anew for every picture, from its pixels' digits: nothing in them says what it shows."""

    num_cls = 1

    def __init__(self, *, width: int, patch_size: int):
        super().__init__()
        self.width, self.patch_size = width, patch_size
        self.register_buffer("nothing", torch.zeros(1))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixels: Float[Tensor, "B 3 H W"], hidden: Bool[Tensor, "B N"] | None = None) -> Tokens:
        grid = self.grid(*pixels.shape[-2:])
        rows = torch.stack([drawn(each.numpy().tobytes(), 1 + grid[0] * grid[1], self.width) for each in pixels])
        return Tokens(cls=rows[:, :1], patches=rows[:, 1:], grid=grid)

    def values(self, pixels: Float[Tensor, "B 3 H W"]) -> Tokens:
        return self(pixels)


class DrawnText(TextEncoder):
    """Embeddings drawn anew for every sentence."""

    def __init__(self, *, width: int):
        super().__init__()
        self.width = width
        self.nothing = nn.Parameter(torch.zeros(1))

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        return torch.tensor([[*text.encode().ljust(400)[:400]] for text in texts])

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return torch.cat([drawn(row.numpy().tobytes(), 1, self.width) for row in ids])


def drawn(digits: bytes, *shape: int) -> Tensor:
    """Normal numbers that only these digits bring."""
    seed = int.from_bytes(sha256(digits).digest()[:8], "little", signed=True)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shares(label_HW: Int[Tensor, "H W"], grid: tuple[int, int], *, num_classes: int) -> Float[Tensor, "N K"]:
    """How many pixels of each patch have each class; others than 0 to K - 1 are not counted."""
    return totals(torch.ones_like(label_HW, dtype=torch.double), label_HW, grid, num_classes=num_classes)


def totals(
    value_HW: Float[Tensor, "H W"], label_HW: Int[Tensor, "H W"], grid: tuple[int, int], *, num_classes: int
) -> Float[Tensor, "N K"]:
    """Sums of a value over the pixels of each patch that have each class, without resizing anything."""
    (height, width), (rows, columns) = label_HW.shape, grid
    row_H1 = (torch.arange(height) * rows // height)[:, None]
    column_W = torch.arange(width) * columns // width
    known_HW = (label_HW >= 0) & (label_HW < num_classes)
    bin_HW = (row_H1 * columns + column_W) * num_classes + label_HW
    sums = torch.bincount(bin_HW[known_HW], value_HW[known_HW].double(), minlength=rows * columns * num_classes)
    return sums.view(-1, num_classes)
