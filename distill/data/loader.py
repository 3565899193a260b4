"""Batches for one rank, prepared ahead in the background.

What a batch holds follows from the recipe, the step and the rank's place in the global batch. Threads, prefetching
and the number of ranks change when it is made and by whom, never what is in it; resuming is a matter of the step
and, for streams, of the state that belongs to the last batch handed out.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from distill.config import Recipe
from distill.contracts import Batch, Lookup
from distill.data.broken import BrokenTally
from distill.data.feeds import open_feed
from distill.data.plan import plan_step, reads_captions
from distill.data.prepare import Finish, PhotoMaker, SceneMaker, Tokenize
from distill.data.sources import SceneSource, Source

STATE_FORMAT = 1
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _Prepared:
    """A batch that waits for the device, and the state after it."""

    finish: Finish
    state: dict[str, Any]


class BatchStream:
    """Iterates over this rank's `Batch` of the steps `start_step` .. `recipe.optim.steps` - 1.

    `grid` is the (rows, columns) of patches of the student's global view. `tokenize` may be None when no text is
    read. `teacher_views` are the sides in pixels of views of the same part of the picture that teachers get for
    themselves. `state` is the `state_dict()` of a stream that stopped before `start_step`, of this rank or of all of
    them (`merge_states`); without it a streamed source is read from its beginning up to that step. `lookup` is the
    teacher's, called in the background with the keys of every batch's fixed views. Raises ValueError for a batch that
    does not split into ranks, for captions the data does not have, and, from the iteration, for data with too many
    broken samples. `close()` ends the threads; so does reaching the last step.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        source: Source,
        grid: tuple[int, int],
        tokenize: Tokenize | None,
        rank: int,
        world: int,
        device: torch.device | str,
        teacher_views: Sequence[int] = (),
        start_step: int = 0,
        state: dict[str, Any] | None = None,
        lookup: Lookup | None = None,
    ):
        _check(recipe, source, tokenize=tokenize, world=world, start_step=start_step, state=state)
        self.recipe = recipe
        self.device = torch.device(device)
        self.wait_seconds = 0.0
        """Time the consumer has spent in `next()` so far, rendering of scenes included."""
        self._grid, self._teacher_views, self._lookup = grid, tuple(teacher_views), lookup
        per_rank = recipe.data.batch_size // world
        self._share = slice(rank * per_rank, (rank + 1) * per_rank)
        self._step = start_step
        # Counts before a resume are taken over once, by the first rank.
        restored = state is not None and rank == 0
        self._tally = BrokenTally.from_summary(state["broken"]) if restored else BrokenTally()
        self._pool = ThreadPoolExecutor(recipe.run.workers, thread_name_prefix="decode")
        self._maker = self._open(source, tokenize, start_step, None if state is None else state["stream"])
        self._state = self._state_after(start_step)
        self._ready: queue.Queue[_Prepared | BaseException] = queue.Queue(maxsize=recipe.run.prefetch)
        self._stopped = threading.Event()
        self._producer = threading.Thread(target=self._produce, args=(start_step,), name="batches", daemon=True)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._step >= self.recipe.optim.steps or self._stopped.is_set():
            self.close()
            raise StopIteration
        start = time.perf_counter()
        if self._producer.ident is None:
            self._producer.start()
        prepared = self._ready.get()
        if isinstance(prepared, BaseException):
            self.close()
            raise prepared
        batch = prepared.finish(self.device)
        self._step, self._state = self._step + 1, prepared.state
        self.wait_seconds += time.perf_counter() - start
        return batch

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: where the batch after the last one handed out begins. Batches made ahead do not count."""
        return self._state

    @property
    def broken(self) -> BrokenTally:
        """Samples read and broken up to the last batch handed out."""
        return BrokenTally.from_summary(self._state["broken"])

    def close(self) -> None:
        """End the threads. Batches made ahead are dropped."""
        self._stopped.set()
        if self._producer.ident is not None:
            self._producer.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _open(
        self, source: Source, tokenize: Tokenize | None, start_step: int, stream_state: dict[str, Any] | None
    ) -> SceneMaker | PhotoMaker:
        if isinstance(source, SceneSource):
            return SceneMaker(
                source,
                self.recipe,
                tokenize=tokenize,
                share=self._share,
                teacher_views=self._teacher_views,
                lookup=self._lookup,
            )
        feed = open_feed(
            source,
            seed=self.recipe.seed,
            batch_size=self.recipe.data.batch_size,
            share=self._share,
            start_step=start_step,
            state=stream_state,
        )
        return PhotoMaker(
            feed,
            self.recipe,
            tokenize=tokenize,
            pool=self._pool,
            tally=self._tally,
            teacher_views=self._teacher_views,
            lookup=self._lookup,
        )

    def _state_after(self, step: int) -> dict[str, Any]:
        broken = self._tally.summary()
        return {"format": STATE_FORMAT, "step": step, "stream": self._maker.state(), "broken": broken}

    def _produce(self, start_step: int) -> None:
        try:
            for step in range(start_step, self.recipe.optim.steps):
                plan = plan_step(self.recipe, step=step, grid=self._grid, share=self._share)
                finish = self._maker.prepare(step, plan)
                if not self._hand_over(_Prepared(finish, self._state_after(step + 1))):
                    return
        except BaseException as error:  # Whatever it is, the consumer must see it, not wait for ever.
            self._hand_over(error)

    def _hand_over(self, item: _Prepared | BaseException) -> bool:
        """Put into the queue; False when nobody will take it any more."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """One state for all ranks from the `state_dict()` of each: resumes on any number of ranks."""
    steps = {state["step"] for state in states}
    if len(steps) != 1:
        raise ValueError(f"the states belong to different steps: {sorted(steps)}")
    tally = BrokenTally()
    for state in states:
        part = BrokenTally.from_summary(state["broken"])
        tally.num_read += part.num_read
        tally.num_broken += part.num_broken
        tally.named += [name for name in part.named if name not in tally.named]
    stream = states[0]["stream"]
    if stream is not None:
        stream = stream | {
            "lanes": {number: lane for state in states for number, lane in state["stream"]["lanes"].items()}
        }
    return states[0] | {"stream": stream, "broken": tally.summary()}


def _check(
    recipe: Recipe,
    source: Source,
    *,
    tokenize: Tokenize | None,
    world: int,
    start_step: int,
    state: dict[str, Any] | None,
) -> None:
    if recipe.data.batch_size % world:
        raise ValueError(f"data.batch_size={recipe.data.batch_size} does not split into {world} ranks")
    if reads_captions(recipe):
        assert tokenize is not None, "the recipe reads captions, so it has a tokeniser"
        if not source.granularities:
            raise ValueError(
                "the contrastive loss reads captions, and the data set names none: set data.dataset.columns.alt, "
                "short or detailed, or data.dataset.captions_file; or set objective.contrastive.weight=0"
            )
    if state is not None and (state["format"], state["step"]) != (STATE_FORMAT, start_step):
        raise ValueError(
            f"the data state is of format {state['format']} and step {state['step']}, "
            f"expected format {STATE_FORMAT} and step {start_step}"
        )
