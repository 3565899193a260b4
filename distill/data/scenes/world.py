"""The procedural world behind one class, and its held-out pictures as a segmentation set."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.config import Granularity, Scenes
from distill.data.scenes.captions import write
from distill.data.scenes.contrasts import Contrast, contrasts
from distill.data.scenes.render import Pictures, join, render
from distill.data.scenes.sampling import Parameters, sample
from distill.data.scenes.tiers import TIERS
from distill.data.scenes.vocabulary import COLOUR_NAMES, STUFF, THINGS

Split = Literal["train", "heldout"]
_CPU_PIXELS = 2**20
"""Pixels drawn at once on a CPU: 256 pictures of 64 x 64, the fastest of 32 to 256 tried."""
_DEVICE_PIXELS = 2**22
"""Pixels drawn at once on other devices: one float32 plane of them takes 16 MiB, and some 40 live at once."""


class SceneWorld:
    """Pictures, masks and captions as pure functions of (world seed, tier, split, index).

    `class_names` lists the things in play, then the textures in play; masks index it. Training indices are
    [0, num_train); held-out pictures have their own random stream and any index from 0 on.
    """

    def __init__(self, settings: Scenes, image_size: int):
        if not 8 <= image_size <= 4096:
            raise ValueError(f"image_size={image_size}: expected 8 to 4096 pixels")
        self.settings = settings
        self.image_size = image_size
        self.tier = TIERS[settings.tier]
        self.num_things = self.tier.num_thing_classes
        kinds = THINGS[: self.num_things] + STUFF[: self.tier.num_stuff_classes]
        self.class_names: list[str] = [kind.name for kind in kinds]
        self.colours: list[str] = list(COLOUR_NAMES)

    def parameters(self, indices: Int[Tensor, " B"], split: Split) -> Parameters:
        """What is in the pictures, as tensors on the CPU."""
        rows = np.asarray(indices.cpu(), dtype=np.int64)
        if len(rows) and rows.min() < 0:
            raise ValueError(f"picture index {rows.min()} is negative")
        if len(rows) and split == "train" and rows.max() >= self.settings.num_train:
            raise ValueError(
                f"picture index {rows.max()} is not below num_train={self.settings.num_train}: "
                "take training indices modulo num_train"
            )
        return sample(
            rows,
            tier=self.tier,
            world_seed=self.settings.world_seed,
            split=split,
            compositional=self.settings.split == "compositional",
        )

    def render(
        self,
        indices: Int[Tensor, " B"],
        split: Split = "train",
        device: torch.device | str = "cpu",
        geometry: bool = False,
    ) -> Pictures:
        """Draw pictures on the device; depth and normals only with `geometry`."""
        device = torch.device(device)
        at_once = _CPU_PIXELS if device.type == "cpu" else _DEVICE_PIXELS
        chunk = max(1, at_once // self.image_size**2)
        parts = [
            render(
                self.parameters(part, split),
                size=self.image_size,
                num_things=self.num_things,
                device=device,
                geometry=geometry,
            )
            for part in indices.split(chunk)
        ]
        return join(parts)

    def captions(self, indices: Int[Tensor, " B"], granularity: Granularity, split: Split = "train") -> list[str]:
        """One caption per picture: noisy `alt`, `short`, or `detailed`."""
        return write(
            self.parameters(indices, split),
            granularity,
            indices=np.asarray(indices.cpu(), dtype=np.int64),
            world_seed=self.settings.world_seed,
            split=split,
        )

    def contrasts(self, indices: Int[Tensor, " B"], split: Split = "train") -> list[list[Contrast]]:
        """Each picture's detailed caption beside ones that are wrong in one detail (`contrasts.contrasts`)."""
        return contrasts(
            self.parameters(indices, split),
            indices=np.asarray(indices.cpu(), dtype=np.int64),
            world_seed=self.settings.world_seed,
            split=split,
            num_things=self.num_things,
        )


class SceneSegmentation:
    """The first `num_images` held-out pictures with a class id in every pixel; no pixel is ignored."""

    ignore = 255

    def __init__(self, world: SceneWorld, num_images: int):
        self.world = world
        self.class_names = world.class_names
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        pixels, mask = self.batch(index, index + 1)
        return pixels[0], mask[0]

    def batch(
        self, start: int, stop: int, device: torch.device | str = "cpu"
    ) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B H W"]]:
        """Pixels and masks of pictures [start, stop), cut at the set's end."""
        drawn = self.world.render(self._indices(start, stop), "heldout", device)
        return drawn.pixels, drawn.mask

    def captions(self, granularity: Granularity) -> list[str]:
        """One caption per picture of the set."""
        return self.world.captions(self._indices(0, len(self)), granularity, "heldout")

    def _indices(self, start: int, stop: int) -> Tensor:
        if not 0 <= start < stop:
            raise ValueError(f"batch({start}, {stop}): expected 0 <= start < stop")
        return torch.arange(start, min(stop, len(self)))
