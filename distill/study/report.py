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
from distill.study.results import Finished, Results, read_results, write_csv
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
ONE_SEED = "One seed: differences of this size may be noise, and no claim is decided."
SETTLED = ("reproduced", "not reproduced")


def write_report(study: Study, folder: Path, *, quick: bool) -> Path:
    """Print the table and write everything into `folder`, over all seeds whose cells are all measured.

    Returns the HTML page. Equal results give equal files. Raises ValueError when no seed is complete.
    """
    results = read_results(study, folder)
    unequal = unequal_seeds(results)
    verdicts = verdicts_on(results, decisive=not quick and not unequal)
    notices = [*([QUICK] if quick else []), *([ONE_SEED] if len(results.seeds) == 1 else []), *unequal]
    write_csv(results, folder / "results.csv")
    blocks = content(results, verdicts, pictures=draw(results, folder), notices=notices)
    page = folder / "report.html"
    write_atomically(folder / "report.md", to_markdown(study.title, blocks))
    write_atomically(page, to_html(study.title, blocks))
    _print(results, verdicts, notices)
    return page


def verdicts_on(results: Results, *, decisive: bool) -> list[Verdict]:
    """Of every claim. Quick studies and seeds that do not compare are not decisive, whatever the rule says."""
    verdicts = [judge(claim, results) for claim in results.study.claims]
    if decisive:
        return verdicts
    return [replace(each, decision="not decided here") if each.decision in SETTLED else each for each in verdicts]


def unequal_seeds(results: Results) -> list[str]:
    """What differs between runs that should differ in their seed only, each difference once with its cells."""
    found: dict[tuple[str, int], list[str]] = {}
    for cell in results.study.cells:
        first, *others = results.of(cell.name)
        for other in others:
            for change in _changes(first, other):
                found.setdefault((change, other.seed), []).append(cell.name)
    return [
        f"Seeds {results.seeds[0]} and {seed} do not compare, so no claim is decided: {change} in {', '.join(cells)}."
        for (change, seed), cells in found.items()
    ]


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


def content(results: Results, verdicts: list[Verdict], *, pictures: dict[str, Path], notices: list[str]) -> list[Block]:
    """The report from top to bottom."""
    judged = [
        Heading("Claims"),
        Claims(items=tuple((each.decision, sentence(each, results.study)) for each in verdicts)),
    ]
    return [
        Paragraph(_opening(results)),
        *(Paragraph(text, notice=True) for text in notices),
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
        f"over {seeds}; the claim asks for more than {claim.margin:g}.{_opposite(verdict)}"
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
    deciding, world = next(iter(study.metrics.values())), run.recipe.data.source == "scenes"
    return (
        f"The study has {len(study.cells)} cells: runs of the recipe {study.recipe} that differ only in the settings "
        f"listed below; {taught} of them learn from the frozen student of another cell of the same seed. Every "
        f"student is measured in the same way on {run.num_images:,} held-out pictures"
        f"{' of the procedural world' if world else ''}. Scores are in percent, differences in points, over "
        f"{seeds_in_words(results)}. The deciding score is {deciding}."
    )


def _changes(first: Finished, other: Finished) -> list[str]:
    """Where a run's folder lies may change between seeds; who its teacher is follows from the study."""
    before, after = replace(first.recipe, run=Run()), replace(other.recipe, run=Run())
    changes = differences(before, after, ignore=("run", "name", "seed", "teacher.checkpoint"))
    if first.num_images != other.num_images:
        changes.append(f"measured on {first.num_images} -> {other.num_images} pictures")
    return changes


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


def _print(results: Results, verdicts: list[Verdict], notices: list[str]) -> None:
    console = Console()
    console.print(_rich(results))
    deciding = next(iter(results.study.metrics.values()))
    console.print(Text(f"Teacher and student: {deciding}. {main_table(results).caption}\n", style="dim"))
    for verdict in verdicts:
        console.print(Text.assemble((verdict.decision, "bold"), ": ", sentence(verdict, results.study)))
    for text in notices:
        console.print(Text(text, style="yellow"))


def _rich(results: Results) -> RichTable:
    """The main table for a terminal of 80 columns: short headings, and the paper's numbers under a cell's title."""
    study, (_, *others) = results.study, results.study.metrics.values()
    shown = RichTable(title=study.title, title_justify="left", box=box.SIMPLE, show_lines=True, padding=(0, 1, 0, 0))
    shown.add_column("cell", width=22)
    for name in ("teacher", "student", *others):
        shown.add_column(name, justify="right", overflow="fold")
    for cell, row in zip(study.cells, main_table(results).rows, strict=True):
        paper = ", ".join(f"{name} {cell.paper[name]}" for name in paper_columns(study) if name in cell.paper)
        # Text, because words of a study page are no markup.
        title = Text(cell.title) + Text(f"\npaper: {paper}" if paper else "", style="dim")
        shown.add_row(title, *map(Text, row[1 : 2 + len(study.metrics)]))
    return shown
