"""Clocks, memory and FLOPs of one piece of work, on a CPU or a GPU.

Repetitions of several works are interleaved (A, B, A, B, ...), so that a machine that slows down slows all of them,
and ratios are taken within a round.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Work = Callable[[], object]


@dataclass(frozen=True)
class Spent:
    """Seconds of one piece of work: on the wall, and of all threads of this process on processors."""

    wall: float
    cpu: float

    def on(self, device: torch.device) -> float:
        """The seconds that compare: processor time on a CPU, which other processes hardly touch; else the wall's."""
        return self.cpu if device.type == "cpu" else self.wall


@dataclass(frozen=True)
class Ratio:
    """Median, smallest and largest ratio of two works over the rounds."""

    median: float
    low: float
    high: float


def spend(work: Work, device: torch.device) -> Spent:
    """Time one call, to the end of what it left running on a GPU."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Spent(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def interleaved(works: dict[str, Work], *, repeats: int, device: torch.device) -> dict[str, list[Spent]]:
    """`repeats` rounds in which every work is called once, in order. Nothing is warmed up here."""
    seen: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seen[name].append(spend(work, device))
    return seen


def middle(rounds: list[Spent]) -> Spent:
    """Medians of both clocks."""
    return Spent(wall=statistics.median(s.wall for s in rounds), cpu=statistics.median(s.cpu for s in rounds))


def ratio(work: list[Spent], base: list[Spent], device: torch.device) -> Ratio:
    """How many times as long `work` takes as `base` did in the same round."""
    ratios = [one.on(device) / other.on(device) for one, other in zip(work, base, strict=True)]
    return Ratio(median=statistics.median(ratios), low=min(ratios), high=max(ratios))


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most memory that one call holds beyond what was held before it, to the byte.

    On a GPU from its allocator's own record. On a CPU from the profiler's list of allocations; scratch space that
    oneDNN keeps to itself is not in it.
    """
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]) for event in events if event.get("name") == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change["Bytes"]
        peak = max(peak, held)
    return peak


def count_flops(work: Work) -> int:
    """Floating-point operations of the matrix products and attention of one call; a multiply-add is two."""
    counter = _FlopCounter()
    with counter:
        work()
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """torch's own formulas without its FlopCounterMode, which fails on the autograd.grad inside the patch loss."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        result = operation(*arguments, **options)
        # torch counts `addmm` and forgets `addmm_`, which adds up the prototypes' gradients.
        kind = operation._overloadpacket
        formula = flop_registry.get(torch.ops.aten.addmm if kind is torch.ops.aten.addmm_ else kind)
        if formula is not None:
            self.total += formula(*arguments, **options, out_val=result)
        return result


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
