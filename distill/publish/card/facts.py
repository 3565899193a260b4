"""Everything that a card says, gathered before any of it is written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distill.config import Recipe
from distill.encoders.convnet import TimmConvNet
from distill.encoders.text_tips import TipsText
from distill.encoders.vit import TimmViT
from distill.encoders.weights import sha256_of_weights
from distill.publish.card.choice import Choice, choose_for
from distill.publish.card.licences import check_text
from distill.publish.card.measured import Measured, measured, passed_over
from distill.publish.card.provenance import Provenance, provenance
from distill.publish.card.sources import Source, run_summary, sources_of
from distill.publish.formats import timm
from distill.publish.student import Side, Subject
from distill.train.checkpoint import find

OF_A_STUDY = re.compile(r"seed\d+-[0-9a-f]+")
"""What a study calls the folders of its runs."""


@dataclass(frozen=True, kw_only=True)
class Towers:
    """What is published, as it is built."""

    model: str
    """FAMILY:NAME of the image tower's architecture."""
    sizes: dict[str, int]
    """`patch`, in pixels, `width` and `depth`; of a convnet `width` alone."""
    num_cls: int
    is_convnet: bool
    parameters: dict[str, int]
    """Of the towers that exist: `image`, `text`."""
    text: str | None
    """Its family; None without a text tower."""
    context_length: int | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one checkpoint."""

    title: str
    """The run's name."""
    recipe: Recipe
    step: int
    side: Side
    towers: Towers
    sums: dict[str, str]
    """SHA-256 of the checkpoint's files that hold what is published, by name."""
    sources: tuple[Source, ...]
    licence: Choice
    results: list[Measured]
    passed_over: tuple[str, ...]
    """Files of results that an earlier version wrote, relative to the run's folder."""
    stands_on: Provenance | None
    summary: dict[str, Any]
    """What the run wrote when it ended."""

    @property
    def with_text(self) -> bool:
        return self.towers.text is not None

    @property
    def is_distilled(self) -> bool:
        """Whether another encoder taught it; a momentum teacher is the student itself."""
        return self.recipe.teacher.kind != "momentum"

    @property
    def is_taught_teacher(self) -> bool:
        """Whether it is somebody else's model of which parts learnt beside a student."""
        return self.side == "teacher" and self.recipe.teacher.kind == "partial"


def gather(subject: Subject, *, licence: str | None = None, text: str = "", page: Path | None = None) -> Facts:
    """`licence` is what it is published under (None: what its sources ask for), `text` what goes along as LICENSE,
    `page` the recipe page that the run stands on where that does not come with distill.

    Raises ValueError as `find`, `choose_for`, `check_text`, `measured` and `provenance` do.
    """
    found, recipe = find(subject.checkpoint), subject.recipe
    sources, run = sources_of(found.folder), found.folder.resolve().parent.parent
    chosen = choose_for(sources, asked=licence, text=text)
    check_text(chosen.name, has_text=bool(text), sources=chosen.sources)
    return Facts(
        title=recipe.name if OF_A_STUDY.fullmatch(run.name) else run.name,
        recipe=recipe,
        step=found.step,
        side=subject.side,
        towers=towers_of(subject),
        sums={name: sha256_of_weights([found.folder / name]) for name in _files(subject)},
        sources=sources,
        licence=chosen,
        results=measured(found.folder, step=found.step, side=subject.side),
        passed_over=passed_over(found.folder),
        stands_on=provenance(recipe, page),
        summary=run_summary(found.folder),
    )


def towers_of(subject: Subject) -> Towers:
    image, text = subject.image, subject.text
    is_convnet = isinstance(image, TimmConvNet)
    sizes = {} if is_convnet else {"patch": image.patch_size, "depth": image.num_layers}
    of_timm = isinstance(image, TimmViT | TimmConvNet)
    return Towers(
        model=f"timm:{timm.described(image)[0]}" if of_timm else type(image).__name__,
        sizes=sizes | {"width": image.width},
        num_cls=image.num_cls,
        is_convnet=is_convnet,
        parameters={"image": _count(image)} | ({} if text is None else {"text": _count(text)}),
        text=None if text is None else "tips" if isinstance(text, TipsText) else "open_clip",
        context_length=None if text is None else text.context_length,
    )


def _files(subject: Subject) -> Iterator[str]:
    """Of the checkpoint: a momentum teacher is an average of the image tower alone."""
    if subject.side == "teacher":
        yield "teacher.safetensors"
    if subject.side == "student" or (subject.recipe.teacher.kind == "momentum" and subject.text is not None):
        yield "student.safetensors"


def _count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())
