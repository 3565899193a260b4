"""From a study's records to a pretraining recipe, with its provenance."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import load_recipe
from distill.config.pages import FOLDER
from distill.study.promote import promote_results
from distill.study.report.effects import COLUMNS

METRIC = "zero_shot_segmentation/value/miou"
PAGE: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny grid",
    "metrics": {METRIC: "zero-shot mIoU"},
    "scales": {"mini": {"recipe": "pretrain/ibot", "expect": "nothing"}},
    "factors": {
        "teacher": {
            "momentum": {"teacher.kind": "momentum"},
            "frozen": {"teacher.kind": "frozen", "teacher.checkpoint": "cell:base"},
        },
        "hidden": {"50 %": {"masking.ratio": 0.5}, "75 %": {"masking.ratio": 0.75}},
        "heard": {
            "masked": {"objective.patch.supervise": "masked"},
            "visible": {"objective.patch.supervise": "visible"},
            "all": {"objective.patch.supervise": "all"},
        },
    },
    "products": [{"factors": ["teacher", "hidden", "heard"]}],
    "cells": [{"name": "base", "title": "the baseline"}],
    "promote": {
        "title": "A promoted recipe.",
        "source": "nobody",
        "command": "distill train promoted",
        "time": "no time",
        "base": "pretrain/ibot",
        "factors": {"heard": "because it can be carried"},
        "prefer": {"heard": "all"},
        "left": {"hidden": "because pretraining differs", "teacher": "because there is none"},
    },
}
ALL, VISIBLE = ("all", "masked", 4.0, 1.0, 7.0), ("visible", "masked", 5.0, 2.0, 8.0)


def record(folder: Path, *, scores: dict[str, float], effects: list[tuple]) -> Path:
    """results.csv and effects.csv of two seeds a point apart; an effect is (level, against, mean, low, high)."""
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "seed", "metric", "value"])
        writer.writerows([cell, seed, METRIC, (v + seed - 0.5) / 100] for cell, v in scores.items() for seed in (0, 1))
    with (folder / "effects.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        for level, against, mean, low, high in effects:
            what = {"kind": "main effect", "factor": "heard", "level": level, "against": against, "metric": METRIC}
            rows.writerow(what | {"mean": mean, "low": low, "high": high, "seeds": 2})
    return folder


def promote(folder: Path, *, page: dict[str, Any] | None = None) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(page or PAGE, sort_keys=False))
    to = folder / "promoted.yaml"
    promote_results(str(path), scale=None, results=folder, to=to)
    return to.read_text()


def test_an_established_switch_is_carried_back_and_nothing_else(tmp_path):
    text = promote(record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL]))
    promoted, base = load_recipe(str(tmp_path / "promoted.yaml")), load_recipe("pretrain/ibot")
    assert promoted.objective.patch.supervise == "all"
    assert (promoted.masking, promoted.teacher, promoted.optim) == (base.masking, base.teacher, base.optim)
    words = " ".join(text.replace("#", " ").split())
    assert "Winner: teacher frozen, hidden 50 %, heard all (frozen-50-all), 19.0 % zero-shot mIoU." in words
    assert "all over masked: +4.0 points (95 % interval +1.0 to +7.0, 2 seeds); because it can be carried." in words
    assert "Left: hidden: the winner has 50 %; because pretraining differs." in words
    assert "Left: teacher: the winner has frozen; because there is none." in words
    assert "the study tiny at the scale mini, seeds 0, 1." in words
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_switch_that_is_not_established_stays_and_nothing_is_promoted_without_any(tmp_path):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[("all", "masked", 4.0, -1.0, 9.0)])
    with pytest.raises(ValueError, match=r"not established, so it stays masked: all over masked: \+4\.0"):
        promote(tmp_path)
    assert not (tmp_path / "promoted.yaml").exists()


def test_one_seed_establishes_nothing(tmp_path):
    record(tmp_path, scores={"frozen-50-all": 19.0}, effects=[("all", "masked", 4.0, "", "")])
    with pytest.raises(ValueError, match="nothing to promote"):
        promote(tmp_path)


def test_the_preferred_level_is_taken_unless_the_winners_is_better_for_sure(tmp_path):
    scores = {"base": 13.0, "frozen-50-visible": 19.0}
    level, against = "all", "visible"
    text = promote(record(tmp_path, scores=scores, effects=[ALL, VISIBLE, (level, against, -1.0, -3.0, 1.0)]))
    assert "supervise: all" in text
    assert "not established to be better than all" in " ".join(text.replace("#", " ").split())
    text = promote(record(tmp_path, scores=scores, effects=[ALL, VISIBLE, (level, against, -4.0, -6.0, -1.0)]))
    assert "supervise: visible" in text
    text = promote(record(tmp_path, scores=scores, effects=[VISIBLE]))
    assert "supervise: visible" in text


def test_a_winner_like_the_base_promotes_nothing(tmp_path):
    record(tmp_path, scores={"base": 19.0, "frozen-50-all": 13.0}, effects=[ALL])
    with pytest.raises(ValueError, match="the winner has masked, as the base"):
        promote(tmp_path)


def test_pages_and_folders_without_what_is_needed_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"results\.csv: no such file"):
        promote(tmp_path)
    record(tmp_path, scores={"stranger": 19.0}, effects=[ALL])
    with pytest.raises(ValueError, match="no cell of tiny has a score"):
        promote(tmp_path)
    with pytest.raises(ValueError, match="the page has no `promote`"):
        promote(tmp_path, page={key: value for key, value in PAGE.items() if key != "promote"})


def test_the_shipped_pretraining_recipe_is_what_the_recorded_study_promotes(tmp_path):
    recorded = FOLDER.parent / "benchmarks" / "results" / "bridge_mini"
    promote_results("bridge", scale="mini", results=recorded, to=tmp_path / "ibotpp.yaml")
    assert (tmp_path / "ibotpp.yaml").read_text() == (FOLDER / "pretrain" / "ibotpp.yaml").read_text()
