"""Everything that is measured about training steps: time, phases, memory and FLOPs of several cases at once."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from benchmarks.cases import Case, Held
from benchmarks.meter import Spent, Work, count_flops, interleaved, peak_bytes, spend

PHASES = ("student forward", "teacher", "objective", "backward", "optimiser and clip", "follow", "rest")
"""`objective` holds the gradient of the prototype head too, which the loss computes in its forward pass. `rest`:
autocast, schedules, clamping of temperatures."""


@dataclass(frozen=True)
class Flops:
    """Of one step, of the towers in it, and of the towers with plain heads."""

    step: int
    towers: int
    with_heads: int


@dataclass(frozen=True)
class Bare:
    """Rounds of the passes a step is compared with, the most memory they add, and the step's phases in seconds."""

    towers: list[Spent]
    with_heads: list[Spent]
    peak: int
    phases: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """One case. `peak` bytes are beyond `held`. Steps of micro-batches have no bare passes of their own."""

    name: str
    batch_size: int
    draw: list[Spent]
    step: list[Spent]
    held: Held
    peak: int
    flops: Flops
    bare: Bare | None


@dataclass(frozen=True)
class MeasuredWork:
    rounds: list[Spent]
    peak: int


def measure_cases(cases: list[Case], *, repeats: int) -> list[Measured]:
    """Warm every case up while counting its FLOPs, look at its memory, then time all of them round by round."""
    device = cases[0].device
    flops = {case.name: _flops(case) for case in cases}
    peaks = {case.name: peak_bytes(case.step, device) for case in cases}
    works: dict[str, Work] = {}
    for case in cases:
        works |= {f"{case.name}/step": case.step, f"{case.name}/draw": case.draw}
        if in_one_piece(case):
            works |= {f"{case.name}/bare": case.bare, f"{case.name}/heads": case.bare_with_heads}
    rounds = interleaved(works, repeats=repeats, device=device)
    return [
        Measured(
            name=case.name,
            batch_size=case.recipe.data.batch_size,
            draw=rounds[f"{case.name}/draw"],
            step=rounds[f"{case.name}/step"],
            held=case.held(),
            peak=peaks[case.name],
            flops=flops[case.name],
            bare=_bare(case, rounds) if in_one_piece(case) else None,
        )
        for case in cases
    ]


def in_one_piece(case: Case) -> bool:
    return case.recipe.optim.accumulate == 1


def _bare(case: Case, rounds: dict[str, list[Spent]]) -> Bare:
    towers = rounds[f"{case.name}/bare"]
    return Bare(
        towers=towers,
        with_heads=rounds[f"{case.name}/heads"],
        peak=peak_bytes(case.bare, case.device),
        phases=_phases(case, repeats=max(1, len(towers) // 2)),
    )


def measure_works(works: dict[str, Work], *, repeats: int, device: torch.device) -> dict[str, MeasuredWork]:
    """Time and peak memory of works that belong to no recipe; the look at memory warms them up."""
    peaks = {name: peak_bytes(work, device) for name, work in works.items()}
    rounds = interleaved(works, repeats=repeats, device=device)
    return {name: MeasuredWork(rounds=rounds[name], peak=peaks[name]) for name in works}


def _flops(case: Case) -> Flops:
    """Counted without torch.compile, which hides the operations. Warms the case up."""
    if not case.recipe.compile:
        return Flops(
            step=count_flops(case.step),
            towers=count_flops(case.bare) if in_one_piece(case) else 0,
            with_heads=count_flops(case.bare_with_heads) if in_one_piece(case) else 0,
        )
    for work in (case.step, *((case.bare, case.bare_with_heads) if in_one_piece(case) else ())):
        work()
    eager = Case(case.name, replace(case.recipe, compile=False), run=case.run / "eager", accelerator=case.accelerator)
    try:
        return _flops(eager)
    finally:
        eager.close()


def _phases(case: Case, *, repeats: int) -> dict[str, float]:
    seen = [phase_seconds(case) for _ in range(repeats)]
    return {phase: statistics.median(one[phase] for one in seen) for phase in PHASES}


def phase_seconds(case: Case) -> dict[str, float]:
    """Seconds per phase of one step in one piece, on the clock of `Spent.on`. On a GPU every phase is waited for."""
    training, parts = case.training, case.training.parts
    calls = [
        ("student forward", training.model, "forward"),
        ("teacher", parts.teacher, "targets"),
        ("objective", parts.objective, "forward"),
        ("objective", parts.objective, "step"),
        ("backward", case.accelerator, "backward"),
        ("optimiser and clip", case.accelerator, "clip_grad_norm_"),
        ("optimiser and clip", training.optimizer, "step"),
        ("optimiser and clip", training.optimizer, "zero_grad"),
        ("follow", parts.teacher, "follow"),
    ]
    seen = dict.fromkeys(PHASES, 0.0)
    with ExitStack() as stack:
        for phase, thing, method in calls:
            stack.enter_context(_watched(case, thing, method, lambda seconds, phase=phase: _add(seen, phase, seconds)))
        whole = spend(case.step, case.device).on(case.device)
    seen["rest"] = max(0.0, whole - sum(seen.values()))
    return seen


def _add(seen: dict[str, float], phase: str, seconds: float) -> None:
    seen[phase] += seconds


@contextmanager
def _watched(case: Case, thing: object, method: str, add: Callable[[float], None]) -> Iterator[None]:
    """Hand the seconds of every call of `thing.method` to `add`, by an attribute of this one object."""
    own = vars(thing).get(method)
    call = getattr(thing, method)

    def timed(*arguments: object, **options: object) -> object:
        result = []
        add(spend(lambda: result.append(call(*arguments, **options)), case.device).on(case.device))
        return result[0]

    setattr(thing, method, timed)
    try:
        yield
    finally:
        if own is None:
            delattr(thing, method)
        else:
            setattr(thing, method, own)
