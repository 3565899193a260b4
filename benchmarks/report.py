"""Measurements as tables. Times are seconds of `Spent.on`: of processors on a CPU, of the wall on a GPU."""

from dataclasses import asdict
from typing import Any

import torch

from benchmarks.kernels import AttentionSizes, PatchSizes
from benchmarks.measure import PHASES, Measured, MeasuredWork
from benchmarks.meter import Ratio, Spent, middle, ratio
from benchmarks.record import Table


def steps(cases: list[Measured], title: str, device: torch.device) -> list[Table]:
    """Speed and memory, overhead, phases: three tables of the same cases."""
    return [_speed(cases, title, device), _overhead(cases, title, device), _phases(cases, title, device)]


def _speed(cases: list[Measured], title: str, device: torch.device) -> Table:
    rows, numbers = [], {}
    for case in cases:
        step, draw = middle(case.step), middle(case.draw)
        per_wall, per_cpu = case.batch_size / step.wall, case.batch_size / step.cpu
        whole = case.held.total + case.peak
        rows.append(
            [
                case.name,
                f"{per_wall:.1f}",
                f"{per_cpu:.1f}",
                _seconds(step.wall),
                _seconds(step.cpu),
                _seconds(draw.cpu),
                _size(case.held.total),
                _size(case.peak),
                _size(whole),
            ]
        )
        numbers[case.name] = {
            "images_per_second": per_wall,
            "images_per_cpu_second": per_cpu,
            "step": _rounds(case.step),
            "draw": _rounds(case.draw),
            "held_bytes": asdict(case.held),
            "peak_bytes_beyond_held": case.peak,
            "flops": case.flops.step,
        }
    note = (
        "Steps on a batch that is ready; `draw` makes one, in the background of a real run. Held: parameters, teacher "
        "and optimiser between two steps; peak: what one step adds (activations, gradients, targets)."
    )
    columns = ["case", "images/s", "images/CPU-s", "step s", "step CPU-s", "draw CPU-s", "held", "peak +", "together"]
    return Table(f"{title}: speed and memory", note, columns, rows, numbers)


def _overhead(cases: list[Measured], title: str, device: torch.device) -> Table:
    rows, numbers = [], {}
    for case in cases:
        if case.bare is None:
            continue
        towers, heads = ratio(case.step, case.bare.towers, device), ratio(case.step, case.bare.with_heads, device)
        rows.append(
            [
                case.name,
                _seconds(middle(case.bare.towers).on(device)),
                _seconds(middle(case.bare.with_heads).on(device)),
                _seconds(middle(case.step).on(device)),
                _more(towers),
                _percent(case.flops.step / case.flops.towers),
                _more(heads),
                f"{case.peak / case.bare.peak:.2f}×",
                f"{case.flops.step / 1e9:,.4g}",
            ]
        )
        numbers[case.name] = {
            "bare": _rounds(case.bare.towers),
            "bare_with_heads": _rounds(case.bare.with_heads),
            "step_over_towers": asdict(towers),
            "step_over_towers_with_heads": asdict(heads),
            "flops": asdict(case.flops),
            "bare_peak_bytes_beyond_held": case.bare.peak,
        }
    note = (
        "Bare: forward and backward of the same towers on the same inputs, the teacher's pass included, no loss. With "
        "heads: projection heads and prototype scores of both sides as plain layers on top. Overheads are medians of "
        "ratios within a round (smallest to largest); `by FLOPs` is what the method's own arithmetic adds to the "
        "towers, however it is written."
    )
    columns = [
        "case",
        "bare s",
        "with heads s",
        "step s",
        "over towers",
        "by FLOPs",
        "over towers and heads",
        "peak over towers",
        "GFLOP/step",
    ]
    return Table(f"{title}: overhead of the step", note, columns, rows, numbers)


def _phases(cases: list[Measured], title: str, device: torch.device) -> Table:
    rows, numbers = [], {}
    for case in cases:
        if case.bare is None:
            continue
        seconds = {"data": middle(case.draw).on(device)} | case.bare.phases
        whole = sum(seconds.values())
        rows.append([case.name, *(f"{part / whole:.1%}" for part in seconds.values())])
        numbers[case.name] = seconds
    note = (
        "Shares of data and step together. The objective includes the gradient of the prototype head, which it "
        "computes at once; backward is mostly the towers'."
    )
    return Table(f"{title}: where the time goes", note, ["case", "data", *PHASES], rows, numbers)


def copies(full: Measured, head: Measured, device: torch.device) -> Table:
    """Head-only EMA against full EMA. Parameters are of image encoder and heads, the student's and the teacher's."""
    faster = ratio(head.step, full.step, device)
    rows, numbers = [], {}
    for case in (full, head):
        held = case.held
        whole = held.student_parameters + held.teacher_parameters
        rows.append(
            [
                case.name,
                f"{held.student_parameters / 1e6:.2f} M",
                f"{held.teacher_parameters / 1e6:.2f} M",
                f"{whole / 1e6:.2f} M",
                _size(held.total),
                _size(held.total + case.peak),
                _seconds(middle(case.step).on(device)),
            ]
        )
        numbers[case.name] = {"parameters": whole, "held_bytes": held.total, "peak_bytes": held.total + case.peak}
    saved = 1 - numbers[head.name]["parameters"] / numbers[full.name]["parameters"]
    numbers["head_over_full"] = {"parameters_saved": saved, "step": asdict(faster)}
    note = f"Head-only EMA holds {saved:.1%} fewer parameters; its step takes {_times(faster)} of the full one's time."
    columns = ["case", "student", "teacher", "both", "held", "peak in all", "step s"]
    return Table("Head-only EMA against full EMA (image encoder and heads)", note, columns, rows, numbers)


def accumulation(one: Measured, four: Measured, device: torch.device) -> Table:
    """One pass over the batch against four micro-batches with the same result."""
    slower = ratio(four.step, one.step, device)
    rows = [
        [
            case.name,
            _seconds(middle(case.step).on(device)),
            _size(case.peak),
            _size(case.held.total + case.peak),
            f"{case.flops.step / 1e9:,.4g}",
        ]
        for case in (one, four)
    ]
    numbers = {case.name: {"step": _rounds(case.step), "peak_bytes_beyond_held": case.peak} for case in (one, four)}
    numbers["four_over_one"] = {"step": asdict(slower), "peak": four.peak / one.peak}
    note = (
        f"Four micro-batches take {_times(slower)} of the time and {four.peak / one.peak:.0%} of the memory that a "
        "step adds; the first of two forward passes is the price of equal results."
    )
    columns = ["case", "step s", "peak +", "together", "GFLOP/step"]
    return Table("optim.accumulate: one batch against four micro-batches", note, columns, rows, numbers)


def patch(found: dict[str, MeasuredWork], losses: dict[str, float], sizes: PatchSizes, device: torch.device) -> Table:
    """All patches against hidden ones, each in chunks and with whole logits."""
    base = found["masked, chunked"]
    rows, numbers = [], {}
    for name, work in found.items():
        slower = ratio(work.rounds, base.rounds, device)
        time = _seconds(middle(work.rounds).on(device))
        more = f"{work.peak / base.peak:.2f}×"
        rows.append([name, time, _times(slower), _size(work.peak), more, f"{losses[name]:.5f}"])
        numbers[name] = {"rounds": _rounds(work.rounds), "peak_bytes": work.peak, "loss": losses[name]}
    note = (
        f"Heads, loss and gradients for {sizes.images} × {sizes.patches} patches of width {sizes.width}, "
        f"{sizes.hidden_share:.0%} hidden, {sizes.prototypes:,} prototypes; no towers. Written out: whole logits, "
        "PyTorch's own gradients. Equal losses show that both compute the same."
    )
    columns = ["patches heard, way", "s", "× masked", "peak +", "× masked", "loss"]
    return Table("objective.patch.supervise: all against masked", note, columns, rows, numbers)


def attention(found: dict[str, MeasuredWork], sizes: AttentionSizes, device: torch.device) -> Table:
    rows = [[name, _seconds(middle(work.rounds).on(device)), _size(work.peak)] for name, work in found.items()]
    slower = ratio(found["fused"].rounds, found["plain"].rounds, device)
    numbers = {name: {"rounds": _rounds(work.rounds), "peak_bytes": work.peak} for name, work in found.items()}
    numbers["fused_over_plain"] = asdict(slower)
    tokens = (sizes.image_size // sizes.patch_size) ** 2 + 2
    note = (
        f"Forward and backward of {sizes.pictures} pictures, {tokens} tokens, width {sizes.width}, {sizes.depth} "
        f"blocks. PyTorch's fused kernel takes {_times(slower)} of the time of plain attention."
    )
    return Table("Attention on this processor", note, ["attention", "s", "peak +"], rows, numbers)


def utilisation(cases: list[Measured], *, peak_tflops: float) -> Table:
    """Model FLOPs per second as a share of the device's peak; nothing recomputed is counted."""
    rows, numbers = [], {}
    for case in cases:
        seconds = middle(case.step).wall
        useful = case.flops.step if case.bare is not None else cases[0].flops.step
        share = useful / seconds / (peak_tflops * 1e12)
        rows.append([case.name, f"{useful / 1e12:.2f}", _seconds(seconds), f"{share:.1%}"])
        numbers[case.name] = {"flops": useful, "step_seconds": seconds, "share_of_peak": share}
    note = f"Peak: {peak_tflops:g} TFLOP/s. The second forward pass of accumulated steps does not count as useful."
    return Table("Model FLOP utilisation", note, ["case", "TFLOP/step", "step s", "utilisation"], rows, numbers)


def _rounds(rounds: list[Spent]) -> dict[str, Any]:
    return {"median": asdict(middle(rounds)), "wall": [s.wall for s in rounds], "cpu": [s.cpu for s in rounds]}


def _seconds(value: float) -> str:
    return f"{value:.3g}"


def _percent(times: float) -> str:
    return f"{times - 1:+.1%}"


def _more(found: Ratio) -> str:
    return f"{_percent(found.median)} ({_percent(found.low)} to {_percent(found.high)})"


def _times(found: Ratio) -> str:
    return f"{found.median:.2f}× ({found.low:.2f} to {found.high:.2f})"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
