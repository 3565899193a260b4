"""Pages of the site that are made of what the repository holds already: results, recipes, the help of every command,
the notebook.

A hook of mkdocs. What is generated is never written into docs/.
"""

import argparse
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from tour import page as tour_page

from distill.cli import build_list_parser, build_parser
from distill.config.pages import catalogue

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
SHOWN = (".md", ".png", ".csv")
"""Of the results; runs and unrounded numbers stay in the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of docs/."""
    pages = {
        "reference/commands.md": commands(),
        "reference/recipes.md": recipe_pages(),
        "results/labbook.md": (REPOSITORY / "recipes" / "README.md").read_text(encoding="utf-8"),
    }
    pages["tour.md"], pictures = tour_page()
    for name, content in (pages | pictures).items():
        files.append(File.generated(config, name, content=content))
    for path in sorted(RESULTS.rglob("*")):
        place = path.relative_to(RESULTS)
        if path.name == "report.md":
            files.append(File.generated(config, f"results/{place.as_posix()}", content=short(path, place)))
        elif path.suffix in SHOWN and "runs" not in place.parts:
            files.append(File.generated(config, f"results/{place.as_posix()}", abs_src_path=str(path)))
    return files


def short(report: Path, place: Path) -> str:
    """A report without every score and setting of every cell, which are thousands of lines at its end."""
    text = report.read_text(encoding="utf-8")
    text, found, _ = text.partition("\nEvery score")
    assert found, f"{report} has no line that begins with `Every score`"
    kept = f"`benchmarks/results/{place.as_posix()}`"
    return f"{text.rstrip()}\n\nEvery score of every seed and class, and every setting of every cell: {kept}.\n"


def commands() -> str:
    """The help of every command, as the terminal shows it at 100 columns."""
    parts = ["# Commands", "What `--help` prints, command by command."]
    parsers = {"distill": build_parser(), "distill eval list": build_list_parser()}
    for name, parser in parsers.items():
        parts += [part for found, each in _tree(name, parser) for part in (f"## {found}", _help(each))]
    return "\n\n".join(parts) + "\n"


def _tree(name: str, parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    """The parser and those below it, each with the words that lead to it."""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found = [(name, parser)]
    for choices in below:
        for word, inner in choices.items():
            found += _tree(f"{name} {word}", inner)
    return found


def _help(parser: argparse.ArgumentParser) -> str:
    kind = parser.formatter_class
    parser.formatter_class = lambda prog: kind(prog, width=100)
    return f"```text\n{parser.format_help().strip()}\n```"


def recipe_pages() -> str:
    """Every page that `distill recipes list` and `distill study list` name, as it stands in the file."""
    kinds = {"Recipes": "recipe", "Studies": "study", "Suites": "suite", "Launch settings": "launch"}
    parts = [
        "# Recipe pages",
        "The pages that come with distill: recipes, studies, suites, launch settings.",
    ]
    for title, kind in kinds.items():
        parts.append(f"## {title}")
        for name, path in catalogue(kind).items():
            parts += [f"### {name}", f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page, **others) -> str:
    """In the lab book and the reports, files of the repository are named from its root: make those here into links."""
    if not page.file.src_uri.startswith("results/"):
        return markdown
    depth = page.file.src_uri.count("/") - 1

    def linked(found: re.Match) -> str:
        folder = found[1].rstrip("/")
        report = RESULTS / folder / "report.md"
        target = f"{folder}/report.md" if report.exists() else folder
        if target == page.file.src_uri.removeprefix("results/"):
            return found[0]
        return f"[{found[0]}]({'../' * depth}{target})" if (RESULTS / target).exists() else found[0]

    return re.sub(r"`benchmarks/results/([\w./]+?)`", linked, markdown)
