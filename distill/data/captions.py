"""Which caption every CLS token reads, per picture and step.

Legend: C CLS tokens, B images. CLS 1 reads the web caption, CLS 2 a synthetic one; texts are
sampled uniformly from their sources (tipsv2.md 2, Table 13).
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from distill.config import Contrastive, Granularity
from distill.data.broken import BrokenSample

log = logging.getLogger(__name__)

FALLBACK: dict[Granularity, tuple[Granularity, ...]] = {
    "alt": ("short", "detailed"),
    "short": ("detailed", "alt"),
    "detailed": ("short", "alt"),
}
"""What is read, in this order, where a sample has no caption of the wanted kind."""


@dataclass(frozen=True)
class CaptionDraw:
    """What one CLS token reads of one picture: the kind, and a number in [0, 1) that picks among several."""

    granularity: Granularity
    pick: float


def draw_captions(
    count: int, *, settings: Contrastive, num_cls: int, generator: torch.Generator, keep: slice = slice(None)
) -> list[list[CaptionDraw]]:
    """The choices for the pictures `keep` of a global batch of `count`, [C][B].

    With one CLS token only `settings.first` is read. The draw does not depend on `keep`.
    """
    chosen = []
    for kinds in (settings.first, settings.second)[:num_cls]:
        kind_B = torch.randint(len(kinds), (count,), generator=generator)[keep].tolist()
        pick_B = torch.rand(count, generator=generator)[keep].tolist()
        chosen.append([CaptionDraw(kinds[kind], pick) for kind, pick in zip(kind_B, pick_B, strict=True)])
    return chosen


class CaptionReader:
    """Picks captions, and says once per kind when a sample lacks the wanted one and another is read instead."""

    def __init__(self) -> None:
        self._warned: set[Granularity] = set()
        self._lock = threading.Lock()

    def read(self, captions: Mapping[Granularity, Sequence[str]], draw: CaptionDraw, *, name: str) -> str:
        """The drawn caption of the sample `name`, of the next kind in FALLBACK where the wanted one is absent.

        Raises BrokenSample when there is no caption of any kind, or when the one to be read is empty: absent
        means that nobody wrote one, empty that something went wrong.
        """
        for kind in (draw.granularity, *FALLBACK[draw.granularity]):
            if kind in captions:
                break
        else:
            raise BrokenSample(name, "it has no caption")
        if kind != draw.granularity:
            self._warn_once(draw.granularity, kind)
        texts = [text for text in captions[kind] if text.strip()]
        if not texts:
            raise BrokenSample(name, f"its {kind!r} caption is empty")
        return texts[min(int(draw.pick * len(texts)), len(texts) - 1)].strip()

    def _warn_once(self, wanted: Granularity, instead: Granularity) -> None:
        with self._lock:
            if wanted not in self._warned:
                self._warned.add(wanted)
                log.warning("some samples have no %r caption; their %r caption is read instead", wanted, instead)
