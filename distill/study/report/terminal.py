"""The report in a terminal: every claim with its verdict, and a table of at most 100 columns."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.study.cells import Cell
from distill.study.findings import Findings
from distill.study.report.words import said_of, score, seeds_in_words, teacher_score
from distill.study.results import Results

WIDTH = 100
STYLES = {"reproduced": "bold green", "not reproduced": "bold red"}
FEW = 8
"""Up to so many cells have their titles and the paper's numbers; of more, one line with the name."""
MOST_METRICS = 2
"""Beside the deciding one; more make the numbers unreadable."""


def print_report(results: Results, findings: Findings, notices: list[str]) -> None:
    """To standard output: the table, the claims, then what limits them."""
    console = Console(width=min(WIDTH, Console().width))
    console.print(_table(results, findings))
    if findings.claims:
        console.print(_claims(results, findings))
    for text in notices:
        console.print(Text(text, style="yellow"))


def _claims(results: Results, findings: Findings) -> Table:
    """Verdict, claim and difference; what is behind them is in the report."""
    shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("claim")
    shown.add_column("difference, points", justify="right", no_wrap=True)
    for judged in findings.claims:
        said = said_of(judged, results.study)
        decision = Text(said.decision, STYLES.get(said.decision, ""))
        shown.add_row(decision, Text(said.claim), said.difference.removesuffix(" points"))
    return shown


def _title(cell: Cell) -> Text:
    """With the paper's numbers under it. Text, because words of a study page are no markup."""
    paper = ", ".join(f"{name} {value}" for name, value in cell.paper.items() if name != "row")
    return Text(cell.title) + Text(f"\npaper: {paper}" if paper else "", style="dim")


def _table(results: Results, findings: Findings) -> Table:
    study = results.study
    metrics = list(study.metrics)[: 1 + MOST_METRICS]
    shown = Table(title=study.title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown.show_lines = len(results.cells) <= FEW
    shown.add_column("cell", min_width=22, overflow="fold")
    shown.add_column("teacher", justify="right")
    for metric in metrics:
        shown.add_column(study.metrics[metric], justify="right", max_width=18)
    for cell in results.cells:
        title = _title(cell) if shown.show_lines else Text(cell.name)
        teacher = teacher_score(findings, cell, study.deciding)
        seeds = len(results.seeds)
        shown.add_row(
            title, teacher, *(score(findings.cells.get((cell.name, metric)), seeds=seeds) for metric in metrics)
        )
    spread = "" if len(results.seeds) == 1 else "mean ± standard deviation over "
    shown.caption = Text(f"Percent, {spread}{seeds_in_words(results)}.", style="dim")
    shown.caption_justify = "left"
    return shown
