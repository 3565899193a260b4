"""Study pages: factors multiplied out, doubles merged, nonsense refused, dependencies and keys."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import InvalidCombination, RecipeError
from distill.study.cells import Study, load_study
from distill.study.jobs import Job, jobs_of, link_runs, report_folder, seeds_in, selected, state_of

METRIC = "zero_shot_segmentation/value/miou"
PAGE: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny grid",
    "metrics": {METRIC: "zero-shot mIoU"},
    "scales": {
        "mini": {"recipe": "smoke", "expect": "nothing", "quick": {"optim.steps": 3}},
        "wide": {"recipe": "smoke", "expect": "nothing", "set": {"student.image.width": 60}, "seeds": [0, 1]},
    },
    "factors": {
        "teacher": {
            "momentum": {"teacher.kind": "momentum"},
            "frozen": {"teacher.kind": "frozen", "teacher.checkpoint": "cell:base"},
        },
        "hidden": {"0 %": {"masking.ratio": 0.0}, "75 %": {"masking.ratio": 0.75}},
        "heard": {"masked": {"objective.patch.supervise": "masked"}, "all": {"objective.patch.supervise": "all"}},
        "text": {"random": {"student.text.init": "random"}, "teacher": {"student.text.init": "teacher"}},
    },
    "products": [
        {"factors": ["teacher", "hidden", "heard"]},
        {"factors": ["text"], "levels": {"teacher": "frozen", "hidden": "0 %", "heard": "all"}},
    ],
    "cells": [
        {
            "name": "base",
            "title": "the baseline",
            "levels": {"teacher": "momentum", "hidden": "75 %", "heard": "masked"},
            "paper": {"row": "Table 2, row 1"},
        },
        {"name": "wider", "title": "a wider one", "set": {"student.image.width": 72}},
    ],
    "claims": [{"say": "All helps", "factor": "heard", "better": "all", "than": "masked", "source": "us"}],
}


CELLS = PAGE["cells"]


def claimed(**claim: Any) -> dict[str, Any]:
    return {"claims": [{"say": "It helps", "source": "us", **claim}]}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**PAGE, **changes}, sort_keys=False))
    return str(path)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(write(tmp_path))


def names(study: Study) -> list[str]:
    return [cell.name for cell in study.cells]


def test_a_product_is_multiplied_out_and_what_means_nothing_is_refused_with_its_reason(study):
    assert names(study) == [
        *("base", "wider", "momentum-0-all", "momentum-75-all"),
        *("frozen-0-all", "frozen-75-masked", "frozen-75-all", "teacher"),
    ]
    assert [each.name for each in study.refused] == ["momentum-0-masked", "frozen-0-masked"]
    assert all("hears nothing when nothing is hidden" in each.reason for each in study.refused)
    assert study.refused[0].levels == {"teacher": "momentum", "hidden": "0 %", "heard": "masked"}


def test_a_named_cell_stands_for_the_combination_with_its_settings(study):
    base = study.cell("base")
    assert base.levels == {"teacher": "momentum", "hidden": "75 %", "heard": "masked", "text": "random"}
    assert base.title == "the baseline"
    assert "momentum-75-masked" not in names(study)


def test_cells_of_several_products_are_one_cell_with_all_of_its_levels(study):
    shared = study.cell("frozen-0-all")
    assert shared.levels == {"teacher": "frozen", "hidden": "0 %", "heard": "all", "text": "random"}
    assert study.cell("teacher").levels["text"] == "teacher"


def test_cells_outside_of_products_have_no_levels(study):
    assert study.cell("wider").levels == {}


def test_references_are_needs_and_every_cell_comes_after_what_it_needs(tmp_path):
    first = {"name": "early", "title": "", "set": {"teacher.kind": "frozen", "teacher.checkpoint": "cell:late"}}
    late = {"name": "late", "title": ""}
    study = load_study(write(tmp_path, cells=[first, late], products=[], claims=[]))
    assert names(study) == ["late", "early"]
    assert study.cell("early").needs == ("late",)
    assert study.cell("early").teacher == "late"


def test_circles_and_unknown_cells_are_refused(tmp_path):
    def cell(name: str, teacher: str) -> dict[str, Any]:
        return {"name": name, "title": "", "set": {"teacher.kind": "frozen", "teacher.checkpoint": f"cell:{teacher}"}}

    with pytest.raises(RecipeError, match="in a circle: a -> b -> a"):
        load_study(write(tmp_path, cells=[cell("a", "b"), cell("b", "a")], products=[], claims=[]))
    with pytest.raises(RecipeError, match="cell 'a' needs 'nobody'"):
        load_study(write(tmp_path, cells=[cell("a", "nobody")], products=[], claims=[]))


@pytest.mark.parametrize("fraction", [2, 3])
def test_a_fraction_keeps_every_level_equally_often(tmp_path, fraction):
    levels = {str(n): {"optim.lr": 0.001 * (n + 1)} for n in range(fraction)}
    others = {str(n): {"optim.weight_decay": 0.01 * n} for n in range(fraction)}
    thirds = {str(n): {"data.views.flip": 0.1 * n} for n in range(fraction)}
    product = {"factors": ["lr", "decay", "flip"], "fraction": fraction}
    factors = {"lr": levels, "decay": others, "flip": thirds}
    study = load_study(write(tmp_path, cells=[], factors=factors, products=[product], claims=[]))
    assert len(study.cells) == fraction**2
    for factor in factors:
        for level in map(str, range(fraction)):
            assert sum(cell.levels[factor] == level for cell in study.cells) == fraction


def test_combinations_can_be_left_out(tmp_path):
    product = {"factors": ["teacher", "hidden", "heard"], "leave_out": [{"teacher": "frozen", "hidden": "75 %"}]}
    study = load_study(write(tmp_path, products=[product]))
    assert not any(name.startswith("frozen-75") for name in names(study))
    assert "frozen-0-all" in names(study)


def test_scales_quick_and_overrides_change_every_cell(tmp_path):
    page = write(tmp_path)
    wide = load_study(page, scale="wide")
    assert wide.cell("base").recipe.student.image.width == 60
    assert wide.cell("wider").recipe.student.image.width == 72
    assert wide.seeds == (0, 1)
    quick = load_study(page, quick=True, overrides=["optim.lr=0.5"])
    assert quick.seeds == (0,)
    assert {cell.recipe.optim.steps for cell in quick.cells} == {3}
    assert {cell.recipe.optim.lr for cell in quick.cells} == {0.5}
    with pytest.raises(RecipeError, match="no quick version at the scale wide"):
        load_study(page, scale="wide", quick=True)
    with pytest.raises(RecipeError, match="no scale 'giant'; it has mini, wide"):
        load_study(page, scale="giant")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"celss": []}, "there is no 'celss'; did you mean cells"),
        ({"cells": [{"name": "a"}]}, "cells: title is missing in a"),
        ({"cells": [{"name": "a", "title": ""}, {"name": "a", "title": ""}]}, "two cells are called 'a'"),
        (
            {"cells": [{"name": "a", "title": "", "levels": {"heard": "al"}}]},
            "level of heard .al.; did you mean all",
        ),
        ({"products": [{"factors": ["hiden"]}]}, "no factor 'hiden'; did you mean hidden"),
        ({"products": [{"factors": "hidden"}]}, "factors takes a list, not 'hidden'"),
        ({"claims": [{"say": "", "better": "bas", "than": "wider", "source": ""}]}, "cell .bas.; did you mean base"),
        (
            {"claims": [{"say": "", "factor": "heard", "better": "all", "than": "x", "source": ""}]},
            "level of heard 'x'",
        ),
        (claimed(factor="heard", better="all", than="masked", where={"hiden": "0 %"}), "no factor 'hiden'"),
        (claimed(factor="heard", better="all", than="masked", where={"hidden": "0 %"}), "no two cells differ in heard"),
        (claimed(better="base", than="wider", within="three"), "within takes a number, not 'three'"),
        (claimed(better="base", than="wider", within=0), "`within` is a positive number"),
        (claimed(better="base", than="wider", within=1, by_more_than=2), "without `by_more_than`"),
        (claimed(better="base", than="base"), "compares 'base' with itself"),
        (claimed(better="base", than="wider", where={"hidden": "0 %"}), "`where` is for claims about the levels"),
        ({"cells": [{"name": "../../evil", "title": ""}]}, "'../../evil' is no name"),
        ({"cells": [*CELLS, {"name": "twin", "title": "", "set": {"student.image.width": 72}}]}, "wider and twin have"),
        ({"products": [{"factors": ["hidden"], "fraction": "2"}]}, "fraction takes a whole number, not '2'"),
        ({"products": [{"factors": ["hidden"], "leave_out": ["all"]}]}, "leave_out takes a list"),
        ({"factors": {**PAGE["factors"], "text": {"random": None}}}, "expected `key: value` lines"),
        ({"scales": {"mini": {"recipe": "smoke", "expect": "", "seeds": [0, 0]}}}, "different whole numbers"),
        ({"metrics": {}}, "at least one metric"),
        ({"scales": {"mini": {"recipe": "smoke"}}}, "expect is missing"),
        ({"scales": [1]}, "expected `key: value` lines"),
        ({"cells": [], "products": []}, "needs cells or products"),
    ],
)
def test_mistakes_in_a_page_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_study(write(tmp_path, **changes))
    assert not isinstance(caught.value, TypeError)


def test_a_named_cell_that_means_nothing_is_a_mistake(tmp_path):
    wrong = {"name": "wrong", "title": "", "levels": {"hidden": "0 %", "heard": "masked"}}
    with pytest.raises(InvalidCombination):
        load_study(write(tmp_path, cells=[*PAGE["cells"], wrong]))


def by_name(study: Study, store: Path, **options: Any) -> dict[str, Job]:
    return {job.name: job for job in jobs_of(study, store, **options)}


def test_jobs_have_places_instead_of_references_and_their_own_seed(study, tmp_path):
    jobs = by_name(study, tmp_path, seeds=[0, 3])
    student = jobs["frozen-0-all-seed3"]
    assert student.recipe.seed == 3
    assert student.needs == (jobs["base-seed3"],)
    assert student.recipe.teacher.checkpoint == str(jobs["base-seed3"].folder)
    assert len(jobs) == 2 * len(study.cells)
    assert len({job.key for job in jobs.values()}) == len(jobs)


def test_a_key_follows_what_decides_the_result_and_nothing_else(tmp_path):
    page = write(tmp_path)
    keys = {name: job.key for name, job in by_name(load_study(page), tmp_path).items()}
    elsewhere = by_name(load_study(page), tmp_path / "other")
    assert {name: job.key for name, job in elsewhere.items()} == keys
    unchanged = ["evaluate.num_images=8", "run.log_every=1"]
    measured = by_name(load_study(page, overrides=unchanged), tmp_path)
    assert {name: job.key for name, job in measured.items()} == keys
    changed = by_name(load_study(page, overrides=["optim.lr=0.5"]), tmp_path)
    assert not {job.key for job in changed.values()} & set(keys.values())


def test_changing_a_cell_changes_it_and_what_depends_on_it(tmp_path):
    before = by_name(load_study(write(tmp_path)), tmp_path)
    cells = [{**PAGE["cells"][0], "set": {"optim.lr": 0.5}}, PAGE["cells"][1]]
    after = by_name(load_study(write(tmp_path, cells=cells)), tmp_path)
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {name for name in before if name.startswith(("base", "frozen", "teacher"))}


def test_a_run_that_several_studies_have_is_one_run(study, tmp_path):
    cell = {"name": "like_base", "title": "", "levels": PAGE["cells"][0]["levels"]}
    other = load_study(write(tmp_path, name="other", cells=[cell], products=[], claims=[]))
    ours, theirs = by_name(study, tmp_path)["base-seed1"], by_name(other, tmp_path, seeds=[1])["like_base-seed1"]
    assert ours.folder == theirs.folder
    assert ours.folder.name == f"seed1-{ours.key}"


def test_a_level_is_the_most_specific_one_and_product_cells_keep_what_was_asked_for(tmp_path):
    """YAML 1.1 takes 1e-2 for text, and the level without settings fits everything."""
    factors = {**PAGE["factors"], "rate": {"usual": {}, "high": {"optim.lr": "1e-2"}}}
    rates = {"factors": ["rate"], "levels": PAGE["cells"][0]["levels"]}
    study = load_study(write(tmp_path, factors=factors, products=[rates, *PAGE["products"]], claims=[]))
    assert study.cell("high").levels["rate"] == "high"
    assert study.cell("base").levels["rate"] == "usual"
    assert all("rate" in cell.levels for cell in study.cells if cell.levels)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("masking.ratio=0.75", "masking.ratio is what cells of tiny differ in"),
        ("seed=7", "seed is what runs of a study get by themselves"),
        ("run.folder=x", "see --seeds and --to"),
    ],
)
def test_what_makes_the_study_cannot_be_overridden(tmp_path, word, why):
    with pytest.raises(RecipeError, match=why):
        load_study(write(tmp_path), overrides=[word])


def test_seeds_of_a_store_and_folders_of_reports(study, tmp_path):
    assert seeds_in(tmp_path) == []
    for name in ("seed3-abc", "seed11-def", "seedling-x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert seeds_in(tmp_path) == [3, 11]
    folders = [
        report_folder(study, tmp_path),
        report_folder(study, tmp_path, part=True),
        report_folder(study, tmp_path, overrides=["optim.lr=1"]),
        report_folder(study, tmp_path, overrides=["optim.lr=2"]),
    ]
    assert len(set(folders)) == 4
    assert folders[0].name == "tiny-mini"


def test_runs_are_linked_by_their_cells_names(study, tmp_path):
    jobs = jobs_of(study, tmp_path / "store", seeds=[0])
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / "recipe.yaml").write_text("x")
    for _ in range(2):
        link_runs(jobs, tmp_path / "store" / "report" / "runs")
    assert (tmp_path / "store" / "report" / "runs" / jobs[0].name / "recipe.yaml").read_text() == "x"
    assert len(list((tmp_path / "store" / "report" / "runs").iterdir())) == 1


def test_naming_cells_selects_them_and_what_they_need(study, tmp_path):
    jobs = jobs_of(study, tmp_path)
    chosen = selected(jobs, ["frozen-75-all", "wider"])
    assert [job.name for job in chosen if job.seed == 0] == ["base-seed0", "wider-seed0", "frozen-75-all-seed0"]
    assert selected(jobs, []) == jobs


def test_a_new_study_waits_for_teachers(study, tmp_path):
    jobs = by_name(study, tmp_path, seeds=[0])
    assert state_of(jobs["base-seed0"]) == "new"
    assert state_of(jobs["frozen-0-all-seed0"]) == "waiting"
    jobs["base-seed0"].folder.mkdir(parents=True)
    (jobs["base-seed0"].folder / "error.json").write_text('{"message": "no memory"}')
    assert state_of(jobs["base-seed0"]) == "failed"
    assert state_of(jobs["frozen-0-all-seed0"]) == "blocked"
