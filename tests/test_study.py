"""Studies: what is measured of a run, verdicts on claims, and the report over all seeds."""

import contextlib
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from distill.compose import load_trained
from distill.config import recipe_text, save_recipe
from distill.config.pages import catalogue
from distill.data.scenes import SceneWorld
from distill.data.scenes.tiers import TIERS
from distill.eval.prompts import class_embeddings
from distill.study.colours import CELLS, cell_style, class_colours
from distill.study.grid import Cell, Claim, Study, cell_recipe
from distill.study.measure import measure
from distill.study.pictures import principal_colours
from distill.study.report import sentence, verdicts_on, write_report
from distill.study.results import Results, finished_seeds, read_results
from distill.study.runner import run_study
from distill.study.statistics import Spread, decide, judge, spread

METRIC = "zero_shot_segmentation/value/miou"
STUDY = Study(
    name="made-up",
    title="A study of <nothing>",
    minutes=1.0,
    quick_minutes=1.0,
    recipe="smoke",
    cells=(
        Cell(name="base", title="pretraining | masked", set={}, paper={"row": "Table 2, row 1", "ADE150": 0.3}),
        Cell(name="more", title="pretraining & all", set={"objective.patch.supervise": "all"}),
        Cell(name="taught", title="distilled, 0 % hidden", set={"masking.ratio": 0.0}, teacher="base"),
    ),
    claims=(
        Claim(say="All beats masked", better="more", than="base", metric=METRIC, margin=1.0, source="Table 3"),
        Claim(say="Masked beats all", better="base", than="more", metric=METRIC, margin=0.0, source="nobody"),
        Claim(
            say="The student beats its teacher", better="taught", than="base", metric=METRIC, margin=0.0, source="us"
        ),
    ),
    quick={},
    metrics={METRIC: "zero-shot mIoU", "retrieval/image_to_text_r1": "image→text R@1"},
)
BASE = replace(STUDY.cells[0], set={"objective.patch.supervise": "masked"})
STUDY = replace(STUDY, cells=(BASE, *STUDY.cells[1:]))
SCORES = {"base": [0.10, 0.20], "more": [0.25, 0.345], "taught": [0.12, 0.19]}


def make_up(folder: Path, *, seeds: int, overrides: dict[int, list[str]] | None = None) -> Path:
    """What finished runs leave behind, with scores of SCORES and without checkpoints."""
    for cell in STUDY.cells:
        for seed in range(seeds):
            run = folder / f"{cell.name}-seed{seed}"
            run.mkdir(parents=True)
            words = (overrides or {}).get(seed, [])
            save_recipe(
                cell_recipe(STUDY, cell, seed=seed, folder=folder, quick=False, overrides=words), run / "recipe.yaml"
            )
            score = SCORES[cell.name][seed]
            made = {
                "scores": {METRIC: score, "retrieval/image_to_text_r1": score / 2, "linear_segmentation/miou": None},
                "per_class": {"zero_shot_segmentation/value": {"circle": score, "star": None}},
                "settings": {},
                "num_images": 64,
                "seconds": 3.0,
                "environment": {"hardware": "an abacus", "commit": "abc123"},
            }
            (run / "scores.json").write_text(json.dumps(made))
            parts = [{"part": "image", "parameters": 1234}, {"part": "text", "parameters": 567}]
            (run / "summary.json").write_text(json.dumps({"steps": 40, "seconds": 61.0, "parts": parts}))
            lines = [
                {"step": step, "patch/hidden": 5 - step / 20 + seed, "evaluate/zero_shot_segmentation/miou": score}
                for step in (1, 20, 40)
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of made-up runs, not to be changed."""
    return make_up(tmp_path_factory.mktemp("runs"), seeds=2)


@pytest.fixture(scope="module")
def results(runs: Path) -> Results:
    return read_results(STUDY, runs)


@pytest.fixture(scope="module")
def reported(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the report on two seeds, and what was printed."""
    folder = tmp_path_factory.mktemp("reported") / "study"
    return folder, write(runs, folder)


@pytest.fixture
def one_seed(runs: Path, tmp_path: Path) -> Path:
    """A copy of the first seed's runs."""
    for run in runs.glob("*-seed0"):
        shutil.copytree(run, tmp_path / run.name)
    return tmp_path


def write(runs: Path, folder: Path, *, quick: bool = False) -> str:
    """Copy the runs, write their report, and return what was printed, in one line."""
    shutil.copytree(runs, folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        write_report(STUDY, folder, quick=quick)
    return " ".join(printed.getvalue().split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of two cells of the recipe `smoke`, trained for three steps, with its report."""
    folder = tmp_path_factory.mktemp("trained")
    page = {
        "name": "tiny",
        "title": "Two cells, three steps",
        "minutes": 1.0,
        "quick_minutes": 1.0,
        "recipe": "smoke",
        "cells": [
            {"name": "first", "title": "the teacher", "set": {}},
            {"name": "second", "title": "the student", "teacher": "first", "set": {"masking.ratio": 0.0}},
        ],
        "claims": [
            {"say": "It helps", "better": "second", "than": "first", "metric": METRIC, "margin": 0.0, "source": "us"}
        ],
        "quick": {"optim.steps": 3, "evaluate.num_images": 16},
        "metrics": {METRIC: "zero-shot mIoU"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(page))
    assert run_study(str(folder / "tiny.yaml"), quick=True, folder=str(folder / "out")) == 0
    return folder / "out"


def test_measured_scores_are_shares_and_json_can_hold_them(trained):
    found = json.loads((trained / "first-seed0" / "scores.json").read_text(), parse_constant=pytest.fail)
    assert found["num_images"] == 32  # twice evaluate.num_images
    assert found["scores"][METRIC] is not None
    assert all(score is None or 0 <= score <= 1 for score in found["scores"].values())
    assert set(found["per_class"]) == {
        "zero_shot_segmentation/value",
        "zero_shot_segmentation/final",
        "linear_segmentation",
    }
    recipe = load_trained(trained / "first-seed0").recipe
    names = SceneWorld(recipe.data.scenes, recipe.data.image_size).class_names
    assert list(found["per_class"]["linear_segmentation"]) == names


def test_every_metric_a_study_page_names_is_measured(trained):
    known = set(json.loads((trained / "first-seed0" / "scores.json").read_text())["scores"])
    assert {"retrieval/text_to_image_r1", "retrieval/cls1_image_to_text_r1"} <= known
    pages = list(catalogue("study"))
    assert pages
    for name in pages:
        page = yaml.safe_load(catalogue("study")[name].read_text())
        asked = {*page["metrics"], *(claim["metric"] for claim in page["claims"])}
        assert asked <= known, f"{name} asks for {asked - known}"


def test_measuring_twice_gives_the_same_and_the_features_differ(trained):
    first, second = (measure(trained / "second-seed0", num_images=16) for _ in range(2))
    assert first["scores"] == second["scores"]
    value, final = (first["scores"][f"zero_shot_segmentation/{kind}/pixel_accuracy"] for kind in ("value", "final"))
    assert value != final


def test_patch_accuracy_is_what_counting_patch_by_patch_gives(trained):
    trained_run = load_trained(trained / "first-seed0")
    encoder, recipe = trained_run.encoder.eval(), trained_run.recipe
    world = SceneWorld(recipe.data.scenes, recipe.data.image_size)
    drawn, side = world.render(torch.arange(8), "heldout"), encoder.image.patch_size
    names_KD = class_embeddings(encoder, world.class_names, templates="plain")
    with torch.no_grad():
        patches = encoder.image.values(drawn.pixels).patches
    right, total = 0, 0
    for image in range(8):
        for row in range(32 // side):
            for column in range(32 // side):
                patch = drawn.mask[image, row * side : (row + 1) * side, column * side : (column + 1) * side]
                truth = max(range(len(names_KD)), key=lambda k, p=patch: (p == k).sum().item())
                features = patches[image, row * (32 // side) + column]
                said = torch.nn.functional.cosine_similarity(names_KD, features[None]).argmax().item()
                right, total = right + (said == truth), total + 1
    found = measure(trained / "first-seed0", num_images=8)["scores"]
    assert found["zero_shot_segmentation/value/patch_accuracy"] == pytest.approx(right / total, abs=1.01 / total)


def test_a_trained_study_ends_in_a_page_with_all_pictures(trained):
    text = (trained / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 3
    for name in ("segmentations", "features", "curves"):
        header = (trained / f"{name}.png").read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        assert int.from_bytes(header[16:20], "big") == 1600


def test_a_report_without_checkpoints_says_that_its_pictures_are_missing(reported):
    folder, _ = reported
    assert "No pictures: a checkpoint is gone" in (folder / "report.html").read_text()
    assert not (folder / "segmentations.png").exists()


def test_the_page_needs_nothing_from_outside_and_names_every_cell(reported):
    folder, _ = reported
    text = (folder / "report.html").read_text()
    assert "A study of &lt;nothing&gt;" in text
    for title in ("pretraining | masked", "pretraining &amp; all", "distilled, 0 % hidden"):
        assert title in text
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'>\s]+)", text)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    assert str(folder.parent) not in text + (folder / "report.md").read_text()


def test_rows_hold_the_teachers_score_beside_the_students_with_spread_over_seeds(reported):
    lines = (reported[0] / "report.md").read_text().splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    taught = next(line for line in lines if line.startswith("| distilled, 0 % hidden |"))
    assert taught.startswith("| distilled, 0 % hidden | 15.0 ± 7.1 | 15.5 ± 4.9 | 7.8 ± 2.5 |")
    masked = next(line for line in lines if line.startswith(r"| pretraining \| masked |"))
    assert masked == r"| pretraining \| masked | own average | 15.0 ± 7.1 | 7.5 ± 3.5 | 0.3 | Table 2, row 1 |"
    assert "objective.patch.supervise" in rows
    assert "optim.lr" not in rows


def test_one_seed_has_no_error_bar_and_the_report_says_so(one_seed, capsys):
    write_report(STUDY, one_seed, quick=False)
    text = (one_seed / "report.md").read_text()
    assert "±" not in text
    assert "One seed: differences of this size may be noise" in text
    assert "**Seen in this one seed.** All beats masked" in text
    assert "**Not seen in this one seed.** Masked beats all" in text
    assert "differences of this size may be noise" in " ".join(capsys.readouterr().out.split())


def test_claims_that_fail_and_claims_left_open_stay_in_with_their_numbers(reported):
    folder, said = reported
    text = (folder / "report.html").read_text()
    assert text.count('class="claim reproduced"') == 1
    assert text.count('class="claim not-reproduced"') == 1
    assert text.count('class="claim not-decided-here"') == 1
    assert "reproduced: All beats masked (Table 3)." in said
    assert "a difference of +14.8 ± 0.4 points over 2 seeds; the claim asks for more than 1." in said
    assert "not reproduced: Masked beats all (nobody)." in said
    assert "The opposite was seen." in said
    assert "not decided here: The student beats its teacher (us)." in said


@pytest.mark.parametrize(
    ("difference", "margin", "expected"),
    [
        (Spread(3.0, 1.0, 3), 2.0, "reproduced"),
        (Spread(3.0, 1.0, 3), 3.0, "not decided here"),  # the margin has to be exceeded
        (Spread(3.0, 3.0, 3), 0.0, "not decided here"),  # so has the deviation
        (Spread(0.5, 0.4, 3), 1.0, "not reproduced"),
        (Spread(-0.5, 0.6, 3), 0.0, "not decided here"),
        (Spread(-2.0, 0.6, 3), 0.0, "not reproduced"),
        (Spread(9.0, None, 1), 0.0, "seen in this one seed"),
        (Spread(0.0, None, 1), 0.0, "not seen in this one seed"),
        (None, 0.0, "not decided here"),
    ],
)
def test_verdicts_follow_the_rule(difference, margin, expected):
    assert decide(difference, margin) == expected


def test_differences_are_taken_within_a_seed(results):
    """Both cells move by 10 points between seeds, their difference by half a point."""
    found = judge(STUDY.claims[0], results)
    assert found.difference.mean == pytest.approx(14.75)
    assert found.difference.deviation == pytest.approx(0.5 / 2**0.5)
    assert found.better.deviation > 6


def test_a_claim_about_something_that_was_not_measured_is_not_decided(results):
    study = replace(STUDY, claims=(replace(STUDY.claims[0], metric="linear_segmentation/miou"),))
    verdict = verdicts_on(replace(results, study=study), decisive=True)[0]
    assert verdict.decision == "not decided here"
    assert "was not measured for both" in sentence(verdict, study)


def test_the_deviation_is_the_sample_standard_deviation_over_known_values():
    values = [1.0, None, 4.0, 2.5]
    found = spread(values)
    assert found.mean == pytest.approx(2.5)
    assert found.deviation == pytest.approx(np.std([1.0, 4.0, 2.5], ddof=1))
    assert found.count == 3
    assert spread([None]) is None


def test_a_quick_study_decides_nothing(runs, tmp_path):
    said = write(runs, tmp_path / "study", quick=True)
    assert "quick version of the study" in said
    assert said.count("not decided here:") == 3
    assert 'class="claim reproduced"' not in (tmp_path / "study" / "report.html").read_text()


def test_seeds_trained_differently_are_named_and_decide_nothing(runs, tmp_path):
    other = make_up(tmp_path / "other", seeds=2, overrides={1: ["optim.steps=41"]})
    said = write(other, tmp_path / "study")
    assert "Seeds 0 and 1 do not compare, so no claim is decided: optim.steps: 20 -> 41 in base, more, taught." in said
    assert said.count("not decided here:") == 3


def test_the_same_results_give_the_same_files(runs, reported, tmp_path):
    assert write(runs, tmp_path / "study") == reported[1]
    for name in ("results.csv", "report.md", "report.html", "curves.png"):
        assert (tmp_path / "study" / name).read_bytes() == (reported[0] / name).read_bytes()


def test_the_csv_has_one_row_per_cell_seed_and_metric(reported):
    with (reported[0] / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["cell", "seed", "metric", "value"]
    assert len(rows) == len({(row["cell"], row["seed"], row["metric"]) for row in rows}) == 3 * 2 * 5
    of = {(row["cell"], row["seed"], row["metric"]): row["value"] for row in rows}
    assert float(of["more", "1", METRIC]) == 0.345
    assert of["more", "1", "linear_segmentation/miou"] == ""
    assert float(of["base", "0", "zero_shot_segmentation/value/class/circle"]) == 0.10


def test_only_seeds_whose_cells_are_all_measured_count(runs, tmp_path):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "base-seed7-copy").mkdir()
    (tmp_path / "base-seed7-copy" / "scores.json").write_text("{}")
    assert finished_seeds(STUDY, tmp_path) == [0, 1]
    (tmp_path / "taught-seed0" / "scores.json").unlink()
    assert finished_seeds(STUDY, tmp_path) == [1]
    (tmp_path / "more-seed1" / "scores.json").unlink()
    with pytest.raises(ValueError, match="for no seed have all 3 cells"):
        write_report(STUDY, tmp_path, quick=False)


def test_a_damaged_scores_file_is_named(one_seed):
    (one_seed / "more-seed0" / "scores.json").write_text('{"scores": {}}')
    with pytest.raises(ValueError, match=r"more-seed0.scores\.json lacks 'per_class'"):
        write_report(STUDY, one_seed, quick=False)


def test_the_report_holds_the_resolved_recipe_without_places(reported, results):
    text = (reported[0] / "report.md").read_text()
    recipe = results.of("base")[0].recipe
    student = recipe_text(recipe).partition("student:")[2].partition("objective:")[0]
    assert student in text
    assert "an abacus" in text


def test_every_class_of_every_world_has_its_own_colour():
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
