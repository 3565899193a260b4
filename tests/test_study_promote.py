"""From a study's records to a pretraining recipe, with its provenance."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.config import load_recipe
from distill.config.pages import FOLDER
from distill.study.cells import Study, load_study
from distill.study.grid import Page, read_page
from distill.study.promote import promote_results
from distill.study.records import read_records
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


def record(
    folder: Path,
    *,
    scores: dict[str, float],
    effects: list[tuple],
    missing: tuple[tuple[str, int], ...] = (),
    doubt: Mapping[str, str] = MappingProxyType({}),
    **origin: Any,
) -> Path:
    """What a report leaves, of two seeds a point apart; an effect is (level, against, mean, low, high)."""
    runs = [(cell, seed) for cell in scores for seed in (0, 1) if (cell, seed) not in missing]
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "seed", "metric", "value"])
        writer.writerows([cell, seed, METRIC, (scores[cell] + seed - 0.5) / 100] for cell, seed in runs)
    with (folder / "effects.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        for level, against, mean, low, high in effects:
            what = {"kind": "main effect", "factor": "heard", "level": level, "against": against, "metric": METRIC}
            decided = low != "" and (low > 0 or high < 0)
            what |= {"decision": ("higher" if low > 0 else "lower") if decided else "not decided here"}
            rows.writerow(what | {"mean": mean, "low": low, "high": high, "seeds": 2} | doubt)
    content = {"study": "tiny", "scale": "mini", "recipe": "pretrain/ibot", "quick": False, "overrides": []}
    content |= {"part": False, "seeds": [0, 1], "asked": len(runs), "done": len(runs), "failed": 0, "unequal": []}
    content |= {"runs": {f"{cell}-seed{seed}": "0123456789" for cell, seed in runs}}
    (folder / "report.json").write_text(json.dumps(content | origin))
    return folder


def promote(folder: Path, *, page: dict[str, Any] | None = None, to: str = "promoted.yaml") -> str:
    """The promoted page, as written."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(page or PAGE, sort_keys=False))
    promote_results(str(path), scale=None, results=folder, to=folder / to)
    return (folder / to).read_text()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Study]:
    path = tmp_path_factory.mktemp("page") / "tiny.yaml"
    path.write_text(yaml.safe_dump(PAGE, sort_keys=False))
    return read_page(str(path)), load_study(str(path))


def words_of(text: str) -> str:
    """A page's header in one line."""
    return " ".join(text.replace("#", " ").split())


def page_leaving(left: list[str]) -> dict[str, Any]:
    """The page with these factors left as the base has them, in this order."""
    return PAGE | {"promote": PAGE["promote"] | {"left": dict.fromkeys(left, "because")}}


def test_an_established_switch_is_carried_back_and_nothing_else(tmp_path):
    text = promote(record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL]))
    promoted, base = load_recipe(str(tmp_path / "promoted.yaml")), load_recipe("pretrain/ibot")
    assert promoted.objective.patch.supervise == "all"
    assert (promoted.masking, promoted.teacher, promoted.optim) == (base.masking, base.teacher, base.optim)
    words = words_of(text)
    assert "(frozen-50-all), 19.0 ± 0.7 % zero-shot mIoU (mean ± standard deviation over 2 seeds); " in words
    assert "Winner: teacher frozen, hidden 50 %, heard all (frozen-50-all)" in words
    assert "all over masked: over all +4.0 points (95 % interval +1.0 to +7.0, 2 seeds); in pretraining" in words
    assert "with the base's hidden 75 %, teacher momentum differ in it only; because it can be carried." in words
    assert "Left: hidden: the winner has 50 %; because pretraining differs." in words
    assert "Left: teacher: the winner has frozen; because there is none." in words
    assert "the study tiny at the scale mini, seeds 0, 1." in words
    assert "Result: not measured: no cell of the study has exactly these settings." in words
    assert all(len(line) <= 120 for line in text.splitlines())
    scores = {"base": 13.0, "frozen-50-all": 19.0, "momentum-75-all": 17.0}
    words = words_of(promote(record(tmp_path, scores=scores, effects=[ALL])))
    assert "Result: as the study's cell momentum-75-all, 17.0 ± 0.7 % zero-shot mIoU (mean ±" in words


def test_a_switch_that_is_not_established_stays_and_nothing_is_promoted_without_any(tmp_path):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[("all", "masked", 4.0, -1.0, 9.0)])
    with pytest.raises(ValueError, match=r"not established, so it stays masked: all over masked: \+4\.0"):
        promote(tmp_path)
    assert not (tmp_path / "promoted.yaml").exists()


def test_an_effect_that_the_report_does_not_rely_on_is_not_established(tmp_path):
    record(
        tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL], doubt={"decision": "not decided here"}
    )
    with pytest.raises(ValueError, match="not established, so it stays masked"):
        promote(tmp_path)


def test_one_seed_establishes_nothing(tmp_path):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[("all", "masked", 4.0, "", "")])
    with pytest.raises(ValueError, match="nothing to promote"):
        promote(tmp_path)


def test_the_preferred_level_is_taken_unless_the_winners_is_better_for_sure(tmp_path):
    scores = {"base": 13.0, "frozen-50-visible": 19.0}
    level, against = "all", "visible"
    text = promote(record(tmp_path, scores=scores, effects=[ALL, VISIBLE, (level, against, -1.0, -3.0, 1.0)]))
    assert "supervise: all" in text
    assert "not established to be better than all" in words_of(text)
    text = promote(record(tmp_path, scores=scores, effects=[ALL, VISIBLE, (level, against, -4.0, -6.0, -1.0)]))
    assert "supervise: visible" in text
    text = promote(record(tmp_path, scores=scores, effects=[VISIBLE]))
    assert "supervise: visible" in text


def test_a_winner_like_the_base_promotes_nothing(tmp_path):
    record(tmp_path, scores={"base": 19.0, "frozen-50-all": 13.0}, effects=[ALL])
    with pytest.raises(ValueError, match="the winner has masked, as the base"):
        promote(tmp_path)


REVIEWED = {
    **{"base": 14.0, "momentum-75-all": 11.6, "momentum-50-masked": 14.0, "momentum-50-all": 11.6},
    **{"frozen-75-masked": 10.0, "frozen-75-all": 18.4, "frozen-50-masked": 10.0, "frozen-50-all": 18.4},
}
"""All over masked is -2.4 with momentum and +8.4 with the frozen teacher, +3.0 over all."""
OVERALL = ("all", "masked", 3.0, 1.0, 5.0)


def test_a_switch_that_helps_over_all_and_hurts_in_pretraining_is_not_carried(tmp_path):
    record(tmp_path, scores=REVIEWED, effects=[OVERALL])
    said = (
        r"established over all, but harmful in pretraining, so it stays masked: all over masked: over all \+3\.0 .*; "
        r"in pretraining alone \(hidden 75 %, teacher momentum: one pair of cells\) -2\.4 points \(95 % interval -2\.4 "
    )
    with pytest.raises(ValueError, match=said):
        promote(tmp_path)
    assert not (tmp_path / "promoted.yaml").exists()


def test_a_switch_that_is_only_uncertain_in_pretraining_is_carried_with_both_numbers(tmp_path):
    record(tmp_path, scores=REVIEWED, effects=[OVERALL])
    results = (tmp_path / "results.csv").read_text()
    # The seeds disagree: -2.4 and +1.6 give a mean of -0.4, whose interval holds zero.
    worse, better = (f"momentum-75-all,1,{METRIC},{value / 100}" for value in (12.1, 16.1))
    assert results.count(worse) == 1
    (tmp_path / "results.csv").write_text(results.replace(worse, better))
    words = words_of(promote(tmp_path))
    assert "Carried: heard: all over masked: over all +3.0 points (95 % interval +1.0 to +5.0, 2 seeds); " in words
    assert "in pretraining alone (hidden 75 %, teacher momentum: one pair of cells) -0.4 points (95 %" in words


def test_pretraining_is_what_the_page_leaves_as_the_base_has_it(tmp_path):
    mixed = REVIEWED | {"momentum-50-all": 20.0, "frozen-50-all": 18.0}
    record(tmp_path, scores=mixed, effects=[OVERALL])
    # At 75 % hidden alone it hurts; over both ratios with momentum it helps, and so it does over both teachers at 75 %.
    with pytest.raises(ValueError, match=r"harmful in pretraining.*one pair of cells\) -2\.4"):
        promote(tmp_path)
    words = words_of(promote(tmp_path, page=page_leaving(["teacher"])))
    assert "in pretraining alone (teacher momentum: 2 pairs of cells) +1.8 points" in words
    words = words_of(promote(tmp_path, page=page_leaving(["hidden"])))
    assert "in pretraining alone (hidden 75 %: 2 pairs of cells) +3.0 points" in words
    words = words_of(promote(tmp_path, page=page_leaving([])))
    assert "in pretraining alone unknown: no two cells differ in it only" in words


def test_levels_of_the_base_that_no_pair_has_are_dropped_and_said(tmp_path):
    scores = {name: score for name, score in REVIEWED.items() if "75" not in name}
    record(tmp_path, scores=scores, effects=[OVERALL])
    # No pair has 75 %: the teacher alone decides, though it comes after it.
    said = r"nearest to pretraining.*\(teacher momentum: one pair of cells, as no pair also has hidden 75 %\) -2\.4"
    with pytest.raises(ValueError, match=said):
        promote(tmp_path)
    apart = scores | {"frozen-75-masked": 10.0, "frozen-75-all": 18.4}
    record(tmp_path, scores=apart, effects=[OVERALL])
    # Each level has pairs and both together have none: the last one goes.
    words = words_of(promote(tmp_path, page=page_leaving(["hidden", "teacher"])))
    assert "(hidden 75 %: one pair of cells, as no pair also has teacher momentum) +8.4 points" in words
    with pytest.raises(ValueError, match="harmful nearest to pretraining"):
        promote(tmp_path, page=page_leaving(["teacher", "hidden"]))


def test_the_winner_has_every_seed(tmp_path):
    scores = {"base": 13.0, "frozen-50-all": 19.0, "frozen-75-all": 30.0}
    record(tmp_path, scores=scores, effects=[ALL], missing=(("frozen-75-all", 1),), asked=6)
    words = words_of(promote(tmp_path))
    assert "(frozen-50-all), 19.0 ± 0.7 %" in words
    assert "10 cells without every seed took no part." in words
    assert "seeds 0, 1, 5 of 6 runs." in words
    record(tmp_path, scores=scores, effects=[ALL], missing=(("base", 0), ("frozen-75-all", 1)))
    with pytest.raises(ValueError, match=r"results\.csv: one cell of tiny with a score .* for every seed \(0, 1\)"):
        promote(tmp_path)


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ({"quick": True}, "it is of the quick version"),
        ({"overrides": ["optim.steps=9"]}, r"it has other settings than the page \(optim\.steps=9\)"),
        ({"part": True}, "it is on some of the cells or seeds only"),
        ({"unequal": ["Seeds 0 and 1 do not compare."]}, r"its seeds do not compare \(Seeds 0 and 1 do not compare\)"),
        ({"study": "bridge"}, r"is of bridge \(mini\), not of tiny \(mini\)"),
        ({"seeds": []}, "lacks seeds"),
        ({"quick": None}, "lacks quick"),
    ],
)
def test_a_report_on_anything_but_the_whole_study_is_not_promoted(tmp_path, tiny, origin, reason):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL], **origin)
    with pytest.raises(ValueError, match=rf"report\.json.*{reason}"):
        read_records(tmp_path, *tiny)


def test_a_refusal_is_one_message_and_exit_code_2(tmp_path, capsys):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL], quick=True, part=True)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PAGE, sort_keys=False))
    words = ["study", "promote", str(tmp_path / "tiny.yaml"), "--results", str(tmp_path), "--to"]
    assert main([*words, str(tmp_path / "new" / "promoted.yaml")]) == 2
    said = capsys.readouterr().err
    assert "it is of the quick version; it is on some of the cells or seeds only" in said
    assert "Traceback" not in said
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL])
    assert main([*words, str(tmp_path / "new" / "promoted.txt")]) == 2
    assert "a recipe is a file ending in .yaml or .yml" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*words, str(tmp_path / "new" / "promoted.yml")]) == 0


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("report.json", "{", "", "report.json is damaged"),
        ("results.csv", "cell,seed", "cell,number", "results.csv has no column seed"),
        ("results.csv", "base,0", "stranger,0", "results.csv, line 2: tiny has no cell 'stranger'"),
        ("results.csv", "base,0", "base,7", "results.csv, line 2: report.json beside it does not know this run"),
        ("results.csv", "base,1", "base,0", "results.csv, line 3: a second score of base, seed 0"),
        ("results.csv", "base,0", "base,zero", "results.csv, line 2: seed is 'zero', which is no number"),
        ("results.csv", ",0.125", ",nan", "results.csv, line 2: value is 'nan', which is no number"),
        ("results.csv", ",0.125", "", "results.csv, line 2: not as many fields as columns"),
        ("results.csv", ",0.125", ',"0.125', "results.csv, line 5: damaged"),
        ("effects.csv", "kind,", "sort,", "effects.csv has no column kind"),
        ("effects.csv", ",all,", ",loud,", "effects.csv, line 2: tiny has no heard with the levels loud and masked"),
        ("effects.csv", ",4.0,", ",four,", "effects.csv, line 2: mean is 'four', which is no number"),
        ("effects.csv", ",1.0,", ",5.0,", "effects.csv, line 2: low, mean and high are 5.0, 4.0 and 7.0"),
        ("effects.csv", ",1.0,", ",,", "effects.csv, line 2: low, mean and high are , 4.0 and 7.0"),
    ],
)
def test_damaged_and_foreign_records_are_named(tmp_path, tiny, name, before, after, said):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL])
    path = tmp_path / name
    text = path.read_text()
    assert before in text
    read_records(tmp_path, *tiny)  # as they are they can be read
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_records(tmp_path, *tiny)


@pytest.mark.parametrize("name", ["report.json", "results.csv", "effects.csv"])
def test_records_that_are_not_there_or_no_text_are_named(tmp_path, tiny, name):
    record(tmp_path, scores={"base": 13.0, "frozen-50-all": 19.0}, effects=[ALL])
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        read_records(tmp_path, *tiny)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: no such file; `distill study report` writes it"):
        read_records(tmp_path, *tiny)


def test_a_page_without_promote_promotes_nothing(tmp_path):
    with pytest.raises(ValueError, match="the page has no `promote`"):
        promote(tmp_path, page={key: value for key, value in PAGE.items() if key != "promote"})


RECORDED = FOLDER.parent / "benchmarks" / "results" / "bridge_mini"


@pytest.mark.skipif(not (RECORDED / "report.json").exists(), reason="the study bridge is not recorded yet")
def test_the_shipped_pretraining_recipe_is_what_the_recorded_study_promotes(tmp_path):
    promote_results("bridge", scale="mini", results=RECORDED, to=tmp_path / "ibotpp.yaml")
    assert (tmp_path / "ibotpp.yaml").read_text() == (FOLDER / "pretrain" / "ibotpp.yaml").read_text()
