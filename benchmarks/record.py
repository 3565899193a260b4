"""What a benchmark leaves: tables on the terminal, and the same with its conditions as JSON and Markdown."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as RichTable

from distill.environment import environment

PACKAGES = ("timm", "open_clip_torch", "accelerate")


@dataclass(frozen=True)
class Table:
    """`rows` are texts for people; `numbers` is the same unrounded, by row and quantity, in SI units."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    numbers: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Record:
    name: str
    date: str
    command: str
    conditions: dict[str, str]
    tables: list[Table]
    recipes: dict[str, dict[str, Any]]
    """Every setting of every case."""
    changes: dict[str, list[str]]
    """Per case, what it sets differently from the case it is derived from."""


def conditions(*, precision: str, device: torch.device) -> dict[str, str]:
    """Hardware, threads, versions and commit."""
    found = environment()
    if device.type == "cpu":
        found["hardware"] += "; no accelerator used"
    busy = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    packages = {package: version(package) for package in PACKAGES}
    return found | packages | {"precision": precision, "threads": str(torch.get_num_threads()), "load": busy}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def show(record: Record, console: Console) -> None:
    for table in record.tables:
        shown = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def write(record: Record, folder: Path) -> tuple[Path, Path]:
    """NAME.json and NAME.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, page = folder / f"{record.name}.json", folder / f"{record.name}.md"
    numbers.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(markdown(record), encoding="utf-8")
    return numbers, page


def markdown(record: Record) -> str:
    lines = [f"# {record.name}", "", f"{record.date}, `{record.command}`", "", "| condition | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in record.conditions.items()]
    for table in record.tables:
        lines += ["", f"## {table.title}", "", table.note, ""]
        lines += ["| " + " | ".join(table.columns) + " |", "|---" + "|---:" * (len(table.columns) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    if record.changes:
        lines += ["", "## Recipes", "", f"Every setting of every case is in `{record.name}.json` under `recipes`."]
    for name, changed in record.changes.items():
        lines += ["", f"**{name}**", ""] + [f"- `{change}`" for change in changed or ["nothing changed"]]
    return "\n".join(lines) + "\n"
