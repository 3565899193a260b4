"""From a source to the rank's share of each global batch: rows by index, or rows of a stream."""

from typing import Any

from distill.data.draws import EpochOrder
from distill.data.sources import DatasetSource, Sample, StreamSource
from distill.data.streams import Pick, StreamFeed


class MapFeed:
    """The part `share` of every global batch of a map-style source. Its place is the step alone."""

    def __init__(self, source: DatasetSource, *, seed: int, batch_size: int, share: slice):
        self.source = source
        self.order = EpochOrder(len(source), seed=seed)
        self.batch_size = batch_size
        self.share = share

    def draw(self, step: int) -> list[Pick]:
        first = step * self.batch_size + self.share.start
        indices = self.order.indices(first, count=self.share.stop - self.share.start).tolist()
        return [self._pick(index, number=first + place) for place, index in enumerate(indices)]

    def state(self) -> None:
        return None

    def _pick(self, index: int, *, number: int) -> Pick:
        def pick(attempt: int) -> Sample:
            chosen = self.order.replacement(number, attempt=attempt) if attempt else index
            return self.source.read(chosen)

        return pick


Feed = MapFeed | StreamFeed
"""Picks of one rank, step after step (`draw`), and where it stands (`state`)."""


def open_feed(
    source: DatasetSource | StreamSource,
    *,
    seed: int,
    batch_size: int,
    share: slice,
    start_step: int,
    state: dict[str, Any] | None,
) -> Feed:
    """The feed that continues at `start_step`; `state` is what a stream's feed said after the step before it."""
    if isinstance(source, DatasetSource):
        return MapFeed(source, seed=seed, batch_size=batch_size, share=share)
    return StreamFeed(source, seed=seed, batch_size=batch_size, share=share, start_step=start_step, state=state)
