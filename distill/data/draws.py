"""Where every random choice of the data comes from: the seed, the step and the position in the global batch.

Nothing here knows ranks, workers or micro-batches, so the same recipe draws the same global batch on any of them.
"""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """A 62-bit seed from any number of parts, the same on every machine and Python version."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 2


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator that depends on nothing but `parts`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


class EpochOrder:
    """The order in which a map-style source of `size` samples is read: a new permutation every epoch.

    Sample number n of the run (step x batch size + position) belongs to epoch n // size. One permutation
    (8 bytes per sample) is kept at a time.
    """

    def __init__(self, size: int, *, seed: int):
        if size < 1:
            raise ValueError("the data set holds no samples")
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def indices(self, first: int, *, count: int) -> Int[Tensor, " B"]:
        """Source indices of the samples with the numbers first .. first + count - 1."""
        parts, number, end = [], first, first + count
        while number < end:
            epoch, place = divmod(number, self.size)
            stop = min(self.size, place + end - number)
            parts.append(self._order_of(epoch)[place:stop])
            number += stop - place
        return torch.cat(parts)

    def views(self, first: int, *, count: int, num_views: int) -> Int[Tensor, " B"]:
        """Which of a sample's `num_views` fixed views these numbers show: epoch modulo their number."""
        return torch.arange(first, first + count) // self.size % num_views

    def replacement(self, number: int, *, attempt: int) -> int:
        """Source index that takes the place of sample `number` after `attempt` broken ones."""
        return derived_seed(self.seed, "replacement", number, attempt) % self.size

    def _order_of(self, epoch: int) -> Int[Tensor, " size"]:
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.size, generator=generator_for(self.seed, "order", epoch))
            self._epoch = epoch
        return self._permutation
