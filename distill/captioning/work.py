"""Captioning part by part: what is missing, what cannot be read, and how fast it goes."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from distill.cache.estimate import duration
from distill.captioning.captioner import Captioner, Question
from distill.captioning.pictures import Part, Row
from distill.captioning.prompts import Prompt
from distill.captioning.tables import Captioned, Table
from distill.config import Granularity
from distill.data.broken import BrokenSample
from distill.data.pictures import load_rgb, open_picture

ROWS_PER_SHARD = 512
"""Captions written at a time: what a kill costs at most."""
MAX_SIDE = 1024
"""Pixels. Larger JPEGs may be decoded at a fraction of their size, never below twice this; captioners look at less."""
SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Progress:
    """Counts, and says so now and then."""

    total: int
    done: int = 0
    asked: int = 0
    """Pictures of this start, captioned or not."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """What was not captioned, and why."""
    started: float = field(default_factory=time.monotonic)
    last_said: float = -SECONDS_BETWEEN_LINES

    def say(self, *, now: bool = False) -> None:
        elapsed = time.monotonic() - self.started
        if not now and elapsed - self.last_said < SECONDS_BETWEEN_LINES:
            return
        self.last_said = elapsed
        rate = self.asked / elapsed if elapsed > 0 else 0.0
        left = self.total - self.done - len(self.unreadable)
        ahead = f", {duration(left / rate)} left" if left and rate else ""
        print(f"{self.done:,} of {self.total:,} captioned, {rate:.2f} pictures/s{ahead}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """Who is asked what, and where the answers go."""

    captioner: Captioner
    prompt: Prompt
    column: Granularity
    table: Table
    batch_size: int
    progress: Progress

    def carry_out(self, part: Part) -> None:
        """Write the part's captions shard by shard; on an error or Ctrl-C also those that do not fill a shard."""
        waiting: Captioned = []

        def write() -> None:
            if waiting:
                self.table.add(waiting, part.schema)
                waiting.clear()

        try:
            missing = self._missing(part, waiting)
            while rows := list(islice(missing, self.batch_size)):
                waiting += self._captioned(rows)
                self.progress.say()
                if len(waiting) >= ROWS_PER_SHARD:
                    write()
        finally:
            write()

    def _missing(self, part: Part, waiting: Captioned) -> Iterator[Row]:
        """The rows that want a caption. Those that came with one go to the table as they are."""
        for row in part.rows():
            if row.source in self.table.done:
                self.progress.done += 1
            elif row.values.get(self.column):
                waiting.append((row, row.values[self.column]))
                self.progress.done += 1
            else:
                yield row

    def _captioned(self, rows: list[Row]) -> Captioned:
        """Captions of the rows that can be read and have what the prompt quotes; the others are noted."""
        usable: list[Row] = []
        questions: list[Question] = []
        for row in rows:
            try:
                questions.append(self._question(row))
                usable.append(row)
            except BrokenSample as broken:
                self.progress.unreadable[broken.name] = broken.reason
        texts = self.captioner.captions(questions) if questions else []
        found = list(zip(usable, texts, strict=True))
        self.progress.unreadable |= {row.source: "the captioner wrote nothing" for row, text in found if not text}
        captioned = [(row, text) for row, text in found if text]
        self.progress.asked += len(rows)
        self.progress.done += len(captioned)
        return captioned

    def _question(self, row: Row) -> Question:
        """Raises BrokenSample."""
        lacking = [kind for kind in self.prompt.wanted if kind not in row.captions]
        if lacking:
            raise BrokenSample(row.source, f"it has no {lacking[0]} caption, which the prompt quotes")
        picture = load_rgb(open_picture(row.picture(), name=row.source), side=MAX_SIDE, name=row.source)
        quoted = {kind: self.captioner.without_control(text) for kind, text in row.captions.items()}
        return Question(picture, *self.prompt.around(quoted))
