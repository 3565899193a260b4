"""Running the teacher once over every view. Any number of processes may write one folder at the same time.

Each takes the shards that nobody has and nobody writes; a lock goes with the process that holds it, so whatever is
killed, the same command goes on with the shards that are missing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor

from distill.cache.basis import Basis, Moments, fit_basis
from distill.cache.estimate import NUM_TIMED, Estimate, folder_bytes, size
from distill.cache.identity import identity_of
from distill.cache.index import (
    BASIS,
    INDEX,
    PLAN,
    Index,
    read_index,
    refuse_another,
    refuse_other_storage,
    shard_name,
    write_index,
)
from distill.cache.pixels import ViewMaker
from distill.cache.shards import is_written, remove_sums, write_tensors, written_sum
from distill.cache.storage import VALID, Layout, encode
from distill.compose import load_teacher
from distill.config import Recipe
from distill.contracts import Batch, Tokens
from distill.data.broken import BrokenTally
from distill.data.fixed import num_views
from distill.data.sources import open_source
from distill.encoders.attention import choose_attention

Say = Callable[[str], None]

SHARD_BYTES = 2**26
"""About as large as a shard gets: what a kill costs at most, and one read of the checksum."""
BATCH = 64
"""Views the teacher looks at at once, at most."""
NUM_FITTED = 512
"""Views, spread evenly, whose patches the principal components are fitted to."""
POLL_SECONDS = 0.1


def ensure_cache(recipe: Recipe, *, device: torch.device, precision: str, say: Say) -> None:
    """Leave a finished cache of this recipe in `teacher.cache`, writing what is missing of it.

    Raises ValueError when the folder holds something else: another teacher, transform, data or storage.
    """
    folder = Path(recipe.teacher.cache)
    identity = identity_of(recipe, precision=precision)
    if (folder / INDEX).exists():
        index = read_index(folder / INDEX)
        refuse_another(index.identity, identity, folder=folder)
        settings = recipe.teacher
        refuse_other_storage(
            index.layout, storage=settings.cache_storage, components=settings.cache_components, folder=folder
        )
        return
    writer = Writer(recipe, device=device, precision=precision)
    say(f"teacher cache: {writer.estimate()}, into {folder}")
    looked_at = recipe.optim.steps * recipe.data.batch_size
    if looked_at < writer.index.total:
        say(f"teacher cache: this training looks at {looked_at:,} views only; by itself it were cheaper without")
    writer.write(folder, say=say)


class Writer:
    """The teacher of a recipe on a device, with the views it will look at."""

    def __init__(self, recipe: Recipe, *, device: torch.device, precision: str, shard_bytes: int = SHARD_BYTES):
        """Raises ValueError when teacher or data cannot be loaded."""
        self.recipe, self.device, self.precision = recipe, device, precision
        self.teacher = load_teacher(recipe).to(device)
        if device.type == "cpu":
            choose_attention(self.teacher, bf16=precision == "bf16")
        source = open_source(recipe.data)
        side = max(recipe.data.image_size, self.teacher.image_size)
        self.maker = ViewMaker(source, recipe, side=side, device=device)
        self.tally = BrokenTally()
        self.index = self._index(len(source), shard_bytes)

    def estimate(self) -> Estimate:
        """Bytes follow from shapes; seconds from a few batches that are made and thrown away."""
        return Estimate(self.index.total, folder_bytes(self.index), self._seconds_per_view() * self.index.total)

    def write(self, folder: Path, *, say: Say) -> None:
        """Write what is missing, and the index when nothing is. Raises ValueError for another cache in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        index = self._agreed(folder)
        self._refuse_a_full_disk(folder, index)
        basis = self._basis(folder, index)
        started, written = time.monotonic(), 0
        while missing := [n for n in range(index.num_shards) if not is_written(folder, shard_name(n))]:
            before = written
            for number in missing:
                with _claimed(folder, shard_name(number)) as mine:
                    if mine and not is_written(folder, shard_name(number)):
                        write_tensors(folder, shard_name(number), self._shard(index, number, basis))
                        written += 1
                        seconds = time.monotonic() - started
                        say(f"teacher cache: shard {number + 1} of {index.num_shards} after {seconds:.0f} s")
            if written == before:
                time.sleep(POLL_SECONDS)  # the others write the rest
        self._finish(folder, index)

    def tokens(self, keys: range) -> tuple[Tokens, list[bool]]:
        """What the teacher says about these views, and which of them could be read."""
        pixels, readable = self.maker.make(keys)
        hidden = torch.zeros(len(pixels), 0, dtype=torch.bool, device=self.device)
        batch = Batch(ids=[str(key) for key in keys], pixels=pixels, hidden=hidden, captions=None, local_crops=None)
        bf16 = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            return self.teacher.targets(batch, None).tokens, readable

    def _index(self, num_samples: int, shard_bytes: int) -> Index:
        settings = self.recipe.teacher
        tokens, _ = self.tokens(range(1))
        layout = Layout(
            storage=settings.cache_storage,
            num_cls=tokens.cls.shape[1],
            grid=tokens.grid,
            width=tokens.cls.shape[2],
            components=settings.cache_components,
        )
        total = num_samples * num_views(self.recipe.data)
        return Index(
            identity=identity_of(self.recipe, precision=self.precision),
            layout=layout,
            num_samples=num_samples,
            num_views=num_views(self.recipe.data),
            views_per_shard=max(1, min(total, shard_bytes // layout.bytes_per_view())),
        )

    def _seconds_per_view(self) -> float:
        count = min(BATCH, self.index.total)
        seconds = []
        for _ in range(1 + NUM_TIMED):
            started = time.perf_counter()
            tokens, _ = self.tokens(range(count))
            tokens.cls.cpu()  # waits for the device
            seconds.append(time.perf_counter() - started)
        return sum(seconds[1:]) / NUM_TIMED / count

    def _agreed(self, folder: Path) -> Index:
        """The plan of this folder: the one that is there, with its size of shards, or ours. Raises ValueError."""
        with _lock(folder, PLAN):
            if not (folder / PLAN).exists() and not (folder / INDEX).exists():
                if any(not path.name.startswith(".") for path in folder.iterdir()):
                    raise ValueError(f"{folder} holds other files and no teacher cache: choose another folder")
                write_index(self.index, folder / PLAN)
            there = read_index(folder / (INDEX if (folder / INDEX).exists() else PLAN)).bare()
        refuse_another(there.identity, self.index.identity, folder=folder)
        layout = self.index.layout
        refuse_other_storage(there.layout, storage=layout.storage, components=layout.components, folder=folder)
        return there

    def _refuse_a_full_disk(self, folder: Path, index: Index) -> None:
        there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        needed, free = folder_bytes(index) - there, disk_usage(folder).free
        if needed > free:
            raise ValueError(f"{folder}: the teacher cache needs {size(needed)} more, and {size(free)} are free there")

    def _basis(self, folder: Path, index: Index) -> Basis | None:
        """The principal components, fitted by whoever comes first; None where every channel is kept."""
        if index.layout.components == 0:
            return None
        with _lock(folder, BASIS):
            if not is_written(folder, BASIS):
                moments = Moments(index.layout.width)
                spread = range(0, index.total, -(-index.total // NUM_FITTED))
                for start in range(0, len(spread), BATCH):
                    tokens, readable = self.tokens(spread[start : start + BATCH])
                    moments.add(tokens.patches[readable].flatten(0, 1).float())
                basis, kept = fit_basis(moments, index.layout.components)
                tensors = {"mean": basis.mean, "components": basis.components, "kept_variance": torch.tensor(kept)}
                write_tensors(folder, BASIS, tensors)
        found = load_file(folder / BASIS)
        return Basis(mean=found["mean"], components=found["components"]).to(self.device)

    def _shard(self, index: Index, number: int, basis: Basis | None) -> dict[str, Tensor]:
        """Batches begin with the shard, so its bytes do not depend on who writes it and what was written before."""
        keys, parts = index.keys_of(number), []
        self.maker.broken.clear()
        for start in range(0, len(keys), BATCH):
            tokens, readable = self.tokens(keys[start : start + BATCH])
            part = encode(tokens, layout=index.layout, basis=basis)
            part[VALID] *= torch.tensor(readable, dtype=torch.uint8)
            parts.append(part)
        self.tally.add(num_read=len(keys), broken=self.maker.broken)
        self.tally.check(self.recipe.data.dataset.max_broken_share)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _finish(self, folder: Path, index: Index) -> None:
        with _lock(folder, PLAN):
            if (folder / INDEX).exists():
                return
            shards = tuple(written_sum(folder, shard_name(number)) for number in range(index.num_shards))
            if index.layout.components:
                kept = float(load_file(folder / BASIS)["kept_variance"])
                index = replace(index, basis=written_sum(folder, BASIS), kept_variance=kept)
            write_index(replace(index, shards=shards), folder / INDEX)
            remove_sums(folder)
            (folder / PLAN).unlink()
            for left in folder.glob(".*"):
                if left != folder / f".{PLAN}.lock":
                    left.unlink(missing_ok=True)


def _lock(folder: Path, name: str, *, timeout: float = -1.0) -> FileLock:
    """Never a file that merely exists: such locks outlive whoever is killed."""
    return FileLock(folder / f".{name}.lock", timeout=timeout, fallback_to_soft=False)


@contextmanager
def _claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether the file is ours to write; False while another process writes it."""
    lock = _lock(folder, name, timeout=0.0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
