"""A finished cache, opened for reading."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from distill.cache.basis import Basis
from distill.cache.index import BASIS, INDEX, read_index, shard_name
from distill.cache.shards import check_size, read_tensors
from distill.cache.storage import VALID, Layout


class Reader:
    """Rows of memory-mapped shards by the keys of views.

    Sizes are compared when it is opened; a shard's sum is verified once per process, when it is first touched. With
    shuffled data that is in the first batches of a run, and costs one pass over the cache.
    """

    def __init__(self, folder: str | Path):
        """Raises ValueError when there is no finished cache, or when a file is missing or was cut."""
        self.folder = Path(folder)
        self.index = read_index(self.folder / INDEX)
        for number, expected in enumerate(self.index.shards):
            check_size(self.folder, shard_name(number), expected)
        self._open: dict[int, dict[str, Tensor]] = {}

    @property
    def layout(self) -> Layout:
        return self.index.layout

    def basis(self) -> Basis | None:
        """Where patches are kept as components."""
        if self.index.basis is None:
            return None
        tensors = read_tensors(self.folder, BASIS, self.index.basis)
        return Basis(mean=tensors["mean"], components=tensors["components"])

    def gather(self, keys: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """Stored tensors of these views, in their order, one row a view.

        Raises ValueError for a shard that was altered, and for a sample that could not be read when the cache was
        written.
        """
        shards, rows = keys // self.index.views_per_shard, keys % self.index.views_per_shard
        kinds = self.layout.tensors()
        found = {name: torch.empty((len(keys), *shape), dtype=dtype) for name, (dtype, shape) in kinds.items()}
        for number in shards.unique().tolist():
            places = (shards == number).nonzero()[:, 0]
            for name, tensor in self._shard(number).items():
                found[name][places] = tensor[rows[places]]
        unread = keys[found.pop(VALID) == 0]
        if len(unread):
            raise ValueError(
                f"sample {int(unread[0]) // self.index.num_views} could not be read when {self.folder} was written, "
                "and now it can: delete the folder to write the cache again"
            )
        return found

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._open:
            self._open[number] = read_tensors(self.folder, shard_name(number), self.index.shards[number])
        return self._open[number]
