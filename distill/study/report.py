"""The report of a study: a table in the terminal, and results.csv, report.md and report.html with pictures."""

from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from distill.config import Run, differences
from distill.study.curves import draw_curves
from distill.study.grid import Study
from distill.study.page import Block, Claims, Heading, Listing, Paragraph, Picture, to_html, to_markdown
from distill.study.pictures import draw_features, draw_segmentations, gallery
from distill.study.results import Results, read_results, write_csv
from distill.study.statistics import Verdict, judge
from distill.study.tables import (
    all_scores_table,
    base_recipe,
    class_tables,
    cost_table,
    in_points,
    main_table,
    paper_columns,
    seeds_in_words,
    settings_table,
)
from distill.train.journal import write_atomically

QUICK = (
    "This is the quick version of the study: it shows that everything runs. Runs this short have learnt too little for "
    "any verdict, whatever the table says."
)


def write_report(study: Study, folder: Path, *, quick: bool) -> Path:
    """Print the table and write everything into `folder`, over all seeds whose cells are all measured.

    Returns the HTML page. Equal results give equal files. Raises ValueError when no seed is complete.
    """
    results = read_results(study, folder)
    verdicts = [judge(claim, results) for claim in study.claims]
    write_csv(results, folder / "results.csv")
    blocks = content(results, verdicts, pictures=draw(results, folder), quick=quick)
    page = folder / "report.html"
    write_atomically(folder / "report.md", to_markdown(study.title, blocks))
    write_atomically(page, to_html(study.title, blocks))
    _print(results, verdicts, quick=quick)
    return page


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """The figures that can be drawn, by name."""
    drawn = {}
    shown = gallery(results, folder)
    if shown is not None:
        drawn["segmentations"] = draw_segmentations(shown, folder / "segmentations.png")
        drawn["features"] = draw_features(shown, folder / "features.png")
    curves = draw_curves(results, folder / "curves.png")
    if curves is not None:
        drawn["curves"] = curves
    return drawn


def content(results: Results, verdicts: list[Verdict], *, pictures: dict[str, Path], quick: bool) -> list[Block]:
    """The report from top to bottom."""
    notices = [Paragraph(text, notice=True) for text in _notices(results, quick)]
    judged = [
        Heading("Claims"),
        Claims(items=tuple((each.decision, sentence(each, results.study)) for each in verdicts)),
    ]
    return [
        Paragraph(_opening(results)),
        *notices,
        Heading("Results"),
        main_table(results),
        *(judged if verdicts else []),
        *_pictures(results, pictures),
        Heading("What differs between the cells"),
        settings_table(results),
        Heading("Cost"),
        cost_table(results),
        Heading("Details"),
        Paragraph(_measured_under(results)),
        all_scores_table(results),
        *class_tables(results),
        Listing(fold="Every setting of the first cell", text=base_recipe(results)),
    ]


def sentence(verdict: Verdict, study: Study) -> str:
    """A claim, the numbers behind its verdict, and who says so. The decision itself is said beside it."""
    claim, better, than, difference = verdict.claim, verdict.better, verdict.than, verdict.difference
    said, metric = f"{claim.say} ({claim.source}). ", study.metrics.get(claim.metric, claim.metric)
    names = [f"“{study.cell(name).title}”" for name in (claim.better, claim.than)]
    if better is None or than is None or difference is None:
        return f"{said}{metric} was not measured for both {names[0]} and {names[1]}."
    bar = "" if difference.deviation is None else f" ± {difference.deviation:.1f}"
    seeds = "one seed" if difference.count == 1 else f"{difference.count} seeds"
    return (
        f"{said}{names[0]} scores {in_points(better, seeds=better.count)} and {names[1]} "
        f"{in_points(than, seeds=than.count)} in {metric}: a difference of {difference.mean:+.1f}{bar} points "
        f"over {seeds}, asked for more than {claim.margin:g}.{_opposite(verdict)}"
    )


def _opposite(verdict: Verdict) -> str:
    found = verdict.difference
    assert found is not None
    opposite = found.deviation is not None and -found.mean > max(found.deviation, verdict.claim.margin)
    return " The opposite was seen." if opposite else ""


def _opening(results: Results) -> str:
    study = results.study
    run = results.of(study.cells[0].name)[0]
    taught = sum(cell.teacher is not None for cell in study.cells)
    return (
        f"{len(study.cells)} runs of the recipe {study.recipe}, called cells, that differ only in the settings listed "
        f"below; {taught} of them learn from the frozen student of another cell of the same seed. Every student is "
        f"measured in the same way on {run.num_images:,} held-out pictures"
        f"{' of the procedural world' if run.recipe.data.source == 'scenes' else ''}. Scores are in percent, "
        f"differences in points, over {seeds_in_words(results)}. “{study.metrics[next(iter(study.metrics))]}” decides."
    )


def _notices(results: Results, quick: bool) -> list[str]:
    found = [QUICK] if quick else []
    if len(results.seeds) == 1:
        found.append("One seed: differences of this size may be noise, and no claim is decided.")
    return found + _unequal_seeds(results)


def _unequal_seeds(results: Results) -> list[str]:
    """Runs that should differ in their seed only, and do not."""
    found = []
    for cell in results.study.cells:
        first, *others = results.of(cell.name)
        for other in others:
            # A run folder may move between two seeds; what its teacher is follows from the study.
            changed = differences(
                replace(first.recipe, run=Run()),
                replace(other.recipe, run=Run()),
                ignore=("run", "name", "seed", "teacher.checkpoint"),
            )
            if changed or first.num_images != other.num_images:
                what = ", ".join([*changed, *_changed_count(first.num_images, other.num_images)])
                found.append(f"Seeds {first.seed} and {other.seed} of {cell.name} are not comparable: {what}.")
    return found


def _changed_count(first: int, other: int) -> list[str]:
    return [] if first == other else [f"measured on {first} -> {other} pictures"]


def _pictures(results: Results, drawn: dict[str, Path]) -> list[Block]:
    seed = results.seeds[0]
    captions = {
        "segmentations": (
            "Segmentation by class names",
            f"The first held-out pictures, not chosen, seed {seed}. Every pixel has the colour of the class whose name "
            "its patch’s value features are most similar to; nothing was trained for this. Black lines are the true "
            "borders.",
        ),
        "features": (
            "Patch features as colours",
            f"The final patch features of the same students (seed {seed}): three principal components as red, green "
            "and blue, the same for all pictures of a cell. Colours do not compare between cells.",
        ),
        "curves": (
            "Course of training",
            "Means over seeds; bands from the lowest to the highest. A cell is missing where its runs did not record "
            "the number. The patch losses are the paper’s Figure 2; they compare between cells with the same targets.",
        ),
    }
    blocks: list[Block] = []
    for name, (title, caption) in captions.items():
        if name in drawn:
            blocks += [Heading(title), Picture(path=drawn[name], alt=title, caption=caption)]
    if "segmentations" not in drawn:
        blocks.append(Paragraph("No pictures: a checkpoint is gone, or a cell has no text tower."))
    return blocks


def _measured_under(results: Results) -> str:
    """Hardware, versions and commit; several where runs were measured in different places."""
    distinct = dict.fromkeys(tuple(run.environment.items()) for run in results.runs.values())
    places = ["; ".join(f"{name} {value}" for name, value in each) for each in distinct]
    return f"Measured under: {' / '.join(places)}."


def _print(results: Results, verdicts: list[Verdict], *, quick: bool) -> None:
    console = Console()
    console.print(_rich(results))
    for verdict in verdicts:
        console.print(Text.assemble((verdict.decision, "bold"), ": ", sentence(verdict, results.study)))
    for text in _notices(results, quick):
        console.print(Text(text, style="yellow"))


def _rich(results: Results) -> RichTable:
    """The main table for a terminal of 80 columns: short headings, and the paper's numbers in one column."""
    study, full = results.study, main_table(results)
    deciding, *others = study.metrics.values()
    names, caption = paper_columns(study), f"Teacher and student: {deciding}. {full.caption}"
    shown = RichTable(
        title=study.title, caption=caption, box=box.SIMPLE, show_lines=True, pad_edge=False, title_justify="left"
    )
    shown.caption_justify = "left"
    shown.add_column("cell", min_width=20)
    for name in ("teacher", "student", *others):
        shown.add_column(name, justify="right", min_width=7)
    shown.add_column("paper")
    for cell, row in zip(study.cells, full.rows, strict=True):
        paper = "\n".join(f"{name} {cell.paper[name]}" for name in names if name in cell.paper)
        # Text, because words of a study page are no markup.
        shown.add_row(*map(Text, (*row[: 2 + len(study.metrics)], paper)))
    return shown
