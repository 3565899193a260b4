"""What a cache will cost, said before it is written."""

from dataclasses import dataclass, replace

from distill.cache.index import Index
from distill.cache.storage import Layout

NUM_TIMED = 3
"""Batches that are timed, after one that warms up."""
HEADER_BYTES = 400
"""Of a shard's own description, and of its lines in the index."""
INDEX_BYTES = 2500


@dataclass(frozen=True)
class Estimate:
    """Of a folder that is written by one process, on the device that was measured."""

    num_views: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.num_views:,} views, {size(self.bytes)}, about {duration(self.seconds)} on one such device"


def folder_bytes(index: Index) -> int:
    """Of the finished folder."""
    layout = index.layout
    described = HEADER_BYTES * index.num_shards + INDEX_BYTES
    basis = 4 * (layout.components + 1) * layout.width if layout.components else 0
    return layout.bytes_per_view() * index.total + described + basis


def with_storage(layout: Layout, **changes: object) -> Layout:
    """The same features stored in another way."""
    return replace(layout, **changes)


def size(count: int) -> str:
    """Bytes for people: 340 B, 12.3 MB, 1.2 TB."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
