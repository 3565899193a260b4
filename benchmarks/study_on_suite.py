"""The finished cells of a study measured on every task of a suite: one table, means and intervals over seeds.

    python benchmarks/study_on_suite.py bridge --suite scenes --store runs/study --name bridge_on_scenes
    python benchmarks/study_on_suite.py bridge --suite scenes --store runs/study --cell ibot --cell ibotpp

Each run keeps its measurements in its folder, so a second call measures only what is missing. Differences to the first
cell are taken within a seed. Intervals are Student's t over seeds (95 %); a cell with one seed has none.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.record import Record, Table, conditions, now, show, write
from distill.config import recipe_dict
from distill.eval.suite.comparison import comparable
from distill.eval.suite.measure import Outcome, carry_out
from distill.eval.suite.page import Suite, read_suite
from distill.eval.suite.subject import of_a_run
from distill.eval.suite.tables import columns_of, plain, signed
from distill.study.cells import load_study
from distill.study.inference import Estimate, estimate
from distill.study.jobs import Job, is_done, jobs_of

RESULTS = Path(__file__).resolve().parent / "results"

Cells = dict[str, dict[int, Outcome]]
"""Cell to seed to what was found."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    study = load_study(options.study, scale=options.scale, quick=False, overrides=[])
    chosen = options.cell or list(dict.fromkeys(cell.name for cell in study.cells))
    jobs = [job for name in chosen for job in jobs_of(study, options.store) if job.cell == study.cell(name)]
    jobs = [job for job in jobs if is_done(job)]
    if not jobs:
        raise SystemExit(f"no run of {options.study} is finished in {options.store}")
    suite = read_suite(options.suite)
    found = measure(jobs, suite, limit=options.limit)
    record = Record(
        name=options.name or "study_on_suite",
        date=now(),
        command=f"python benchmarks/study_on_suite.py {shlex.join(arguments or sys.argv[1:])}",
        conditions=conditions(precision="fp32", device=torch.device("cpu")),
        tables=tables(suite, found),
        recipes={job.cell.name: recipe_dict(job.recipe) for job in reversed(jobs)},
        changes={},
    )
    show(record, Console(width=200))
    if options.name:
        print(*write(record, RESULTS), sep="\n")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--scale", help="the page's first when not given")
    parser.add_argument("--suite", default="scenes")
    parser.add_argument("--store", type=Path, default=Path("runs/study"), help="where the study's runs are")
    parser.add_argument("--cell", action="append", default=[], help="only these, the first is what others differ from")
    parser.add_argument("--limit", type=int, help="pictures of each set")
    parser.add_argument("--name", help="of the files in results/; without it, the terminal only")
    return parser.parse_args(arguments)


def measure(jobs: Sequence[Job], suite: Suite, *, limit: int | None) -> Cells:
    """Every run's student; what is kept already is read."""
    found: Cells = {}
    for number, job in enumerate(jobs, 1):
        console = Console(stderr=True)
        console.print(f"{number} of {len(jobs)}: {job.name}")
        subject = of_a_run(job.folder, side="student", image_size=None)
        outcome = carry_out(subject, suite, words=[], limit=limit, device="cpu", console=Console(quiet=True))
        if outcome.failed:
            raise SystemExit(f"{job.name}: {outcome.failed}")
        found.setdefault(job.cell.name, {})[job.seed] = outcome
    return found


def tables(suite: Suite, found: Cells) -> list[Table]:
    """Scores, then differences to the first cell."""
    first = next(iter(found))
    columns = columns_of(suite, [outcome for seeds in found.values() for outcome in seeds.values()])
    scores = {cell: {column: _estimate(_values(seeds, column)) for column in columns} for cell, seeds in found.items()}
    differences = {
        cell: {column: _estimate(_minus(seeds, found[first], column)) for column in columns}
        for cell, seeds in found.items()
        if cell != first
    }
    made = [_table("Scores", "Shares in percent, errors in metres and degrees (less is better).", scores, plain)]
    if differences:
        count = sum(map(len, differences.values()))
        note = (
            f"Cell minus {first}, within each seed. A star: the whole interval lies on one side of 0. Of these {count} "
            f"differences about {round(count / 20)} would have one by chance."
        )
        made.append(_table(f"Differences to {first}", note, differences, signed))
    return made


def _table(title: str, note: str, estimates: dict[str, dict[str, Estimate | None]], said) -> Table:
    columns = list(next(iter(estimates.values())))
    return Table(
        title=title,
        note=note,
        columns=["cell", "seeds", *columns],
        rows=[
            [
                cell,
                str(max((each.count for each in row.values() if each), default=0)),
                *(_cell(row[c], c, said) for c in columns),
            ]
            for cell, row in estimates.items()
        ],
        numbers={cell: {c: vars(each) for c, each in row.items() if each} for cell, row in estimates.items()},
    )


def _cell(found: Estimate | None, column: str, said) -> str:
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return said(column, found.mean)
    star = "*" if said is signed and (found.low > 0 or found.high < 0) else ""
    return f"{said(column, found.mean)} ± {plain(column, (found.high - found.low) / 2)}{star}"


def _values(seeds: dict[int, Outcome], column: str) -> dict[int, float]:
    name, _, value = column.partition("/")
    every = {
        seed: outcome.measured[name].values.get(value) for seed, outcome in seeds.items() if name in outcome.measured
    }
    return {seed: float(score) for seed, score in every.items() if score is not None}


def _minus(seeds: dict[int, Outcome], first: dict[int, Outcome], column: str) -> dict[int, float]:
    """Within the seeds that both have, where both were measured on the same pictures in the same way."""
    name = column.partition("/")[0]
    ours, theirs = _values(seeds, column), _values(first, column)
    both = [seed for seed in ours if seed in theirs]
    alike = [seed for seed in both if comparable(seeds[seed].measured[name], first[seed].measured[name])]
    return {seed: ours[seed] - theirs[seed] for seed in alike}


def _estimate(values: dict[int, float]) -> Estimate | None:
    return estimate(values) if values else None


if __name__ == "__main__":
    sys.exit(main())
