"""The report of a study: claims and a table in the terminal; results.csv, effects.csv, report.md, report.html, PNGs.

`report.json`, written last, says what the others are of, for people and for `promote`:

    study, scale, recipe  of the page; `recipe` is the base of its cells
    quick                 whether it is the quick version
    overrides             settings given for all cells
    part                  whether only some of the cells or seeds were asked for
    seeds                 those with at least one run
    asked, done, failed   numbers of runs
    unequal               what differs between seeds beside the seed
    runs                  CELL-seedN of every run that is done, to the key of its settings (`distill.study.jobs`)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from distill.study.cells import Study
from distill.study.findings import Findings, findings_of
from distill.study.jobs import Job
from distill.study.report.curves import draw_curves
from distill.study.report.effect_plot import draw_effects
from distill.study.report.effects import write_effects
from distill.study.report.figures import whole
from distill.study.report.heat_map import MOST_CLASSES, class_names, class_task, draw_classes
from distill.study.report.intervals import interval_table, model_tables
from distill.study.report.page import Block, Claims, Heading, Paragraph, Picture, Table, to_html, to_markdown
from distill.study.report.pictures import draw_features, draw_segmentations, gallery
from distill.study.report.settings import recipe_listings, settings_table
from distill.study.report.tables import (
    all_scores_table,
    class_tables,
    cost_table,
    effect_table,
    factor_table,
    failed_table,
    interaction_table,
    main_table,
    named_cells,
    refused_table,
)
from distill.study.report.terminal import print_report
from distill.study.report.words import notices, opening, said_of, tally, without_places
from distill.study.results import Results, read_results, write_csv
from distill.train.journal import write_atomically

FIGURES = ("effects", "curves", "segmentations", "features", "classes")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The figures that could be drawn."""

    effects: Path | None
    curves: tuple[tuple[Path, str], ...]
    """Each with the levels that its cells share."""
    segmentations: tuple[Path, ...]
    features: tuple[Path, ...]
    classes: Path | None
    without_pictures: tuple[str, ...]
    """Cells that could not be shown."""

    @property
    def paths(self) -> set[Path]:
        single = {each for each in (self.effects, self.classes) if each is not None}
        return single | {path for path, _ in self.curves} | {*self.segmentations, *self.features}


def write_report(
    study: Study, jobs: Sequence[Job], folder: Path, *, overrides: Sequence[str] = (), part: bool = False
) -> Path:
    """Write everything into `folder`, over the runs that are done, and print the table.

    `overrides` and `part` (whether these are only some of the study's jobs) are for `report.json`. One process at a
    time works in `folder`; others wait, and then read anew. Returns the HTML page. Equal results give equal files.
    Raises ValueError when no run is done.
    """
    if not folder.exists():
        read_results(study, jobs)  # a study without any result is refused before it has a folder
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    # A lock of the soft kind would outlive a process that is killed.
    with FileLock(folder / ".report.lock", fallback_to_soft=False):
        results = read_results(study, jobs)
        findings = findings_of(results)
        limits = notices(results, findings)
        _clear(folder)
        with whole(folder / "results.csv") as unfinished:
            write_csv(results, unfinished)
        write_effects(findings, folder / "effects.csv")
        blocks = content(results, findings, draw(results, findings, folder), limits)
        write_atomically(folder / "report.md", to_markdown(study.title, blocks))
        write_atomically(page, to_html(study.title, blocks))
        origin = provenance(results, findings, jobs, overrides=overrides, part=part)
        write_atomically(folder / "report.json", json.dumps(origin, indent=1, ensure_ascii=False) + "\n")
    print_report(results, findings, limits)
    return page


def provenance(
    results: Results, findings: Findings, jobs: Sequence[Job], *, overrides: Sequence[str], part: bool
) -> dict[str, Any]:
    """What `report.json` holds, without places on this machine."""
    study = results.study
    return {
        "study": study.name,
        "scale": study.scale,
        "quick": study.quick,
        "recipe": study.recipe,
        "overrides": [without_places(word) for word in overrides],
        "part": part,
        "seeds": list(results.seeds),
        "asked": len(jobs),
        "done": len(results.runs),
        "failed": len(results.failed),
        "unequal": [without_places(text) for text in findings.unequal],
        "runs": {job.name: job.key for job in jobs if (job.cell.name, job.seed) in results.runs},
    }


def _clear(folder: Path) -> None:
    """Remove what killed writers left, and `report.json`: it must not stand beside tables of another report."""
    (folder / "report.json").unlink(missing_ok=True)
    for path in folder.glob(".*.unfinished"):
        path.unlink()


def draw(results: Results, findings: Findings, folder: Path) -> Drawn:
    """Write the figures, and remove those of an earlier report that are no longer drawn."""
    shown = gallery(results)
    drawn = Drawn(
        effects=draw_effects(results, findings, folder / "effects.png"),
        curves=tuple(draw_curves(results, folder)),
        segmentations=() if shown is None else tuple(draw_segmentations(shown, folder)),
        features=() if shown is None else tuple(draw_features(shown, folder)),
        classes=draw_classes(results, folder / "classes.png"),
        without_pictures=tuple([cell.title for cell in results.cells] if shown is None else shown.left_out),
    )
    for path in folder.glob("*.png"):
        if path.stem.partition("_")[0] in FIGURES and path not in drawn.paths:
            path.unlink()
    return drawn


def content(results: Results, findings: Findings, drawn: Drawn, limits: Sequence[str]) -> list[Block]:
    """The report from top to bottom."""
    judged = tuple(said_of(each, results.study) for each in findings.claims)
    claims = [Heading("Claims"), Paragraph(tally(findings)), Claims(items=judged)] if judged else []
    return [
        Paragraph(opening(results)),
        *(Paragraph(text, notice=True) for text in limits),
        *claims,
        *_effects(results, findings, drawn),
        *_results(results, findings),
        *_curves(drawn),
        *_pictures(results, drawn),
        *_classes(results, drawn),
        Heading("Cost"),
        cost_table(results),
        *_headed("Failed runs", failed_table(results)),
        *_headed("Combinations that mean nothing", refused_table(results.study)),
        Heading("What differs between the cells"),
        settings_table(results),
        Heading("Details"),
        *_environment(results),
        interval_table(results, findings),
        all_scores_table(results, findings),
        *class_tables(results),
        *recipe_listings(results),
    ]


def _results(results: Results, findings: Findings) -> list[Block]:
    named, grid = named_cells(results), factor_table(results, findings)
    blocks: list[Block] = [Heading("Results")]
    blocks += [main_table(results, findings, named)] if named else []
    return blocks + (_headed("Results by factor", grid) if named else [grid] if grid else [])


def _effects(results: Results, findings: Findings, drawn: Drawn) -> list[Block]:
    caption = (
        "Dots are means over seeds, lines their 95 % intervals: Student’s t over seeds, and the error from the choice "
        "of held-out pictures where it is known. Claims: green circles are reproduced, vermilion crosses are not, open "
        "grey ones are undecided; a grey tick or band is what the claim asks for. Effects: filled blue where the "
        "interval leaves out zero, which about one in twenty does by chance. Lines that end at the border go on."
    )
    tables = [table for table in (effect_table(results, findings), interaction_table(results, findings)) if table]
    tables += model_tables(results, findings)
    if drawn.effects is None:
        return [Heading("Effects"), *tables] if tables else []
    return [Heading("Effects"), Picture(path=drawn.effects, alt="Effects with intervals", caption=caption), *tables]


def _curves(drawn: Drawn) -> list[Block]:
    caption = (
        "Means over seeds; bands from the lowest to the highest. A cell is missing where its runs did not record the "
        "number. The patch losses are the paper’s Figure 2, also of patches the loss does not hear; they compare "
        "between cells with the same targets."
    )
    blocks: list[Block] = [Heading("Course of training")] if drawn.curves else []
    for number, (path, held) in enumerate(drawn.curves):
        said = (f"All with {held}. " if held else "") + (caption if number == 0 else "")
        blocks.append(Picture(path=path, alt="Course of training", caption=said.strip()))
    return blocks


def _pictures(results: Results, drawn: Drawn) -> list[Block]:
    missing = f"Not shown: {'; '.join(drawn.without_pictures)}." if drawn.without_pictures else ""
    if not drawn.segmentations:
        return [Paragraph("No pictures: checkpoints are gone, or no cell has a text tower.")]
    segmented = (
        f"The first held-out pictures, not chosen; of every cell its first seed ({results.seeds[0]} where it is done). "
        "Every pixel has the colour of the class whose name its patch’s value features are most similar to; nothing "
        "was trained for this. Black lines are the true borders."
    )
    coloured = (
        "The final patch features of the same students: three principal components as red, green and blue, the same "
        "for all pictures of a cell. Colours do not compare between cells."
    )
    blocks: list[Block] = []
    for title, caption, paths in (
        ("Segmentation by class names", segmented, drawn.segmentations),
        ("Patch features as colours", coloured, drawn.features),
    ):
        captions = [caption, *[""] * (len(paths) - 1)]
        blocks.append(Heading(title))
        blocks += [Picture(path=path, alt=title, caption=said) for path, said in zip(paths, captions, strict=True)]
    return [*blocks, *([Paragraph(missing)] if missing else [])]


def _classes(results: Results, drawn: Drawn) -> list[Block]:
    task = class_task(results)
    if drawn.classes is None or task is None:
        return []
    some = len(class_names(results, task)) > MOST_CLASSES
    which = f" The {MOST_CLASSES} classes that differ most between cells." if some else ""
    caption = f"IoU in percent, {task}, mean over seeds.{which} Every task’s numbers are among the details."
    return [Heading("Classes"), Picture(path=drawn.classes, alt="IoU of every class by cell", caption=caption)]


def _environment(results: Results) -> list[Block]:
    """Hardware, versions and commits; several rows where runs were measured in different places."""
    distinct = list(dict.fromkeys(tuple(run.environment.items()) for run in results.runs.values()))
    names = tuple(dict.fromkeys(name for each in distinct for name, _ in each))
    counts = [sum(tuple(run.environment.items()) == each for run in results.runs.values()) for each in distinct]
    rows = tuple(
        (str(count), *(dict(each).get(name, "–") for name in names))
        for each, count in zip(distinct, counts, strict=True)
    )
    return [Table(header=("runs measured", *names), rows=rows, align="r" + "l" * len(names))]


def _headed(title: str, table: Table | None) -> list[Block]:
    return [] if table is None else [Heading(title), table]
