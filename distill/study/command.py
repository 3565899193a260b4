"""`distill study …`: plan, run, status, report, promote; and work, which workers are started with."""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import yaml
from rich.console import Console
from rich.text import Text

from distill.config.pages import catalogue, page_path
from distill.exit_codes import FAILED, FINISHED, INTERRUPTED
from distill.study.cells import Study, load_study
from distill.study.grid import read_page
from distill.study.jobs import (
    Job,
    error_of,
    is_settled,
    jobs_of,
    link_runs,
    report_folder,
    seeds_in,
    selected,
    state_of,
)
from distill.study.jobs import pack as pack_jobs


def list_studies(options: argparse.Namespace) -> int:
    """Names, titles and scales of the studies that come with distill."""
    width = max(map(len, catalogue("study")))
    for name in catalogue("study"):
        page = read_page(name)
        print(f"{name:<{width}}  {page.title}")
        for scale, size in page.scales.items():
            print(f"{'':<{width}}    {scale}: {size.expect}")
    return FINISHED


def plan(options: argparse.Namespace) -> int:
    """Print the cells, which exist already, the order, and an estimate of time and disk."""
    study, jobs = _asked(options)
    console = Console()
    console.print(_heading(study, jobs))
    estimates = {}
    if not options.no_measure:
        from distill.study.run.estimate import costs

        estimates = costs(jobs, say=lambda text: print(text, file=sys.stderr))
    from distill.study.run.planned import planned_table, totals

    console.print(planned_table(study, jobs, estimates))
    _print_refused(console, study)
    for line in totals(jobs, estimates, workers=_places(options), store=options.to):
        console.print(Text(line))
    return FINISHED


def run(options: argparse.Namespace) -> int:
    """Carry out what is not done yet, then write the report. 75 when asked to stop, 1 when a cell failed."""
    study, jobs = _asked(options)
    from distill.study.run.live import Watch
    from distill.study.run.schedule import carry_out

    runner = _runner(options, study)
    stop = _StopSignals()
    with stop, Watch(jobs, title=study.title, places=runner.places) as watch:
        progress = carry_out(jobs, runner=runner, look=watch.look, stopped=lambda: stop.asked)
    console = Console(stderr=True)
    for job in progress.of("failed"):
        console.print(Text(f"failed: {job.name}: {error_of(job)} ({job.log})", "red"), soft_wrap=True)
    if stop.asked:
        console.print("stopped; the same command goes on")
        return INTERRUPTED
    if progress.of("done"):
        # On everything that is there, not only on what was asked for now.
        options.cell, options.seeds = [], None
        report(options)
    return FAILED if progress.of("failed") or progress.of("blocked") else FINISHED


def status(options: argparse.Namespace) -> int:
    """One line per cell: the state of each seed, and errors."""
    study, jobs = _asked(options)
    from distill.study.run.planned import status_table

    console = Console()
    states = {job.name: state_of(job) for job in jobs}
    console.print(_heading(study, jobs))
    console.print(status_table(study, jobs, states))
    _print_refused(console, study)
    for job in jobs:
        if states[job.name] == "failed":
            console.print(Text(f"{job.name}: {error_of(job)} ({job.log})", "red"), soft_wrap=True)
    counts = Counter(states.values())
    console.print(Text(", ".join(f"{count} {state}" for state, count in counts.items())))
    return FINISHED


def report(options: argparse.Namespace) -> int:
    """Write the report on what is done so far: the page's seeds and all others there are, unless some are named."""
    part = bool(options.cell or options.seeds)
    if options.seeds is None:
        study = load_study(options.study, scale=options.scale, quick=options.quick, overrides=options.words)
        options.seeds = ",".join(map(str, sorted({*study.seeds, *seeds_in(options.to)})))
    study, jobs = _asked(options)
    from distill.study.report.report import write_report

    folder = report_folder(study, options.to, overrides=options.words, part=part)
    page = write_report(study, jobs, folder, overrides=options.words, part=part)
    link_runs(jobs, folder / "runs")
    print(f"the report with pictures: {page}", file=sys.stderr)
    return FINISHED


def pack(options: argparse.Namespace) -> int:
    """Copy the results, without checkpoints, into another store."""
    _, jobs = _asked(options)
    count = pack_jobs(jobs, options.into)
    print(f"{count} of {len(jobs)} runs copied into {options.into}; `distill study report --to` reads them there")
    return FINISHED


def promote(options: argparse.Namespace) -> int:
    """Write the winner out as a pretraining recipe."""
    from distill.study.promote import promote_results

    results = options.results or report_folder(load_study(options.study, scale=options.scale), options.store)
    print(promote_results(options.study, scale=options.scale, results=results, to=options.recipe))
    return FINISHED


def work(options: argparse.Namespace) -> int:
    """Carry out one job: what the workers of `run` are started with."""
    from distill.study.run.work import stop_with_parent
    from distill.study.run.work import work as carry_out

    if options.with_parent:
        stop_with_parent()
    study, jobs = _asked(options)
    every = jobs_of(study, options.to, seeds=_seeds(options.seeds))
    if len(options.cell) != 1 or len({job.seed for job in jobs}) != 1:
        raise ValueError("work carries out one run: give one --cell and one seed")
    [job] = [job for job in jobs if job.cell.name == options.cell[0]]
    return carry_out(job, launch=options.launch or study.launch, again=not is_settled(job, every))


def words_of_worker(options: argparse.Namespace) -> list[str]:
    """What `distill study work` needs to find the same jobs."""
    words = [options.study, "--to", str(options.to), *options.words]
    words += ["--scale", options.scale] if options.scale else []
    words += ["--quick"] if options.quick else []
    words += ["--launch", options.launch] if options.launch else []
    return words


def _asked(options: argparse.Namespace) -> tuple[Study, tuple[Job, ...]]:
    study = load_study(options.study, scale=options.scale, quick=options.quick, overrides=options.words)
    if options.launch or study.launch:
        _check_launch(options.launch or study.launch)
    for name in options.cell:
        study.cell(name)
    jobs = jobs_of(study, options.to, seeds=_seeds(options.seeds))
    return study, selected(jobs, options.cell)


def _check_launch(name: str) -> None:
    """Raises ValueError for a page that does not exist, or that starts on several machines."""
    page = yaml.safe_load(page_path(name, kind="launch").read_text())
    if page.get("num_machines", 1) != 1:
        raise ValueError(f"{name} is for {page['num_machines']} machines, and a study starts each cell on one")


def _seeds(text: str | None) -> Sequence[int] | None:
    """`0,1,2` or `0-4`."""
    if text is None:
        return None
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        with suppress(ValueError):
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
            continue
        raise ValueError(f"--seeds takes numbers such as 0,1,2 or 0-4, not {text!r}")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"--seeds {text!r} names a seed twice or none")
    return seeds


def _heading(study: Study, jobs: Sequence[Job]) -> Text:
    seeds = len({job.seed for job in jobs})
    cells = len({job.cell.name for job in jobs})
    head = Text(study.title, "bold")
    return head.append(
        f"\n{study.name} at the scale {study.scale}{', quick version' if study.quick else ''}: {cells} cells, {seeds} "
        f"seed{'s' * (seeds > 1)}, {len(jobs)} runs; expected: {study.expect}",
        "not bold",
    )


def _print_refused(console: Console, study: Study) -> None:
    if not study.refused:
        return
    names: dict[str, list[str]] = {}
    for each in study.refused:
        names.setdefault(each.reason, []).append(each.name)
    console.print("refused, because they mean nothing:")
    for reason, combinations in names.items():
        console.print(Text(f"  {', '.join(combinations)}: {reason}"), soft_wrap=True)


def _places(options: argparse.Namespace) -> int:
    from distill.study.run.local import shares_here

    return len(shares_here(options.workers))


def _runner(options: argparse.Namespace, study: Study):
    words = words_of_worker(options)
    if options.on == "slurm":
        from distill.study.run.slurm import SlurmRunner

        return SlurmRunner(words, folder=options.to / "slurm", places=options.workers, settings=options.slurm)
    from distill.study.run.local import LocalRunner, Share, shares_here

    # A cell of several processes has the machine for itself; its launch page says how many there are.
    several = bool(options.launch or study.launch)
    return LocalRunner(words, shares=[Share(None, None)] if several else shares_here(options.workers))


class _StopSignals:
    """True once Ctrl-C or SIGTERM arrived; a second Ctrl-C ends at once, and workers end with their parent."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "_StopSignals":
        self._previous = {each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for each, previous in self._previous.items():
            signal.signal(each, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


ACTIONS = {
    "list": list_studies,
    "plan": plan,
    "run": run,
    "status": status,
    "report": report,
    "pack": pack,
    "promote": promote,
    "work": work,
}
