"""The report's tables: results beside the paper's, effects, cost, every score, and what was refused or failed."""

from collections.abc import Sequence

from distill.study.cells import Cell, Study
from distill.study.findings import Effect, Findings
from distill.study.report.effects import effect_in_words
from distill.study.report.page import Table
from distill.study.report.words import NOTHING, interval, score, seeds_in_words, signed, teacher_score, without_places
from distill.study.results import Finished, Results

MOST_CLASSES_ACROSS, MOST_CELLS_ACROSS = 12, 8
"""Columns of a table that fit a page; titles of cells are longer."""


def named_cells(results: Results) -> list[Cell]:
    """Cells outside of products, and those with numbers of the paper: the ones a title says more of than levels."""
    return [cell for cell in results.cells if cell.paper or not cell.levels]


def main_table(results: Results, findings: Findings, cells: Sequence[Cell]) -> Table:
    """A row for each of `cells`: the teacher's score beside the student's, other metrics, and the paper's numbers.

    Those share one column: a column for each of the paper's benchmarks is too wide for a page.
    """
    has_paper = any(cell.paper for cell in cells)
    rows = [
        (cell.title, *_scores(results, findings, cell), *([_of_the_paper(cell)] if has_paper else [])) for cell in cells
    ]
    compare = " The paper’s numbers are those of its own models and data sets: compare directions, not sizes."
    return Table(
        header=("cell", *_score_titles(results.study), *(["in the paper"] if has_paper else [])),
        rows=tuple(rows),
        align="l" + "r" * (1 + len(results.study.metrics)) + "l" * has_paper,
        caption=_how_to_read(results) + (compare if has_paper else ""),
    )


def factor_table(results: Results, findings: Findings) -> Table | None:
    """A row for each cell with levels, in the order of the levels, and a column for each factor that varies."""
    study = results.study
    cells = [cell for cell in results.cells if cell.levels]
    if not cells:
        return None
    factors = [name for name in study.factors if len({cell.levels.get(name) for cell in cells}) > 1]

    def place(cell: Cell) -> list[int]:
        return [[*study.factors[name], None].index(cell.levels.get(name)) for name in factors]

    rows = [
        (*(cell.levels.get(name, NOTHING) for name in factors), *_scores(results, findings, cell))
        for cell in sorted(cells, key=place)
    ]
    return Table(
        header=(*factors, *_score_titles(study)),
        rows=tuple(rows),
        align="l" * len(factors) + "r" * (1 + len(study.metrics)),
        caption=_how_to_read(results),
    )


def effect_table(results: Results, findings: Findings) -> Table | None:
    """Main effects on every metric; None where nothing could be matched."""
    study = results.study
    found = {metric: findings.of("main effect", metric=metric) for metric in study.metrics}
    every = [each for effects in found.values() for each in effects]
    if not every:
        return None
    by_name = {metric: {effect_in_words(each): each for each in effects} for metric, effects in found.items()}
    rows = []
    for name in dict.fromkeys(map(effect_in_words, every)):
        row = [by_name[metric].get(name) for metric in study.metrics]
        first = next(each for each in row if each is not None)
        numbers = [NOTHING if each is None else signed(each.estimate, seeds=len(results.seeds)) for each in row]
        rows.append((name, _groups(first), *numbers))
    return Table(
        header=("main effect", "pairs", *study.metrics.values()),
        rows=tuple(rows),
        align="l" + "r" * (1 + len(study.metrics)),
        caption="Points, mean ± standard deviation over seeds [95 % interval], averaged over pairs of cells that "
        f"differ in nothing else.{_undecided(every, findings, 'pairs')}",
    )


def interaction_table(results: Results, findings: Findings) -> Table | None:
    """Two-way interactions on the deciding metric; None where nothing could be matched."""
    effects = findings.of("interaction", metric=results.study.deciding)
    if not effects:
        return None
    every = [each for each in findings.effects if each.kind == "interaction"]
    none, unmeasured = (sum(not each.estimate and bool(each.lost) == lost for each in every) for lost in (False, True))
    missing = f" {none} other interactions have no such cells in this grid." if none else ""
    missing += f" {unmeasured} have no results." if unmeasured else ""
    seeds = len(results.seeds)
    return Table(
        header=("interaction", "quadruples", results.study.metrics[results.study.deciding]),
        rows=tuple((effect_in_words(each), _groups(each), signed(each.estimate, seeds=seeds)) for each in effects),
        align="lrr",
        caption="How many points more the first difference is at the first than at the second level of the other "
        "factor, ± standard deviation over seeds [95 % interval]; over complete quadruples of cells."
        f"{missing}{_undecided(effects, findings, 'quadruples')}",
        fold="Two-way interactions in numbers",
    )


def refused_table(study: Study) -> Table | None:
    if not study.refused:
        return None
    rows = tuple((", ".join(f"{k} {v}" for k, v in each.levels.items()), each.reason) for each in study.refused)
    return Table(header=("combination", "why it means nothing"), rows=rows, align="ll")


def failed_table(results: Results) -> Table | None:
    if not results.failed:
        return None
    rows = tuple((cell, str(seed), without_places(error)) for (cell, seed), error in results.failed.items())
    return Table(header=("cell", "seed", "error"), rows=rows, align="lrl")


def cost_table(results: Results) -> Table:
    """What a cell costs: parameters, peak memory, seconds. Older summaries lack memory and seconds per step."""
    header = ("cell", "steps", "pictures seen", "image tower", "text tower", "peak memory, MB", "seconds per step")
    return Table(
        header=(*header, "seconds to train", "seconds to measure"),
        rows=tuple(_cost(cell, results.of(cell.name)) for cell in results.cells),
        align="l" + "r" * (len(header) + 1),
        caption="Means over seeds; towers in parameters. Seconds to train are of wall time; of a run that was "
        "interrupted, only since it went on.",
    )


def all_scores_table(results: Results, findings: Findings) -> Table:
    """Every score that was measured, a row for each cell and score."""
    names = list(dict.fromkeys(name for run in results.runs.values() for name in run.scores))
    rows = []
    for cell in results.cells:
        for name in names:
            found = findings.cells.get((cell.name, name))
            rows.append((cell.title, name, score(found, seeds=len(results.seeds)) + interval(found)))
    return Table(header=("cell", "score", "percent"), rows=tuple(rows), align="llr", fold="Every score of every cell")


def class_tables(results: Results) -> list[Table]:
    """IoU of every class by cell for every task that has them; the longer of the two lists goes down the page, and
    the other one is cut into as many tables as fit a page."""
    tasks = dict.fromkeys(task for run in results.runs.values() for task in run.per_class)
    return [table for task in tasks for table in _class_tables(results, task)]


def class_names(results: Results, task: str) -> list[str]:
    return list(dict.fromkeys(name for run in results.runs.values() for name in run.per_class.get(task, {})))


def class_scores(runs: list[Finished], task: str, name: str) -> list[float]:
    """A class's IoU in percent for every seed that has it."""
    shares = [run.per_class.get(task, {}).get(name) for run in runs]
    return [100 * share for share in shares if share is not None]


def _scores(results: Results, findings: Findings, cell: Cell) -> list[str]:
    """Teacher, student with its interval, and the other metrics."""
    deciding, *others = results.study.metrics
    seeds = len(results.seeds)

    def of(name: str, metric: str) -> str:
        return score(findings.cells.get((name, metric)), seeds=seeds)

    student = of(cell.name, deciding) + interval(findings.cells.get((cell.name, deciding)))
    teacher = teacher_score(findings, cell, deciding, seeds=seeds)
    return [teacher, student, *(of(cell.name, metric) for metric in others)]


def _score_titles(study: Study) -> tuple[str, ...]:
    deciding, *others = study.metrics.values()
    return (f"teacher: {deciding}", f"student: {deciding}", *others)


def _how_to_read(results: Results) -> str:
    if len(results.seeds) == 1:
        seeds = f"Percent, {seeds_in_words(results)}: differences of this size may be noise."
    else:
        seeds = f"Percent: mean ± standard deviation over {seeds_in_words(results)} [95 % interval of the mean]."
    return (
        f"{seeds} Teacher: the score of the cell whose student teaches, where it goes on learning as it starts; own "
        "average: a moving average of the student itself; a dash: nobody, or a model that is no cell."
    )


def _of_the_paper(cell: Cell) -> str:
    """`Table 2, row 1: PC59 6.9, ADE150 0.3`, with spaces that do not break between a name and its number."""
    numbers = ", ".join(f"{name}\N{NO-BREAK SPACE}{value}" for name, value in cell.paper.items() if name != "row")
    return ": ".join(filter(None, (str(cell.paper.get("row", "")), numbers))) or NOTHING


def _groups(effect: Effect) -> str:
    """How many pairs or quadruples an effect is a mean over, of how many there are."""
    return f"{effect.num_groups} of {effect.num_planned}" if effect.lost else str(effect.num_groups)


def _undecided(effects: Sequence[Effect], findings: Findings, groups: str) -> str:
    """Why some of the effects, or all, decide nothing."""
    lost = ", ".join(dict.fromkeys(cell for each in effects for cell in each.lost))
    missing = f" “n of m”: the other {groups} lack results of some of {lost}, so nothing is decided." if lost else ""
    return missing + (f" Nothing is decided here: {findings.why_open}." if findings.why_open else "")


def _cost(cell: Cell, runs: list[Finished]) -> tuple[str, ...]:
    first = runs[0]
    parameters = {part["part"]: f"{part['parameters']:,}" for part in first.summary["parts"]}
    peaks = [run.summary["peak_bytes"] / 1e6 for run in runs if run.summary.get("peak_bytes")]
    steps = [run.summary["seconds_per_step"] for run in runs if run.summary.get("seconds_per_step")]
    return (
        cell.title,
        f"{first.summary['steps']:,}",
        f"{first.summary['steps'] * first.recipe.data.batch_size:,}",
        parameters.get("image", NOTHING),
        parameters.get("text", NOTHING),
        _mean(peaks, "{:,.0f}"),
        _mean(steps, "{:.3f}"),
        _mean([run.summary["seconds"] for run in runs], "{:,.0f}"),
        _mean([run.measure_seconds for run in runs], "{:,.0f}"),
    )


def _mean(values: Sequence[float | int], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else NOTHING


def _class_tables(results: Results, task: str) -> list[Table]:
    names = class_names(results, task)
    titles = [cell.title for cell in results.cells]
    values = [
        [_mean(class_scores(results.of(cell.name), task, name), "{:.0f}") for name in names] for cell in results.cells
    ]
    down, across, first, most = titles, names, "IoU in %, cell", MOST_CLASSES_ACROSS
    if len(names) > len(titles):
        down, across, first, most = names, titles, "IoU in %, class", MOST_CELLS_ACROSS
        values = [list(row) for row in zip(*values, strict=True)]
    count = -(-len(across) // most)
    width = -(-len(across) // count)
    return [
        Table(
            header=(first, *across[start : start + width]),
            rows=tuple((name, *row[start : start + width]) for name, row in zip(down, values, strict=True)),
            align="l" + "r" * len(across[start : start + width]),
            fold=f"Every class: {task}" + (f" ({number} of {count})" if count > 1 else ""),
        )
        for number, start in enumerate(range(0, len(across), width), start=1)
    ]
