"""Fixed views by their keys, made exactly as the loader makes them. Legend: B views, V = side of a view."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.config import Recipe
from distill.data.broken import BrokenSample
from distill.data.fixed import fixed_draws, global_view, num_views
from distill.data.scenes import SceneWorld
from distill.data.sources import DatasetSource, SceneSource
from distill.data.views import crop_tensor, place_crops


class ViewMaker:
    """Pixels of views on a device, and which of them could be read."""

    def __init__(self, source: SceneSource | DatasetSource, recipe: Recipe, *, side: int, device: torch.device):
        """`side` of a view in pixels: the student's, or the larger one of a teacher that sees more of the picture."""
        self.source, self.recipe, self.side, self.device = source, recipe, side, device
        is_larger = isinstance(source, SceneSource) and side > recipe.data.image_size
        self.larger_world = SceneWorld(recipe.data.scenes, side) if is_larger else None
        self.broken: list[BrokenSample] = []

    def make(self, keys: Sequence[int]) -> tuple[Float[Tensor, "B 3 V V"], list[bool]]:
        """Pixels in [0, 1]; black where the sample is broken, which is False in the list."""
        each = torch.tensor(keys)
        samples, views = each // num_views(self.recipe.data), each % num_views(self.recipe.data)
        crops, flips = fixed_draws(samples, views, seed=self.recipe.seed, flip=self.recipe.data.views.flip)
        if isinstance(self.source, SceneSource):
            return self._scenes(samples, crops, flips), [True] * len(keys)
        with ThreadPoolExecutor(self.recipe.run.workers, thread_name_prefix="decode") as pool:
            pictures = list(pool.map(self._photo, samples.tolist(), crops, flips.tolist()))
        black = torch.zeros(3, self.side, self.side, dtype=torch.uint8)
        pixels = torch.stack([black if picture is None else picture for picture in pictures])
        return pixels.to(self.device).float().div_(255), [picture is not None for picture in pictures]

    def _scenes(self, samples: Tensor, crops: Tensor, flips: Tensor) -> Float[Tensor, "B 3 V V"]:
        data = self.recipe.data
        once, places = samples.unique(return_inverse=True)
        if self.larger_world is None:
            pictures = self.source.render(once.to(self.device), device=self.device)
        else:
            pictures = self.larger_world.render(once.to(self.device), device=self.device).pixels
        boxes = place_crops(crops, scale=data.views.global_scale)
        return crop_tensor(pictures[places.to(self.device)], boxes, flips, size=self.side)

    def _photo(self, sample: int, crop: Tensor, flip: bool) -> UInt8[Tensor, "3 V V"] | None:
        data = self.recipe.data
        try:
            read = self.source.read(sample)
            return global_view(read, crop, flip=flip, scale=data.views.global_scale, size=self.side)
        except BrokenSample as error:
            self.broken.append(error)
            return None
