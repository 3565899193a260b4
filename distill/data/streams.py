"""Streams dealt out to ranks, shuffled, and resumed exactly.

A stream is cut by shards into lanes, whose number depends on the data and the batch size only. Every global batch
takes the same number of samples from each lane, lane after lane, so ranks that hold contiguous parts of it read
few lanes, and the number of ranks changes nothing but who reads them. (Ranks that share a lane all read its rows;
each decodes only its own pictures.)

A lane is shuffled in blocks: `shuffle_buffer` rows, over all lanes, are read, permuted and handed out before the
next ones are read. Unlike a rolling buffer this needs nothing but the place where the block began to be resumed:
at most one block is read again, and the same samples follow.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from distill.data.draws import derived_seed, generator_for
from distill.data.sources import RowReader, Sample, StreamSource
from distill.data.tables import MAX_LANES

Pick = Callable[[int], Sample]
"""Attempt 0 is the sample itself, later ones what replaces it when it is broken. Raises BrokenSample."""

MAX_EMPTY_EPOCHS = 8


@dataclass(frozen=True)
class Taken:
    """A row handed out by a lane: the block it lies in, its place there, and how to name rows of that block."""

    block: list[dict[str, Any]]
    place: int
    where: str
    first: int

    def name(self, place: int) -> str:
        """For rows that bring no name of their own."""
        return f"{self.where}, row {self.first + place}"


class Lane:
    """One lane of a stream: an endless, block-shuffled sequence of rows."""

    def __init__(self, rows: IterableDataset, *, number: int, seed: int, block_size: int):
        self.rows = rows
        self.number = number
        self.seed = seed
        self.block_size = block_size
        self._epoch = 0
        self._block = -1
        self._start: dict[str, Any] | None = None
        self._offset = 0
        self._held: list[dict[str, Any]] = []
        self._order: list[int] = []
        self._reading = self._read()

    def take(self) -> Taken:
        """The next row."""
        if self._offset == len(self._held):
            self._next_block()
        place = self._order[self._offset]
        self._offset += 1
        where = f"lane {self.number}, epoch {self._epoch}"
        return Taken(self._held, place, where, self._block * self.block_size)

    def state(self) -> dict[str, Any]:
        """JSON-able: the block under way, where it began, and how much of it was handed out."""
        return {"epoch": self._epoch, "block": self._block, "start": self._start, "offset": self._offset}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue after the row that was last taken when `state` was saved."""
        self._epoch, self._start = state["epoch"], state["start"]
        self._reading = self._read(self._start)
        if state["block"] >= 0:
            self._fill(state["block"])
            self._offset = state["offset"]

    def _next_block(self) -> None:
        for _ in range(MAX_EMPTY_EPOCHS):
            # A block is never empty: an epoch that ends on a block's edge leads into the next one.
            self._start = copy.deepcopy(self.rows.state_dict()) if self._block >= 0 else None
            self._fill(self._block + 1)
            if self._held:
                return
            self._epoch, self._block = self._epoch + 1, -1
            self._reading = self._read()
        raise ValueError(f"data.dataset: lane {self.number} of the stream holds no samples")

    def _fill(self, block: int) -> None:
        self._block, self._offset = block, 0
        self._held = list(islice(self._reading, self.block_size))
        order = generator_for(self.seed, "lane", self.number, self._epoch, block)
        self._order = torch.randperm(len(self._held), generator=order).tolist()

    def _read(self, start: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        # An epoch above zero makes `datasets` shuffle the order of the shards, in the same way for every lane.
        self.rows.set_epoch(derived_seed(self.seed, "shards", self._epoch) or 1)
        if start is not None:
            self.rows.load_state_dict(copy.deepcopy(start))
        return iter(self.rows)


class StreamFeed:
    """The part `share` of every global batch of a stream."""

    def __init__(
        self,
        source: StreamSource,
        *,
        seed: int,
        batch_size: int,
        share: slice,
        start_step: int = 0,
        state: dict[str, Any] | None = None,
    ):
        self.reader: RowReader = source.reader
        self.seed = seed
        self.share = share
        self.num_lanes = lane_count(source.rows.num_shards, batch_size=batch_size)
        self.per_lane = batch_size // self.num_lanes
        block_size = -(-source.shuffle_buffer // self.num_lanes)
        numbers = range(share.start // self.per_lane, -(-share.stop // self.per_lane))
        self.lanes = {
            number: Lane(
                split_dataset_by_node(source.rows, rank=number, world_size=self.num_lanes, strategy="shards"),
                number=number,
                seed=seed,
                block_size=block_size,
            )
            for number in numbers
        }
        self._resume(start_step, state)

    def draw(self, step: int) -> list[Pick]:
        """The picks of the next batch. Steps must follow each other: `step` only seeds replacements."""
        picks = []
        for number, lane in self.lanes.items():
            for position in range(number * self.per_lane, (number + 1) * self.per_lane):
                taken = lane.take()
                if self.share.start <= position < self.share.stop:
                    picks.append(self._pick(taken, step=step, position=position))
        return picks

    def state(self) -> dict[str, Any]:
        """JSON-able, for the lanes this rank reads."""
        lanes = {str(number): lane.state() for number, lane in self.lanes.items()}
        return {"num_lanes": self.num_lanes, "lanes": lanes}

    def _pick(self, taken: Taken, *, step: int, position: int) -> Pick:
        """A broken sample is replaced by one of its own block, whatever other ranks and positions do."""

        def pick(attempt: int) -> Sample:
            place = taken.place
            if attempt:
                place = derived_seed(self.seed, "replacement", step, position, attempt) % len(taken.block)
            return self.reader.sample(taken.block[place], name=taken.name(place))

        return pick

    def _resume(self, start_step: int, state: dict[str, Any] | None) -> None:
        if state is not None and state["num_lanes"] != self.num_lanes:
            raise ValueError(
                f"the stream was saved in {state['num_lanes']} lanes and now has {self.num_lanes}: "
                "the shards or the batch size changed"
            )
        saved = {} if state is None else state["lanes"]
        for number, lane in self.lanes.items():
            if str(number) in saved:
                lane.resume(saved[str(number)])
            else:
                # Another rank read this lane before: slower, but the place is the same.
                for _ in range(start_step * self.per_lane):
                    lane.take()


def lane_count(num_shards: int, *, batch_size: int) -> int:
    """The largest divisor of the batch size that is at most the number of shards and MAX_LANES."""
    return max(lanes for lanes in range(1, min(num_shards, MAX_LANES, batch_size) + 1) if batch_size % lanes == 0)
