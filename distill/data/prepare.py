"""One rank's share of one global batch, in two halves: what a background thread can do, and what the device does.

Legend: B images of this rank, N patches, M local crops, C CLS tokens, L caption tokens, V = view side,
T = side of a teacher's own view.

The thread reads, decodes, crops and tokenises. Photos then only have to be moved. Scenes are rendered in the second
half, on the trainer's own thread and device: on an accelerator that is a few kernels in its stream, and on a CPU the
renderer gets the same threads as the rest of the step in place of fighting it for the cores.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from distill.config import Recipe
from distill.contracts import Batch, Lookup
from distill.data.broken import BrokenSample, BrokenTally
from distill.data.captions import CaptionDraw, CaptionReader
from distill.data.draws import EpochOrder
from distill.data.feeds import Feed
from distill.data.fixed import fixed_draws, global_view, key_of, num_views
from distill.data.pictures import load_rgb, open_picture, upright_aspect
from distill.data.plan import StepPlan
from distill.data.scenes import SceneWorld
from distill.data.sources import Sample, SceneSource
from distill.data.streams import Pick
from distill.data.views import crop_picture, crop_tensor, needed_side, place_crops

Tokenize = Callable[[list[str]], Tensor]
Finish = Callable[[torch.device], Batch]

MAX_ATTEMPTS = 100
"""Broken samples in a row, for one position of the batch, before the data is given up."""


class SceneMaker:
    """Batches of the procedural world."""

    def __init__(
        self,
        source: SceneSource,
        recipe: Recipe,
        *,
        tokenize: Tokenize | None,
        share: slice,
        teacher_views: Sequence[int] = (),
        lookup: Lookup | None = None,
    ):
        """`teacher_views`: sides of teachers' own views, pixels. For each the same scene is drawn once more at that
        size; its sensor noise, which is drawn per pixel, is another."""
        self.source, self.recipe, self.tokenize, self.share, self.lookup = source, recipe, tokenize, share, lookup
        self.teacher_worlds = [SceneWorld(recipe.data.scenes, side) for side in teacher_views]
        self.order = EpochOrder(len(source), seed=recipe.seed)

    def prepare(self, step: int, plan: StepPlan) -> Finish:
        first, count = step * self.recipe.data.batch_size + self.share.start, self.share.stop - self.share.start
        indices = self.order.indices(first, count=count)
        shown = self.order.views(first, count=count, num_views=num_views(self.recipe.data))
        crop_draws, flips = plan.crops, plan.flips
        if self.recipe.data.views.fixed:
            crop_draws, flips = fixed_draws(indices, shown, seed=self.recipe.seed, flip=self.recipe.data.views.flip)
        stored = looked_up(self.lookup, indices, shown, num_views=num_views(self.recipe.data))
        captions = tokenised([self._captions(indices, draws) for draws in plan.captions], self.tokenize)

        def finish(device: torch.device) -> Batch:
            pictures = self.source.render(indices.to(device), device=device)
            views, size = self.recipe.data.views, self.recipe.data.image_size
            whole = place_crops(crop_draws, scale=views.global_scale)
            local = place_crops(plan.local_crops, scale=views.local_scale)
            crops = [
                crop_tensor(pictures, boxes, mirrored, size=views.local_size)
                for boxes, mirrored in zip(local, plan.local_flips, strict=True)
            ]
            return Batch(
                ids=[f"scene {index}" for index in indices.tolist()],
                pixels=crop_tensor(pictures, whole, flips, size=size),
                hidden=plan.hidden.to(device),
                captions=None if captions is None else captions.to(device),
                local_crops=torch.stack(crops) if crops else None,
                teacher_pixels=self._teacher_pixels(indices, whole, flips, device),
                stored=_moved(stored, device),
                teacher_draws=None if plan.teacher_draws is None else plan.teacher_draws.to(device),
            )

        return finish

    def state(self) -> None:
        return None

    def _teacher_pixels(
        self, indices: Int[Tensor, " B"], boxes: Float[Tensor, "B 4"], flips: Bool[Tensor, " B"], device: torch.device
    ) -> dict[int, Float[Tensor, "B 3 T T"]]:
        """The same boxes of the same scenes as the student's view."""
        return {
            world.image_size: crop_tensor(
                world.render(indices.to(device), device=device).pixels, boxes, flips, size=world.image_size
            )
            for world in self.teacher_worlds
        }

    def _captions(self, indices: Int[Tensor, " B"], draws: list[CaptionDraw]) -> list[str]:
        texts = [""] * len(draws)
        for kind in sorted({draw.granularity for draw in draws}):
            places = [place for place, draw in enumerate(draws) if draw.granularity == kind]
            for place, text in zip(places, self.source.captions(indices[places], granularity=kind), strict=True):
                texts[place] = text
        return texts


@dataclass(frozen=True)
class Photo:
    """A sample that was read whole, and the broken ones that were tried before it."""

    name: str
    index: int | None
    view: UInt8[Tensor, "3 V V"]
    local_views: list[UInt8[Tensor, "3 v v"]]
    teacher_views: list[UInt8[Tensor, "3 T T"]]
    captions: list[str]
    broken: list[BrokenSample]


class PhotoMaker:
    """Batches of encoded pictures, read and decoded by the threads of `pool`."""

    def __init__(
        self,
        feed: Feed,
        recipe: Recipe,
        *,
        tokenize: Tokenize | None,
        pool: Executor,
        tally: BrokenTally,
        teacher_views: Sequence[int] = (),
        lookup: Lookup | None = None,
    ):
        """`teacher_views`: sides of teachers' own views, pixels, made from the file and not from the student's view.
        Where the file holds no more detail than the student sees, neither does a teacher's view."""
        self.feed, self.recipe, self.tokenize, self.pool, self.tally = feed, recipe, tokenize, pool, tally
        self.teacher_views = tuple(teacher_views)
        self.lookup = lookup
        self.reader = CaptionReader()

    def prepare(self, step: int, plan: StepPlan) -> Finish:
        """Raises ValueError when too many samples are broken."""
        picks, shown = self.feed.draw(step), self._shown(step)
        photos = list(self.pool.map(lambda place: self._read(picks[place], plan, place, shown), range(len(picks))))
        for photo in photos:
            # Counted here, in the batch's order, so that the verdict does not depend on which thread was faster.
            self.tally.add(num_read=1 + len(photo.broken), broken=photo.broken)
        self.tally.check(self.recipe.data.dataset.max_broken_share)
        captions = tokenised([list(texts) for texts in zip(*(p.captions for p in photos), strict=True)], self.tokenize)
        pixels = torch.stack([photo.view for photo in photos])
        local = [torch.stack(views) for views in zip(*(photo.local_views for photo in photos), strict=True)]
        larger = [torch.stack(views) for views in zip(*(photo.teacher_views for photo in photos), strict=True)]
        stored = None
        if shown is not None:
            indices = torch.tensor([photo.index for photo in photos])
            stored = looked_up(self.lookup, indices, shown, num_views=self.recipe.data.views.fixed)

        def finish(device: torch.device) -> Batch:
            return Batch(
                ids=[photo.name for photo in photos],
                pixels=_unit(pixels, device),
                hidden=plan.hidden.to(device),
                captions=None if captions is None else captions.to(device),
                local_crops=_unit(torch.stack(local), device) if local else None,
                teacher_pixels={views.shape[-1]: _unit(views, device) for views in larger},
                stored=_moved(stored, device),
                teacher_draws=None if plan.teacher_draws is None else plan.teacher_draws.to(device),
            )

        return finish

    def state(self) -> dict[str, Any] | None:
        return self.feed.state()

    def _shown(self, step: int) -> Int[Tensor, " B"] | None:
        """Which of its sample's fixed views each place of the batch shows; None where views are new at every step."""
        if self.recipe.data.views.fixed == 0:
            return None
        first = step * self.recipe.data.batch_size + self.feed.share.start
        count = self.feed.share.stop - self.feed.share.start
        return self.feed.order.views(first, count=count, num_views=self.recipe.data.views.fixed)

    def _read(self, pick: Pick, plan: StepPlan, place: int, shown: Int[Tensor, " B"] | None) -> Photo:
        broken: list[BrokenSample] = []
        for attempt in range(MAX_ATTEMPTS):
            try:
                sample = pick(attempt)
                captions = [
                    self.reader.read(sample.captions, kinds[place], name=sample.name) for kinds in plan.captions
                ]
                fixed = None if shown is None else shown[place]
                return Photo(sample.name, sample.index, *self._views(sample, plan, place, fixed), captions, broken)
            except BrokenSample as error:
                broken.append(error)
        examples = "; ".join(str(error) for error in broken[:3])
        raise ValueError(
            f"{MAX_ATTEMPTS} samples in a row were broken, nothing is left to read. For example: {examples}"
        )

    def _views(
        self, sample: Sample, plan: StepPlan, place: int, shown: Int[Tensor, ""] | None
    ) -> tuple[UInt8[Tensor, "3 V V"], list[UInt8[Tensor, "3 v v"]], list[UInt8[Tensor, "3 T T"]]]:
        """The student's view, local crops, and the views teachers get for themselves; `shown`: which fixed view."""
        size = self.recipe.data.image_size
        if shown is None:
            return self._fresh_views(sample, plan, place)
        own = [self._fixed_view(sample, shown, size=side) for side in self.teacher_views]
        return self._fixed_view(sample, shown, size=size), self._local_views(sample, plan, place), own

    def _fresh_views(
        self, sample: Sample, plan: StepPlan, place: int
    ) -> tuple[UInt8[Tensor, "3 V V"], list[UInt8[Tensor, "3 v v"]], list[UInt8[Tensor, "3 T T"]]]:
        """All from one decoding of the picture."""
        views, size = self.recipe.data.views, self.recipe.data.image_size
        picture = open_picture(sample.picture, name=sample.name)
        aspect = upright_aspect(picture, name=sample.name)
        whole = place_crops(plan.crops[place : place + 1], scale=views.global_scale, aspect=aspect)
        local = place_crops(plan.local_crops[:, place], scale=views.local_scale, aspect=aspect)
        largest = max((size, *self.teacher_views))
        side = max(needed_side(whole, size=largest), needed_side(local, size=views.local_size))
        picture = load_rgb(picture, side=side, name=sample.name)
        box, flip = tuple(whole[0].tolist()), bool(plan.flips[place])
        own = [crop_picture(picture, box, flip=flip, size=side) for side in self.teacher_views]
        view = crop_picture(picture, box, flip=flip, size=size)
        return view, self._cut(picture, local, plan.local_flips[:, place]), own

    def _fixed_view(self, sample: Sample, view: Int[Tensor, ""], *, size: int) -> UInt8[Tensor, "3 V V"]:
        views, index = self.recipe.data.views, torch.tensor([sample.index])
        draws, flips = fixed_draws(index, view[None], seed=self.recipe.seed, flip=views.flip)
        return global_view(sample, draws[0], flip=bool(flips[0]), scale=views.global_scale, size=size)

    def _local_views(self, sample: Sample, plan: StepPlan, place: int) -> list[UInt8[Tensor, "3 v v"]]:
        """Local crops beside a fixed view, from a picture decoded once more: they do not concern that view."""
        if not len(plan.local_crops):
            return []
        views = self.recipe.data.views
        picture = open_picture(sample.picture, name=sample.name)
        aspect = upright_aspect(picture, name=sample.name)
        local = place_crops(plan.local_crops[:, place], scale=views.local_scale, aspect=aspect)
        picture = load_rgb(picture, side=needed_side(local, size=views.local_size), name=sample.name)
        return self._cut(picture, local, plan.local_flips[:, place])

    def _cut(
        self, picture: Image.Image, boxes_M4: Float[Tensor, "M 4"], flips_M: Bool[Tensor, " M"]
    ) -> list[UInt8[Tensor, "3 v v"]]:
        size, boxes = self.recipe.data.views.local_size, boxes_M4.tolist()
        return [
            crop_picture(picture, tuple(box), flip=flip, size=size)
            for box, flip in zip(boxes, flips_M.tolist(), strict=True)
        ]


def tokenised(texts: list[list[str]], tokenize: Tokenize | None) -> Int[Tensor, "C B L"] | None:
    """Token ids of [C][B] texts, or None when there are none."""
    if not texts:
        return None
    assert tokenize is not None
    ids = tokenize([text for column in texts for text in column])
    return ids.reshape(len(texts), len(texts[0]), -1)


def looked_up(
    lookup: Lookup | None, samples: Int[Tensor, " B"], views: Int[Tensor, " B"], *, num_views: int
) -> dict[str, Tensor] | None:
    """What a teacher has stored about these views."""
    return None if lookup is None else lookup(key_of(samples, views, num_views=num_views))


def _moved(stored: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor] | None:
    if stored is None:
        return None
    if device.type == "cuda":
        stored = {name: value.pin_memory() for name, value in stored.items()}
    return {name: value.to(device, non_blocking=True) for name, value in stored.items()}


def _unit(pixels: UInt8[Tensor, "*S"], device: torch.device) -> Float[Tensor, "*S"]:
    """8-bit pixels as floats in [0, 1] on the device; a fourth of the bytes cross over."""
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return pixels.to(device, non_blocking=True).float().div_(255)
