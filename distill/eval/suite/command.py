"""`distill eval MODEL [MODEL ...] --suite NAME`: whatever of a suite can be measured here, in one page."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from distill.eval.command import evaluation_words, split_side
from distill.eval.suite.comparison import Compared, compare
from distill.eval.suite.measure import FORMAT, Outcome, carry_out, folder_of
from distill.eval.suite.page import Suite, read_suite
from distill.eval.suite.subject import FOLDER, Subject, of_a_family, of_a_run
from distill.eval.suite.tables import beside, cell, columns_of, first_line, page
from distill.train.journal import write_atomically

FEWEST = 5
"""Pictures of a quick look: nearest neighbours need as many."""


def evaluate_suite(
    models: Sequence[str],
    name: str,
    overrides: Sequence[str],
    *,
    limit: int | None = None,
    to: Path | None = None,
) -> int:
    """Measure, print a table, write `eval.json` and `eval.md` beside each encoder's results; of several encoders also
    `comparison.json` and `comparison.md`. Returns 1 if a measurement failed, else 0.

    Overrides: settings of `evaluate` for all measurements, `image_size=`, `side=` of runs, `weights=` of a family's
    encoder, `run.device=cpu`. Raises ValueError for what cannot be found or understood, and where nothing of the suite
    can be measured.
    """
    suite = read_suite(name)
    side, own, words = _split(overrides)
    if limit is not None and limit < FEWEST:
        raise ValueError(f"--limit {limit}: expected at least {FEWEST} pictures of each set")
    families = [model for model in models if not Path(model).exists()]
    for model in families:
        if ":" not in model:
            raise FileNotFoundError(f"{model}: no such run or checkpoint folder, and no FAMILY:NAME")
    if own.get("weights") is not None and len(families) != 1:
        raise ValueError("weights=FILE is of one encoder FAMILY:NAME; of several, measure them one after the other")
    places = [str(Path(model).resolve()) if Path(model).exists() else model for model in models]
    if twice := [model for number, model in enumerate(models) if places[number] in places[:number]]:
        raise ValueError(f"{twice[0]} is named twice")
    size = _pixels(own["image_size"]) if "image_size" in own else None
    console = Console(stderr=True)
    outcomes: list[Outcome] = []
    for model in models:
        subject = _subject(model, side=side, weights=own.get("weights"), image_size=size)
        device = "cuda" if torch.cuda.is_available() and subject.recipe(words).run.device == "auto" else "cpu"
        if any(folder_of(subject, suite, limit) == other.folder for other in outcomes):
            raise ValueError(f"{model} is named twice, or is the same as an encoder before it")
        outcome = carry_out(subject, suite, words=words, limit=limit, device=device, console=console)
        if not outcome.measured and not outcome.failed:
            raise ValueError(f"nothing of the suite {suite.name} can be measured here:\n{_reasons(outcome)}")
        outcomes.append(replace(outcome, name=_unlike(outcome.name, outcomes)))
        compared = _write(suite, outcomes[-1:], outcome.folder, "eval")
        subject.encoder.to("cpu")
    if len(outcomes) > 1:
        folder = to or FOLDER / f"compare-{suite.name}"
        compared = _write(suite, outcomes, folder, "comparison")
    else:
        folder = outcomes[0].folder
    _print(suite, outcomes, compared, folder)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _split(overrides: Sequence[str]) -> tuple[Any, dict[str, str], list[str]]:
    """The side, what is said of the encoders themselves, and settings with their full keys."""
    side, others = split_side(overrides)
    own = dict(word.split("=", 1) for word in others if word.startswith(("weights=", "image_size=")))
    left = [word for word in others if word.partition("=")[0] not in own]
    if any(word.removeprefix("evaluate.").startswith("num_images=") for word in left):
        raise ValueError("a suite takes sets whole, or `--limit N` pictures of each; num_images says nothing here")
    return side, own, evaluation_words(left, "side", "weights", "image_size")


def _pixels(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"image_size={text} is no number of pixels")
    return int(text)


def _subject(model: str, *, side: Any, weights: str | None, image_size: int | None) -> Subject:
    if Path(model).exists():
        return of_a_run(model, side=side, image_size=image_size)
    if side != "student":
        raise ValueError(f"side={side} is one of a run, and {model} is an encoder of a family")
    return of_a_family(model, weights=weights, image_size=image_size)


def _reasons(outcome: Outcome) -> str:
    """Every measurement that is missing, with its reason."""
    return "\n".join(f"  {name}: {first_line(reason)}" for name, reason in outcome.missing.items())


def _unlike(name: str, others: Sequence[Outcome]) -> str:
    """A name that no other encoder has."""
    number, told = 1, name
    while any(other.name == told for other in others):
        number += 1
        told = f"{name} [{number}]"
    return told


def _write(suite: Suite, outcomes: Sequence[Outcome], folder: Path, name: str) -> list[Compared]:
    """The page and its numbers; returns what stands in the tables."""
    compared = compare(outcomes, columns_of(suite, outcomes))
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "suite": suite.name,
        "encoders": [asdict(outcome) | {"folder": outcome.folder.as_posix()} for outcome in outcomes],
        "compared": [asdict(each) for each in compared],
    }
    write_atomically(folder / f"{name}.json", json.dumps(content, indent=1, allow_nan=False))
    write_atomically(folder / f"{name}.md", page(suite, outcomes, compared))
    return compared


def _print(suite: Suite, outcomes: Sequence[Outcome], compared: Sequence[Compared], folder: Path) -> None:
    title = suite.title if outcomes[0].limit is None else f"{suite.title}: a quick look, {outcomes[0].limit} pictures"
    several = len(outcomes) > 1
    note = "in brackets the difference to the first; * its 95 % interval, paired by picture, is on one side of 0"
    table = Table("measurement", title=title, min_width=len(title), caption=note if several else None)
    for outcome in outcomes:
        table.add_column(outcome.name, justify="right", overflow="fold")
    for each in compared:
        cells = (beside(each, place) if several else cell(each, place) for place in range(len(outcomes)))
        table.add_row(each.column, *cells)
    Console().print(table)
    sys.stdout.flush()
    for outcome in outcomes:
        if outcome.missing:
            first = first_line(next(iter(outcome.missing.values())))
            print(f"{outcome.name}: not measured here: {', '.join(outcome.missing)}; the first because: {first}")
        for each, error in outcome.failed.items():
            print(f"{outcome.name}: {each} FAILED: {first_line(error)}")
    kind = "eval" if len(outcomes) == 1 else "comparison"
    print(f"written to {folder / kind}.md and {kind}.json")
