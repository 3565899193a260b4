"""The report of a study: estimates and verdicts from runs, and files that say them without needing anything else."""

import contextlib
import csv
import io
import json
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock
from safetensors.numpy import save_file
from tiny_runs import own_accelerator

from distill.config import recipe_from_file, recipe_text, save_recipe
from distill.data.scenes.tiers import TIERS
from distill.resampling import score
from distill.show.basis import principal_colours
from distill.show.palette import class_colours
from distill.study.cells import Study, load_study
from distill.study.comparable import measured_otherwise
from distill.study.findings import findings_of
from distill.study.grid import read_page
from distill.study.inference import estimate, judge
from distill.study.jobs import Job, jobs_of, report_folder
from distill.study.measure import measuring_fingerprint
from distill.study.promote import read_records
from distill.study.report.colours import CELLS, cell_style, level_style
from distill.study.report.effects import write_effects
from distill.study.report.facets import groups_of
from distill.study.report.intervals import interval_table, model_tables
from distill.study.report.page import to_markdown
from distill.study.report.report import Drawn, content, write_report
from distill.study.report.tables import class_tables, effect_table, main_table
from distill.study.report.terminal import print_report
from distill.study.report.words import notices, opening, said_of, tally, without_places
from distill.study.results import Results, read_results
from distill.study.run.work import work
from distill.study.scored import statistics_of
from distill.train.journal import whole, write_atomically

METRIC, RETRIEVAL = "zero_shot_segmentation/value/miou", "retrieval/image_to_text_r1"
T_OF_TWO = 12.706204736
"""Student's t, one degree of freedom, 97.5 %."""
PAGE: dict[str, Any] = {
    "name": "made-up",
    "title": "A study of <nothing>",
    "metrics": {METRIC: "zero-shot mIoU", RETRIEVAL: "image→text R@1"},
    "scales": {"mini": {"recipe": "smoke", "expect": "nothing", "seeds": [0, 1]}},
    "factors": {
        "hidden": {level: {"masking.ratio": int(level[:-2]) / 100} for level in ("0 %", "50 %", "75 %")},
        "heard": {"masked": {"objective.patch.supervise": "masked"}, "all": {"objective.patch.supervise": "all"}},
    },
    "products": [{"factors": ["hidden", "heard"]}],
    "cells": [
        {
            "name": "base",
            "title": "pretraining | masked",
            "levels": {"hidden": "75 %", "heard": "masked"},
            "paper": {"row": "Table 2, row 1", "ADE150": 0.3},
        },
        {
            "name": "taught",
            "title": "distilled & <small>",
            "set": {"teacher.kind": "frozen", "teacher.checkpoint": "cell:base", "optim.lr": 0.001},
        },
    ],
    "claims": [
        {"say": "All beats masked", "better": "75-all", "than": "base", "by_more_than": 1, "source": "Table 3"},
        {"say": "Masked beats all", "better": "base", "than": "75-all", "source": "nobody"},
        {"say": "The student beats its teacher", "better": "taught", "than": "base", "source": "us"},
        {
            "say": "All is better whatever is hidden",
            "factor": "heard",
            "better": "all",
            "than": "masked",
            "source": "us",
        },
        {
            "say": "At half hidden it hardly matters",
            "factor": "heard",
            "better": "all",
            "than": "masked",
            "where": {"hidden": "50 %"},
            "within": 1,
            "source": "nobody",
        },
    ],
}
SCORES = {
    "base": [0.10, 0.20],
    "taught": [0.12, 0.19],
    "0-all": [0.18, 0.29],
    "50-masked": [0.12, 0.22],
    "50-all": [0.20, 0.30],
    "75-all": [0.25, 0.345],
}


def make_up(
    study: Study, store: Path, *, seeds: Sequence[int] = (0, 1), only: Sequence[str] = tuple(SCORES)
) -> list[Job]:
    """What finished runs leave behind, with scores of SCORES and empty checkpoints. Returns all jobs."""
    jobs = jobs_of(study, store, seeds=seeds)
    for job in jobs:
        if job.cell.name not in only:
            continue
        (job.folder / "checkpoints" / f"step_{job.recipe.optim.steps:08d}").mkdir(parents=True)
        save_recipe(job.recipe, job.folder / "recipe.yaml")
        share = SCORES[job.cell.name][job.seed]
        made = {
            "measured": measuring_fingerprint(job.recipe),
            "scores": {METRIC: share, RETRIEVAL: share / 2, "linear_segmentation/miou": None},
            "per_class": {"zero_shot_segmentation/value": {"circle": share, "star": None}},
            "settings": {},
            "num_images": 64,
            "seconds": 3.0,
            "environment": {"hardware": "an abacus", "commit": "abc123"},
        }
        (job.folder / "scores.json").write_text(json.dumps(made))
        nothing = {"nothing": np.zeros(1)}
        save_file(nothing, job.folder / "pictures.safetensors", metadata={"measured": made["measured"]})
        parts = [{"part": "image", "parameters": 1234}, {"part": "text", "parameters": 567}]
        summary = {"steps": 40, "seconds": 61.0, "parts": parts}
        summary |= {"peak_bytes": 7_000_000, "seconds_per_step": 0.125} if job.cell.name == "base" else {}
        (job.folder / "summary.json").write_text(json.dumps(summary))
        lines = [
            {"step": step, "patch/hidden": 5 - step / 20, "evaluate/zero_shot_segmentation/miou": share}
            for step in (1, 20, 40)
        ]
        (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(jobs)


def report(study: Study, jobs: Sequence[Job], folder: Path) -> str:
    """Write the report and return what was printed, in one line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        write_report(study, jobs, folder)
    return " ".join(printed.getvalue().split())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(results: Results) -> tuple[str, str]:
    """What would be printed, in one line, and the Markdown of the report without its figures."""
    findings, printed = findings_of(results), io.StringIO()
    limits = notices(results, findings)
    with contextlib.redirect_stdout(printed):
        print_report(results, findings, limits)
    nothing = Drawn(effects=None, curves=(), segmentations=(), features=(), classes=None, without_pictures=())
    text = to_markdown(results.study.title, content(results, findings, nothing, limits))
    return " ".join(printed.getvalue().split()), text


def with_run(results: Results, cell: str, seed: int, **changes: Any) -> Results:
    """The same results with one run changed."""
    return replace(results, runs=results.runs | {(cell, seed): replace(results.runs[cell, seed], **changes)})


def with_pictures(results: Results, folder: Path) -> Results:
    """Each of 64 pictures has the run's score; but where all is heard, odd ones 5 points more and even ones less."""
    odd = np.arange(64)[:, None] % 2
    for (cell, seed), run in results.runs.items():
        place = folder / f"{cell}{seed}"
        place.mkdir()
        bonus = 10 * odd - 5 if "all" in cell else 0 * odd
        counts = {"intersection": round(100 * run.scores[METRIC]) + bonus.repeat(2, 1), "union": np.full((64, 2), 100)}
        save_file({f"{METRIC[:-5]}/{name}": each for name, each in counts.items()}, place / "pictures.safetensors")
        results = with_run(results, cell, seed, folder=place)
    return results


def without_cells(results: Results, *cells: str) -> Results:
    kept = {place: run for place, run in results.runs.items() if place[0] not in cells}
    return replace(results, runs=kept)


def with_cell(results: Results, name: str, **sections: dict[str, Any]) -> Results:
    """The same results with some settings of one cell's page changed."""
    cell = results.study.cell(name)
    changed = {key: replace(getattr(cell.recipe, key), **values) for key, values in sections.items()}
    cells = [
        replace(each, recipe=replace(each.recipe, **changed)) if each == cell else each for each in results.study.cells
    ]
    return replace(results, study=replace(results.study, cells=tuple(cells)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("page") / "made-up.yaml"
    path.write_text(yaml.safe_dump(PAGE, sort_keys=False))
    return load_study(str(path))


@pytest.fixture(scope="module")
def jobs(study: Study, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Two seeds of made-up runs, not to be changed."""
    return make_up(study, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def results(study: Study, jobs: list[Job]) -> Results:
    return read_results(study, jobs)


@pytest.fixture(scope="module")
def reported(study: Study, jobs: list[Job], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the report on two seeds, and what was printed."""
    folder = tmp_path_factory.mktemp("reported") / "study"
    return folder, report(study, jobs, folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, tuple[Job, ...], Path]:
    """A study of two cells of the recipe `smoke`, trained for three steps and measured, and its report's folder."""
    folder = tmp_path_factory.mktemp("trained")
    page = {
        "name": "tiny",
        "title": "Two cells, three steps",
        "metrics": {METRIC: "zero-shot mIoU", RETRIEVAL: "image→text R@1", "linear_segmentation/miou": "linear probe"},
        "scales": {
            "mini": {
                "recipe": "smoke",
                "expect": "seconds",
                "set": {"optim.steps": 3, "evaluate.num_images": 16, "run.log_every": 1, "data.batch_size": 8},
                "seeds": [0],
            }
        },
        "cells": [
            {"name": "first", "title": "the teacher"},
            {
                "name": "second",
                "title": "the student",
                "set": {
                    "teacher.kind": "frozen",
                    "teacher.checkpoint": "cell:first",
                    "masking.ratio": 0.0,
                    "objective.patch.supervise": "all",
                },
            },
        ],
        "claims": [{"say": "It helps", "better": "second", "than": "first", "source": "us"}],
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    study = load_study(str(folder / "tiny.yaml"))
    made = jobs_of(study, folder / "store")
    for job in made:
        with own_accelerator():
            assert work(job) == 0
    report(study, made, report_folder(study, folder / "store"))
    return study, made, report_folder(study, folder / "store")


def test_a_trained_study_ends_in_a_page_with_all_pictures(trained):
    _, _, folder = trained
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == {"effects.png", "curves.png", "segmentations.png", "features.png", "classes.png"}
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == len(drawn)
    for path in folder.glob("*.png"):
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        assert int.from_bytes(header[16:20], "big") == 1600


def test_what_pictures_contribute_adds_up_to_the_scores(trained):
    study, made, _ = trained
    for run in read_results(study, made).runs.values():
        arrays = run.per_picture()
        known = {name: found for name in run.scores if (found := statistics_of(arrays, name)) is not None}
        assert {*study.metrics, "retrieval/text_to_image_r5"} <= set(known)
        assert any(name.endswith("patch_accuracy") for name in known)
        for name, statistics in known.items():
            assert score(statistics) == pytest.approx(run.scores[name], abs=1e-6), name


def test_the_page_renders_in_a_browser_without_errors_or_missing_pictures(trained):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    said: list[str] = []
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1200, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: said.append(asked.url) if asked.url.startswith("http") else None)
        page.goto((trained[2] / "report.html").as_uri())
        pictures = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
        for fold in page.locator("summary").all():
            fold.click()
        width = page.evaluate("document.documentElement.scrollWidth")
        title = page.inner_text("h1")
        opened.close()
    assert title == "Two cells, three steps"
    assert said == []
    assert len(pictures) == 5
    assert all(pictures)
    assert width <= 1200


def test_a_report_without_checkpoints_says_that_its_pictures_are_missing(reported):
    folder, _ = reported
    assert "No pictures: checkpoints are gone" in (folder / "report.html").read_text()
    assert not (folder / "segmentations.png").exists()
    assert (folder / "effects.png").exists()
    assert (folder / "classes.png").exists()


def test_the_page_needs_nothing_from_outside_and_names_every_cell(study, reported):
    folder, _ = reported
    text = (folder / "report.html").read_text()
    assert "A study of &lt;nothing&gt;" in text
    for title in ("pretraining | masked", "distilled &amp; &lt;small&gt;", "hidden 50 %, heard all"):
        assert title in text
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'>\s]+)", text)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)


def test_rows_hold_the_teachers_score_beside_the_students_and_the_papers_beside_ours(reported):
    lines = (reported[0] / "report.md").read_text().splitlines()
    taught = next(line for line in lines if line.startswith("| distilled & <small> |"))
    assert taught.startswith("| distilled & <small> | 15.0 ± 7.1 | 15.5 ± 4.9 [-29.0, 60.0] | 7.8 ± 2.5 | – |")
    masked = next(line for line in lines if line.startswith(r"| pretraining \| masked |"))
    assert masked.endswith(
        "| own average | 15.0 ± 7.1 [-48.5, 78.5] | 7.5 ± 3.5 | Table 2, row 1: ADE150\N{NO-BREAK SPACE}0.3 |"
    )


def test_cells_of_a_product_stand_under_the_levels_of_its_factors(reported):
    lines = (reported[0] / "report.md").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| hidden | heard |"))
    rows = [tuple(line.split(" | ")[:2]) for line in lines[start + 2 : start + 7]]
    assert rows == [
        ("| 0 %", "all"),
        ("| 50 %", "masked"),
        ("| 50 %", "all"),
        ("| 75 %", "masked"),
        ("| 75 %", "all"),
    ]


def test_settings_that_differ_are_shown_and_no_others(reported):
    lines = (reported[0] / "report.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| cell | masking.ratio"))
    assert "objective.patch.supervise" in header
    assert "teacher.checkpoint" in header
    assert "optim.steps" not in header
    assert "run." not in header
    assert any(line.startswith("| distilled") and "cell:base" in line for line in lines)


def test_claims_that_fail_and_claims_left_open_stay_in_with_their_numbers(reported):
    folder, said = reported
    text = (folder / "report.html").read_text()
    assert text.count('class="claim reproduced"') == 2
    assert text.count('class="claim not-reproduced"') == 2
    assert text.count('class="claim not-decided-here"') == 1
    assert "reproduced All beats masked +14.8 ± 0.4 [+11.6, +17.9]" in said
    assert "not decided here The student beats its teacher" in said
    written = (folder / "report.md").read_text()
    assert "- **Reproduced.** All beats masked: +14.8 ± 0.4 [+11.6, +17.9] points. Table 3." in written
    assert "over 2 seeds; the claim asks for more than 1." in written
    assert "- **Not reproduced.** Masked beats all: " in written
    assert "The opposite was seen." in written
    assert "mean of 2 pairs of cells that differ in nothing else, over 2 seeds" in written
    assert "mean of one pair of cells with hidden=50 % that differ in nothing else" in written
    assert "the claim asks for less than 1 either way." in written


def test_an_undecided_claim_says_how_many_seeds_would_decide_as_likely_as_not(reported):
    """Differences of 2 and -1 points: mean 0.5, deviation 2.12, so t_{n-1} 2.12 / sqrt(n) < 0.5 needs 72 seeds."""
    assert "With about 72 seeds a verdict is as likely as not" in (reported[0] / "report.md").read_text()


def test_effects_are_what_pairs_of_cells_say_seed_by_seed(reported):
    every = rows_of(reported[0] / "effects.csv")
    rows = {
        row["words"].partition(":")[0] + row["where"] + row["level"]: row
        for row in reversed(every)  # a level's first row is against the factor's first level
        if row["metric"] == METRIC
    }
    claimed = rows["All is better whatever is hiddenall"]
    # heard=all minus heard=masked: 8 and 8 points at half hidden, 15 and 14.5 at three quarters.
    numbers = {"mean": 11.375, "deviation": 0.25 / 2**0.5, "low": 11.375 - T_OF_TWO * 0.125}
    for name, value in numbers.items():
        assert float(claimed[name]) == pytest.approx(value, abs=1e-5)
    assert (claimed["kind"], claimed["factor"], claimed["against"]) == ("claim", "heard", "masked")
    assert (claimed["seeds"], claimed["picture_error"], claimed["decision"]) == ("2", "", "reproduced")
    main = rows["heardall"]
    assert main["kind"] == "main effect"
    assert [main[name] for name in numbers] == [claimed[name] for name in numbers]
    assert main["decision"] == "higher"
    assert rows["At half hidden it hardly mattershidden=50 %all"]["decision"] == "not reproduced"
    # hidden 75 % against 0 % exists where all is heard only: 25 - 18 and 34.5 - 29.
    assert float(rows["hidden75 %"]["mean"]) == pytest.approx(6.25)
    # How much more hearing all brings at 75 % than at 50 %: 7 and 6.5, as nothing is heard at 0 % hidden.
    both = rows["hiddenheard=all against masked75 %"]
    assert (both["kind"], both["against"]) == ("interaction", "50 %")
    assert float(both["mean"]) == pytest.approx(6.75)
    lost = rows["hiddenheard=all against masked0 %"]
    assert lost["mean"] == ""
    assert "no cells differ only" in lost["words"]


def test_main_effects_are_there_for_every_metric_and_interactions_for_the_deciding_one(reported):
    kinds = {(row["kind"], row["metric"]) for row in rows_of(reported[0] / "effects.csv") if row["kind"] != "claim"}
    assert kinds == {("main effect", METRIC), ("main effect", RETRIEVAL), ("interaction", METRIC)}


def test_pictures_that_all_seeds_share_widen_the_interval(results, tmp_path):
    before = {each.claim.say: each.difference for each in findings_of(results).claims}
    results = with_pictures(results, tmp_path)
    after = {each.claim.say: each.difference for each in findings_of(results).claims}
    # Each picture moves it by +-5 points: the standard error of a mean over 64 of them.
    assert after["All beats masked"].pictures == pytest.approx(5 / 8, rel=0.1)
    assert after["The student beats its teacher"].pictures == pytest.approx(0, abs=1e-9)
    for say, wider in (("All beats masked", True), ("The student beats its teacher", False)):
        assert (after[say].high > before[say].high + 1e-9) == wider


def test_one_seed_has_no_error_bar_and_the_report_says_so(results):
    alone = replace(results, seeds=(0,), runs={place: run for place, run in results.runs.items() if place[1] == 0})
    said, text = shown(alone)
    assert "±" not in text.replace("± standard deviation", "")
    assert "One seed: differences of this size may be noise" in text
    assert "**Seen in this one seed.** All beats masked" in text
    assert "**Not seen in this one seed.** Masked beats all" in text
    assert "differences of this size may be noise" in said


def test_a_quick_study_decides_nothing(results):
    said, text = shown(replace(results, study=replace(results.study, quick=True)))
    assert "quick version of the study" in said
    assert said.count("not decided here") == len(results.study.claims)
    assert "**Reproduced" not in text


def test_seeds_trained_differently_are_named_and_decide_nothing(results):
    recipe = results.runs["base", 1].recipe
    said, _ = shown(with_run(results, "base", 1, recipe=replace(recipe, optim=replace(recipe.optim, weight_decay=9.0))))
    assert re.search(
        r"Seeds 0 and 1 do not compare, so nothing is decided: optim.weight_decay: \S+ -> 9.0 in base\.", said
    )
    assert "teacher.checkpoint" not in said
    assert said.count("not decided here") == len(results.study.claims)


def test_seeds_measured_on_other_pictures_decide_nothing(results):
    said, _ = shown(with_run(results, "base", 1, num_images=32))
    assert "measured on 64 -> 32 pictures in base" in said
    assert said.count("not decided here") == len(results.study.claims)


def test_effects_are_as_undecided_as_claims_in_quick_studies_and_with_unequal_seeds(results, tmp_path):
    recipe = results.runs["base", 1].recipe
    unequal = with_run(results, "base", 1, recipe=replace(recipe, optim=replace(recipe.optim, weight_decay=9.0)))
    quick = replace(results, study=replace(results.study, quick=True))
    assert {each.decision for each in findings_of(results).effects} == {"higher", "not decided here"}
    for changed, why in ((quick, "the quick version of a study decides nothing"), (unequal, "seeds differ")):
        findings = findings_of(changed)
        assert {each.decision for each in findings.effects} == {"not decided here"}
        write_effects(findings, tmp_path / "effects.csv")
        rows = [row for row in rows_of(tmp_path / "effects.csv") if row["kind"] != "claim" and row["mean"]]
        assert rows
        assert all(row["words"].endswith(f": {why}") for row in rows)
        assert effect_table(changed, findings).caption.endswith(f"Nothing is decided here: {why}.")


def test_an_effect_of_a_partly_done_grid_says_which_cells_are_missing_and_decides_nothing(results, tmp_path):
    partly = without_cells(results, "50-masked")
    findings = findings_of(partly)
    write_effects(findings, tmp_path / "effects.csv")
    every = [row for row in rows_of(tmp_path / "effects.csv") if row["metric"] == METRIC]
    rows = {row["words"].partition(": the ")[0]: row for row in every}
    main = rows["heard: all against masked"]
    assert float(main["mean"]) == pytest.approx((15 + 14.5) / 2)
    assert float(main["low"]) > 0
    assert main["decision"] == "not decided here"
    assert main["words"].endswith(": the pairs with 50-masked are missing")
    assert rows["hidden: 75 % against 0 %"]["decision"] == "not decided here"  # by its interval
    table = effect_table(partly, findings)
    assert next(row for row in table.rows if row[0] == "heard: all against masked")[1] == "1 of 2"
    assert next(row for row in table.rows if row[0] == "hidden: 75 % against 0 %")[1] == "1"
    assert "the other pairs lack results of some of 50-masked" in table.caption


def test_three_intervals_of_every_cell_stand_beside_the_one_that_is_used(results, tmp_path):
    results = with_pictures(results, tmp_path)
    findings = findings_of(results)
    found = {each.cell: each for each in findings.intervals}
    both = found["75-all"]  # scores 25 and 34.5; one more odd picture moves it by 10 / 64
    assert (both.over_seeds.low, both.over_seeds.high) == pytest.approx(
        (29.75 - T_OF_TWO * 4.75, 29.75 + T_OF_TWO * 4.75)
    )
    assert (both.bootstrap.low, both.bootstrap.high) == (25.0, 34.5)
    half = (both.over_pictures.high - both.over_pictures.low) / 2
    assert half == pytest.approx(1.96 * 5 / 8, rel=0.1)
    assert both.used.high - both.used.mean == pytest.approx(
        np.hypot(T_OF_TWO * 4.75, 1.96 * both.used.pictures), abs=1e-3
    )
    table = interval_table(results, findings)
    row = next(row for row in table.rows if row[0] == "hidden 75 %, heard all")
    assert row[1:6] == ("2", "29.8", "6.7", "[-30.6, 90.1]", "[25.0, 34.5]")
    assert row[6].startswith("[28.")


def test_the_linear_model_of_a_full_product_says_what_matched_cells_say(results):
    square = without_cells(results, "0-all")
    findings = findings_of(square)
    model = findings.model
    assert model.lost == ("0-all",)
    assert set(model.cells) == {"base", "50-masked", "50-all", "75-all"}
    terms = {each.term: each.estimate for each in model.terms}
    on = [each for each in findings.effects if each.metric == METRIC]
    effects = {(each.factor, each.level, each.where): each.estimate for each in on}
    [term] = [name for name in terms if "heard" in name and "×" not in name]
    assert abs(terms[term].mean) == pytest.approx(effects["heard", "all", None].mean)
    assert terms[term].deviation == pytest.approx(effects["heard", "all", None].deviation)
    [both] = [name for name in terms if "×" in name]
    assert abs(terms[both].mean) == pytest.approx(6.75)


def test_a_term_without_cells_to_tell_it_has_no_coefficient_and_a_reason(results):
    fitted, apart = model_tables(results, findings_of(results))
    told = {row[0] for row in fitted.rows}
    [(term, reason)] = apart.rows
    assert "0 %" in term
    assert "×" in term
    assert reason == "no cell has hidden: 0 % with heard: masked"
    assert len(told) == 4  # two levels of hidden and one of heard beside the usual ones, and an interaction
    assert findings_of(without_cells(results, "0-all", "50-masked", "50-all", "75-all")).model is None


def test_teachers_are_counted_by_what_they_are_and_cells_without_one_have_a_dash(results):
    assert "As teacher, one has the frozen student of another cell of the same seed, 5 a moving" in opening(results)
    objective = results.study.cell("0-all").recipe.objective
    alone = with_cell(results, "0-all", objective={"patch": replace(objective.patch, supervise="none")})
    changes = {"kind": "partial", "trainable": ("head",)}
    learning = with_cell(alone, "taught", teacher=changes)
    said = opening(learning)
    assert (
        "As teacher, one has the student of another cell of the same seed, which goes on learning in part, 4 " in said
    )
    assert "of the student itself, one none." in said
    rows = {row[0]: row[1] for row in main_table(learning, findings_of(learning), learning.cells).rows}
    assert rows["hidden 0 %, heard all"] == "–"
    assert rows["distilled & <small>"] == "15.0 ± 7.1"
    assert rows["hidden 50 %, heard all"] == "own average"


def test_runs_on_other_pictures_are_named_and_their_picture_error_is_missing(results, tmp_path):
    results = with_pictures(results, tmp_path)
    assert not measured_otherwise(results)
    assert "Every student is measured in the same way on 64 held-out" in opening(results)
    assert not any("held-out pictures is missing" in text for text in notices(results, findings_of(results)))
    other = with_run(results, "taught", 1, num_images=32)
    findings = findings_of(other)
    by_claim = {each.claim.say: each.difference.pictures for each in findings.claims}
    assert by_claim["The student beats its teacher"] is None
    assert by_claim["All beats masked"] == pytest.approx(5 / 8, rel=0.1)
    said = " ".join(notices(other, findings))
    assert "Not every run was measured in the same way" in said
    assert "num_images: 32, not 64 in taught (seed 1)" in said
    assert "take part: taught (seed 1) (measured on other pictures than most)." in said
    assert "Students are measured on 32 or 64 held-out" in opening(other)


def test_other_settings_of_a_task_are_named_and_the_token_of_retrieval_is_not(results):
    settings = {"linear_segmentation": {"ridge": 0.1, "batch_size": 8}, "retrieval": {"cls": 1}}
    for cell, seed in results.runs:
        results = with_run(results, cell, seed, settings=settings)
    other = {"linear_segmentation": {"ridge": 0.5, "batch_size": 4}, "retrieval": {"cls": 0}}
    found = measured_otherwise(with_run(results, "50-all", 0, settings=other))
    assert found == {"linear_segmentation.ridge: 0.5, not 0.1": [("50-all", 0)]}


def test_an_undecided_claim_says_whether_seeds_or_pictures_are_too_few(results):
    judged = findings_of(results).claims[2]

    def outlook(values: list[float], picture_error: float) -> str:
        found = estimate(dict(enumerate(values)), picture_error=picture_error)
        changed = replace(judged, difference=found, verdict=judge(found, judged.expectation))
        assert changed.decision == "not decided here"
        return said_of(changed, results.study).details

    assert "the held-out pictures are too few" in outlook([1.0, 1.0], 0.6)
    assert "the difference is too close to the bound" in outlook([-9.0, 9.4], 0.0)
    assert "as likely as not" in outlook([2.0, -1.0], 0.1)


def test_an_open_equality_comes_with_how_rarely_three_seeds_show_one(results):
    assert "equality" not in tally(findings_of(results))
    claim = replace(results.study.claims[2], by_more_than=0, within=3)
    said = tally(findings_of(replace(results, study=replace(results.study, claims=(claim,)))))
    assert "64, 17 and 6 % of studies" in said
    generator = np.random.default_rng(0)
    for deviation, percent in ((1, 64), (2, 17), (3, 6)):
        seen = generator.normal(scale=deviation, size=(100_000, 3))
        half = 4.302653 * seen.std(1, ddof=1) / 3**0.5
        assert 100 * (np.abs(seen.mean(1)) + half < 3).mean() == pytest.approx(percent, abs=0.7)


def test_runs_measured_under_other_versions_are_mentioned_and_still_compare(results):
    other = {"hardware": "a slide rule", "commit": "def456"}
    said, text = shown(with_run(results, "base", 1, environment=other))
    assert "measured under 2 versions of the code" in said
    assert "reproduced All beats masked" in said
    assert "| 11 | an abacus | abc123 |" in text
    assert "| 1 | a slide rule | def456 |" in text


def test_a_partly_done_grid_is_reported_with_what_is_missing_and_what_failed(study, jobs, tmp_path):
    lost = ["50-masked-seed0", "50-masked-seed1", "0-all-seed1"]
    partly = [replace(job, folder=tmp_path / "store" / job.name) if job.name in lost else job for job in jobs]
    for job in partly:
        if job.cell.name == "50-masked":
            job.folder.mkdir(parents=True)
            page = {"message": f"RuntimeError: not finite in {job.folder}\nand more", "when": "", "traceback": ""}
            (job.folder / "error.json").write_text(json.dumps(page))
    said = report(study, partly, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "2 runs failed: 50-masked (seeds 0, 1)" in said
    assert "This report is on 9 of 12 runs; not done yet: 0-all (seed 1)." in said
    assert "| 50-masked | 0 | RuntimeError: not finite in …/50-masked-seed0 |" in text
    # A claim about levels with a pair missing shows the others and decides nothing; one about cells is untouched.
    assert "not decided here All is better" in said
    assert "mean of one pair of cells" in text
    assert "Not decided, because the pairs with 50-masked are missing." in text
    assert "At half hidden it hardly matters: –. Nobody. zero-shot mIoU cannot be compared" in text
    assert "reproduced All beats masked" in said
    grid = next(line for line in text.splitlines() if line.startswith("| 0 % | all |"))
    assert "18.0 (n = 1)" in grid
    assert {row["cell"] for row in rows_of(tmp_path / "report" / "results.csv")} == set(SCORES) - {"50-masked"}


def test_a_study_without_any_result_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match="no run is done yet"):
        write_report(study, jobs_of(study, tmp_path), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_damaged_scores_file_is_named(study, tmp_path):
    [job] = [job for job in make_up(study, tmp_path, seeds=[0], only=["base"]) if job.cell.name == "base"]
    path = job.folder / "scores.json"
    path.write_text(json.dumps({"measured": json.loads(path.read_text())["measured"], "scores": {}}))
    with pytest.raises(ValueError, match=r"scores\.json lacks 'per_class'"):
        read_results(study, [job])


def test_refused_combinations_are_listed_with_their_reason(reported):
    text = (reported[0] / "report.md").read_text()
    assert "| hidden 0 %, heard masked | supervise=masked hears nothing when nothing is hidden" in text


def test_a_claim_about_something_that_was_not_measured_is_not_decided(results):
    claim = replace(results.study.claims[0], metric="linear_segmentation/miou")
    _, text = shown(replace(results, study=replace(results.study, claims=(claim,))))
    assert "linear_segmentation/miou cannot be compared: no results of 75-all, base." in text


def test_many_classes_and_cells_are_cut_into_tables_that_fit_a_page(results):
    scores = {"zero_shot_segmentation/value": {f"class {number}": number / 100 for number in range(5)}}
    many = {"zero_shot_segmentation/value": {f"class {number}": number / 100 for number in range(30)}}
    for found, cells_down, num_classes in ((scores, True, 5), (many, False, 30)):
        changed = results
        for cell, seed in results.runs:
            changed = with_run(changed, cell, seed, per_class=found)
        [table] = class_tables(changed)
        assert len(table.rows) == (6 if cells_down else num_classes)
    cells = [replace(results.study.cells[0], name=f"cell {number}", title=f"cell {number}") for number in range(20)]
    runs = {(cell.name, 0): replace(results.runs["base", 0], cell=cell.name, per_class=many) for cell in cells}
    study = replace(results.study, cells=tuple(cells))
    tables = class_tables(replace(results, study=study, runs=runs))
    assert [len(table.header) - 1 for table in tables] == [7, 7, 6]
    assert [title for table in tables for title in table.header[1:]] == [cell.title for cell in cells]
    assert all(row[0] == f"class {number}" for table in tables for number, row in enumerate(table.rows))
    assert {value for table in tables for value in table.rows[7][1:]} == {"7"}
    assert tables[2].fold.endswith("(3 of 3)")


def test_cost_has_a_dash_where_older_runs_did_not_record_it(reported):
    lines = (reported[0] / "report.md").read_text().partition("## Cost")[2].splitlines()
    base = next(line for line in lines if line.startswith(r"| pretraining \| masked |"))
    assert base.endswith("| 1,234 | 567 | 7 | 0.125 | 61 | 3 |")
    other = next(line for line in lines if line.startswith("| hidden 50 %, heard all |"))
    assert other.endswith("| 1,234 | 567 | – | – | 61 | 3 |")


def test_the_same_results_give_the_same_files_and_those_of_an_earlier_report_go(study, jobs, reported, tmp_path):
    (tmp_path / "segmentations_2.png").write_bytes(b"old")
    (tmp_path / "photo.png").write_bytes(b"somebody's")
    assert report(study, jobs, tmp_path) == reported[1]
    names = {path.name for path in tmp_path.iterdir()} - {"photo.png"}
    assert names == {path.name for path in reported[0].iterdir()}
    assert {"results.csv", "effects.csv", "report.md", "report.html", "curves.png", "effects.png"} <= names
    assert "report.json" in names
    for name in names:
        assert (tmp_path / name).read_bytes() == (reported[0] / name).read_bytes(), name


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of the time."""
    nothing = Drawn(effects=None, curves=(), segmentations=(), features=(), classes=None, without_pictures=())
    monkeypatch.setattr("distill.study.report.report.draw", lambda *_: nothing)


def test_two_processes_that_report_at_once_both_succeed_one_after_the_other(study, jobs, undrawn, tmp_path):
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            write_report(study, jobs, tmp_path)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=attempt) for _ in range(2)]
    with FileLock(tmp_path / ".report.lock"):
        for writer in writers:
            writer.start()
        writers[0].join(timeout=0.5)
        assert {path.name for path in tmp_path.iterdir()} == {".report.lock"}, "they wait for who holds the folder"
    for writer in writers:
        writer.join()
    assert failed == []
    assert json.loads((tmp_path / "report.json").read_text())["done"] == len(jobs)
    files = {"results.csv", "effects.csv", "report.md", "report.html", "report.json", ".report.lock"}
    assert {path.name for path in tmp_path.iterdir()} == files


def test_two_writers_of_one_file_have_a_place_each_and_an_error_leaves_nothing(tmp_path):
    path = tmp_path / "page"
    with whole(path) as one:
        one.write_text("first")
        with whole(path) as two:
            two.write_text("second")
            assert one != two
            assert {each.parent for each in (one, two)} == {tmp_path}
            assert all(each.name.startswith(".") for each in (one, two))
            write_atomically(path, "third: –")
            assert path.read_text(encoding="utf-8") == "third: –"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("page", "first")]


def test_a_report_says_what_it_is_of(study, jobs, reported, undrawn, tmp_path):
    origin = json.loads((reported[0] / "report.json").read_text())
    assert origin.pop("runs") == {job.name: job.key for job in jobs}
    assert origin == {
        **{"study": "made-up", "scale": "mini", "quick": False, "recipe": "smoke", "overrides": [], "part": False},
        **{"seeds": [0, 1], "asked": 12, "done": 12, "failed": 0, "unequal": []},
    }
    lost = [replace(job, folder=tmp_path / job.name) if job.name == "0-all-seed1" else job for job in jobs]
    with contextlib.redirect_stdout(io.StringIO()):
        write_report(study, lost, tmp_path, overrides=["data.root=/home/me/world"], part=True)
    partly = json.loads((tmp_path / "report.json").read_text())
    assert (partly["asked"], partly["done"], partly["failed"]) == (12, 11, 0)
    assert "0-all-seed1" not in partly["runs"]
    assert (partly["overrides"], partly["part"]) == (["data.root=…/world"], True)


def test_what_a_report_writes_is_what_promote_reads(study, results, reported, tmp_path):
    (tmp_path / "made-up.yaml").write_text(yaml.safe_dump(PAGE, sort_keys=False))
    records = read_records(reported[0], read_page(str(tmp_path / "made-up.yaml")), study)
    assert (records.seeds, records.asked, records.done) == (results.seeds, 12, 12)
    assert {run: score / 100 for run, score in records.scores.items()} == pytest.approx(
        {(cell, seed): share for cell, shares in SCORES.items() for seed, share in enumerate(shares)}
    )
    [found] = [each for each in records.effects["heard"] if (each.level, each.against) == ("all", "masked")]
    [said] = [each for each in findings_of(results).of("main effect", metric=METRIC) if each.factor == "heard"]
    assert asdict(found.found) == pytest.approx(asdict(said.estimate), abs=1e-6)


def test_a_report_that_breaks_off_leaves_no_word_on_what_it_is_of(study, jobs, tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("of an earlier report")
    (tmp_path / ".results.csv.0123.unfinished").write_text("of a writer that was killed")
    monkeypatch.setattr("distill.study.report.report.draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(study, jobs, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".report.lock", "results.csv", "effects.csv"}


def test_no_file_names_a_place_on_this_machine(trained, reported, jobs):
    places = {str(trained[1][0].folder.parents[2]), str(jobs[0].folder.parents[1]), str(Path(__file__).parents[1])}
    for folder in (trained[2], reported[0]):
        for path in folder.iterdir():
            content = path.read_bytes()
            assert not any(place.encode() in content for place in places), path.name


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no file '/home/me/runs/a/log.txt' there", "no file '…/log.txt' there"),
        ("see C:\\me\\runs\\log.txt", "see …/log.txt"),
        ("loss/patch is not finite, 3/4 and and/or", "loss/patch is not finite, 3/4 and and/or"),
    ],
)
def test_errors_lose_the_places_they_name(text, left):
    assert without_places(text) == left


def test_the_csv_has_one_row_per_cell_seed_and_metric(reported):
    rows = rows_of(reported[0] / "results.csv")
    assert list(rows[0]) == ["cell", "seed", "metric", "value"]
    assert len(rows) == len({(row["cell"], row["seed"], row["metric"]) for row in rows}) == 6 * 2 * 5
    of: Mapping[tuple[str, str, str], str] = {(row["cell"], row["seed"], row["metric"]): row["value"] for row in rows}
    assert float(of["75-all", "1", METRIC]) == 0.345
    assert of["75-all", "1", "linear_segmentation/miou"] == ""
    assert float(of["base", "0", "zero_shot_segmentation/value/class/circle"]) == 0.10


def test_the_report_holds_the_resolved_recipes_and_the_machine(reported, jobs):
    text = (reported[0] / "report.md").read_text()
    recipe = recipe_from_file(jobs[0].folder / "recipe.yaml")
    student = recipe_text(recipe).partition("student:")[2].partition("objective:")[0]
    assert text.count(student) == 6
    assert "75-all:\n  objective.patch.supervise: all\n" in text
    assert "an abacus" in text


def test_every_cell_is_in_some_figure_and_no_panel_is_crowded(study):
    named = [cell for cell in study.cells if cell.paper or not cell.levels]
    groups = groups_of(study, study.cells, named)
    assert {line.cell.name for group in groups for _, lines in group.columns for line in lines} == set(SCORES)
    for group in groups:
        for _, lines in group.columns:
            assert len({tuple(line.style.values()) for line in lines}) == len(lines)
    assert [title for title, _ in groups[-1].columns] == ["hidden: 0 %", "hidden: 50 %", "hidden: 75 %"]


def test_equal_levels_look_equal_and_others_do_not():
    styles = [tuple(level_style(colour, dash).values()) for colour in range(4) for dash in range(3)]
    assert len(set(styles)) == len(styles)


def test_every_class_of_every_world_has_its_own_colour():
    assert TIERS
    for tier in TIERS.values():
        count = tier.num_thing_classes + tier.num_stuff_classes
        colours = class_colours(count, tier.num_thing_classes, range(count))
        assert len(set(colours.values())) == count
        assert class_colours(count, tier.num_thing_classes, [3])[3] == colours[3]


def test_a_large_class_list_gives_its_colours_to_the_classes_shown():
    colours = class_colours(133, 80, [5, 100, 17, 131])
    assert len(set(colours.values())) == 4


def test_no_two_of_a_dozen_cells_are_drawn_alike():
    styles = [tuple(cell_style(number).values()) for number in range(12)]
    assert len(set(styles)) == 12
    assert len(set(CELLS)) == len(CELLS)


def test_equal_features_have_equal_colours_in_all_pictures():
    generator = np.random.default_rng(0)
    maps = [generator.normal(size=(4, 4, 16)) for _ in range(3)]
    maps[2][1, 1] = maps[0][2, 3]
    colours = principal_colours(maps)
    assert np.array_equal(colours[2][1, 1], colours[0][2, 3])
    stacked = np.stack(colours)
    assert stacked.min() == 0
    assert stacked.max() == 1


def test_features_without_any_difference_still_have_a_colour():
    assert np.isfinite(principal_colours([np.ones((2, 2, 8))])[0]).all()
