"""Samples that cannot be used: named, counted, and fatal when there are too many."""

import logging
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

NUM_NAMED = 20
"""Broken samples that are named in the log and in the summary; the others are counted."""
NUM_TRUSTED = 100
"""Samples after which the share of broken ones is taken at its word: before, bad luck looks like bad data."""


class BrokenSample(Exception):
    """One sample cannot be used. `name` is what finds it again: a file, or a shard and key."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass
class BrokenTally:
    """Samples read and broken so far, in the order of the batch, whatever threads read them."""

    num_read: int = 0
    num_broken: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, *, num_read: int, broken: list[BrokenSample]) -> None:
        """Count `num_read` samples, of which `broken` (some of them new tries for others) were unusable."""
        self.num_read += num_read
        self.num_broken += len(broken)
        for sample in broken:
            if len(self.named) < NUM_NAMED and str(sample) not in self.named:
                self.named.append(str(sample))
                log.warning("broken sample replaced: %s", sample)
                if len(self.named) == NUM_NAMED:
                    log.warning("further broken samples are counted, not named")

    def check(self, max_share: float) -> None:
        """Raise ValueError when more than `max_share` of the samples read so far was broken.

        The share is taken of at least NUM_TRUSTED samples, so that two broken files among the first twenty do
        not end a run that would have found three among the next thousand.
        """
        if self.num_broken > max_share * max(self.num_read, NUM_TRUSTED):
            examples = "; ".join(self.named[:3])
            raise ValueError(
                f"{self.num_broken} of the {self.num_read} samples read so far were broken, more than "
                f"data.dataset.max_broken_share={max_share:g} allows. For example: {examples}. "
                "Repair the data, correct data.dataset.columns, or allow a larger share."
            )

    def summary(self) -> dict[str, Any]:
        """What the run's summary records, JSON-able. `from_summary` reads it back."""
        return {"num_read": self.num_read, "num_broken": self.num_broken, "named": list(self.named)}

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> "BrokenTally":
        return cls(num_read=summary["num_read"], num_broken=summary["num_broken"], named=list(summary["named"]))
