"""Tables for who wants to see how the deciding score's intervals come about, and a linear model of it."""

from distill.study.findings import Findings
from distill.study.report.page import Table
from distill.study.report.words import NOTHING, interval, signed
from distill.study.results import Results


def interval_table(results: Results, findings: Findings) -> Table:
    """Every cell's mean of the deciding score with the three intervals it could be given, and the one that is used."""
    titles = {cell.name: cell.title for cell in results.cells}
    rows = [
        (
            titles[found.cell],
            str(found.used.count),
            f"{found.used.mean:.1f}",
            NOTHING if found.used.deviation is None else f"{found.used.deviation:.1f}",
            *(
                interval(each).strip() or NOTHING
                for each in (found.over_seeds, found.bootstrap, found.over_pictures, found.used)
            ),
        )
        for found in findings.intervals
    ]
    score = results.study.metrics[results.study.deciding]
    kinds = ("seeds: Student’s t", "seeds: bootstrap", "pictures: bootstrap", "used: t and pictures")
    return Table(
        header=("cell", "seeds", "mean", "standard deviation", *kinds),
        rows=tuple(rows),
        align="l" + "r" * 7,
        caption=f"{score} in percent, 95 % intervals of the mean. A bootstrap over seeds never leaves the range of "
        "their scores: with three it is that range, which misses the truth whenever all three fall on one side of it, "
        "so it covers 75 % where 95 % are promised. Student’s t covers 95 % of normally distributed seeds. The "
        "bootstrap over pictures keeps the seeds as they are. The interval used adds, in squares, the half width of "
        "Student’s t and that of the picture error which all seeds share.",
        fold=f"Intervals of the deciding score, {score}",
    )


def model_tables(results: Results, findings: Findings) -> list[Table]:
    """The linear model's coefficients, and the terms that the cells cannot tell apart; none without a model."""
    model = findings.model
    if model is None:
        return []
    seeds = len(results.seeds)
    told = [each for each in model.terms if not each.reason]
    untold = [each for each in model.terms if each.reason]
    lost = f" Cells without results are left out: {', '.join(model.lost)}." if model.lost else ""
    decided = f" Nothing is decided here: {findings.why_open}." if findings.why_open else ""
    fitted = Table(
        header=("term", results.study.metrics[results.study.deciding]),
        rows=tuple((each.term, signed(each.estimate, seeds=seeds)) for each in told),
        align="lr",
        caption=f"Points, ± standard deviation over seeds [95 % interval]. Least squares on {len(model.cells)} cells "
        f"with the factors {', '.join(model.factors)}, seed by seed. A main effect is a mean over the levels of the "
        "other factors, an interaction a difference of differences. Terms listed as not told apart are taken as zero, "
        "which the effects of matched cells do not need: verdicts rest on those."
        f"{lost}{decided}",
        fold="Linear model: coefficients",
    )
    if not untold:
        return [fitted] if told else []
    apart = Table(
        header=("term", "why it has no coefficient"),
        rows=tuple((each.term, each.reason) for each in untold),
        align="ll",
        fold="Linear model: terms that cannot be told apart",
    )
    return [fitted, apart] if told else [apart]
