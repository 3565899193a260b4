"""The studies that come with distill: their pages, what they ask for, and that each of their cells can be trained."""

import re
import shlex
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_runs import own_accelerator, train_alone

from distill.cli import parse
from distill.config import differences, load_recipe
from distill.config.pages import catalogue, page_path
from distill.encoders.dual import build_dual
from distill.study.cells import Study, load_study
from distill.study.grid import read_page
from distill.study.inference.effects import main_effect
from distill.study.jobs import Job, is_trained, jobs_of
from distill.study.keys import key_of
from distill.study.measure import measure

STUDIES = ("bridge", "cumulative", "ingredients", "masking", "captions", "normalisation", "size")
SCALES = ("mini", "gpu", "paper")
SMALL = ("first", "transfer")
"""Studies of the small world only."""
EVERY = [*((name, scale) for name in STUDIES for scale in SCALES), *((name, "mini") for name in SMALL)]

REFUSED = {
    "bridge": {
        f"{teacher}-0-{heard}" for teacher in ("momentum", "frozen", "partial") for heard in ("masked", "visible")
    },
    "normalisation": {"masked-ibot_plus_visible"},
}
"""What means nothing: hearing hidden patches, or visible ones only, where nothing is hidden; and a visible mean that
nobody hears."""

TABLE_2 = {
    "ibot": ("momentum", 0.75, "masked", "random", "random", "train"),
    "hidden75": ("frozen", 0.75, "all", "random", "random", "train"),
    "hidden50": ("frozen", 0.5, "all", "random", "random", "train"),
    "vanilla": ("frozen", 0.0, "all", "random", "random", "train"),
    "text-teacher": ("frozen", 0.0, "all", "random", "teacher", "train"),
    "text-teacher-frozen": ("frozen", 0.0, "all", "random", "teacher", "freeze"),
    "vision-teacher": ("frozen", 0.0, "all", "teacher", "teacher", "train"),
}
"""Rows 1 to 7 of the paper's Table 2: teacher, mask ratio, patches heard, vision init, text init, text update."""

SAME = (
    (("bridge", "ibot"), ("masking", "ibot"), ("normalisation", "ibot"), ("size", "base")),
    (("bridge", "ibotpp"), ("masking", "ibotpp"), ("normalisation", "ibotpp")),
    (("bridge", "momentum-0-all"), ("masking", "hidden0")),
    (("bridge", "momentum-50-all"), ("masking", "hidden50")),
    (("bridge", "larger"), ("size", "large")),
    (("bridge", "from_larger"), ("size", "base_from_large")),
    (("cumulative", "ibotpp"), ("captions", "two-short")),
    (("cumulative", "captions"), ("captions", "two-all")),
)
"""Cells of several studies that are one run, at every scale."""

SAME_AT_MINI = (
    (("bridge", "ibot"), ("first", "ibot"), ("ingredients", "ibot-2")),
    (("bridge", "ibotpp"), ("first", "ibotpp"), ("ingredients", "ibotpp-2"), ("transfer", "teacher")),
    (("bridge", "vanilla"), ("first", "vanilla")),
    (("bridge", "hidden75"), ("first", "hidden75-all")),
    (("bridge", "frozen-75-masked"), ("first", "hidden75-masked")),
)

PAPER_TOWERS = {
    "timm:vit_base_patch14_reg1_tipsv2": (85.7, 109.6),
    "timm:vit_large_patch14_reg1_tipsv2": (303.2, 183.9),
    "timm:vit_giant_patch14_reg1_tipsv2": (1134.8, 389.1),
}
"""Millions of parameters of the image tower, on a grid of 16 x 16, and of the text tower: Table 16."""


@cache
def shipped(name: str, scale: str, quick: bool = False) -> Study:
    return load_study(name, scale=scale, quick=quick)


@cache
def keys(name: str, scale: str, quick: bool = False) -> dict[str, str]:
    """Cell to the key of its run with seed 0."""
    return {job.cell.name: job.key for job in jobs_of(shipped(name, scale, quick), Path("nowhere"), seeds=[0])}


def test_the_seven_studies_come_at_three_scales_and_three_seeds() -> None:
    assert set(catalogue("study")) == {*STUDIES, *SMALL}
    for name in STUDIES:
        page = read_page(name)
        assert page.name == name and tuple(page.scales) == SCALES
        assert all(size.seeds == (0, 1, 2) for size in page.scales.values())
    assert all(tuple(read_page(name).scales) == ("mini",) for name in SMALL)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_a_page_refuses_nothing_but_what_means_nothing(name: str, scale: str) -> None:
    check_refused(shipped(name, scale))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_a_quick_version_has_the_same_cells_and_refuses_the_same(name: str, scale: str) -> None:
    whole, quick = shipped(name, scale), shipped(name, scale, quick=True)
    check_refused(quick)
    assert quick.refused == whole.refused and quick.seeds == whole.seeds[:1]
    assert [cell.name for cell in quick.cells] == [cell.name for cell in whole.cells]
    assert all(cell.recipe.optim.steps <= 60 for cell in quick.cells)
    assert scale == "mini" or all(cell.recipe.run.device == "cpu" for cell in quick.cells)


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_no_two_cells_of_a_page_are_the_same_run(name: str, scale: str, quick: bool) -> None:
    runs = keys(name, scale, quick)
    assert len(set(runs.values())) == len(runs)


def check_refused(study: Study) -> None:
    refused = {each.name for each in study.refused}
    assert refused <= REFUSED.get(study.name, set())
    assert len({cell.name for cell in study.cells}) == len(study.cells) >= 4
    if study.name == "bridge":
        assert len(study.cells) == 28 and refused == REFUSED["bridge"]


def test_many_machines_carry_out_the_scale_of_the_paper_and_one_its_quick_version() -> None:
    assert all(read_page(name).scales["paper"].launch in catalogue("launch") for name in STUDIES)
    assert shipped("size", "paper").launch == "gpu_8" and shipped("size", "paper", quick=True).launch is None


@pytest.mark.parametrize("scale", SCALES)
def test_rows_1_to_7_of_table_2_are_what_the_paper_says(scale: str) -> None:
    study = shipped("bridge", scale)
    for name, row in TABLE_2.items():
        cell = study.cell(name)
        recipe = cell.recipe
        image, text = recipe.student.image, recipe.student.text
        found = (recipe.teacher.kind, recipe.masking.ratio, recipe.objective.patch.supervise)
        assert (*found, image.init, text.init, text.update) == row, name
        assert image.update == "train" and cell.teacher == (None if name == "ibot" else "ibot")


def test_cells_of_the_small_bridge_are_the_base_recipe_and_what_their_levels_say() -> None:
    allowed = {
        setting for levels in read_page("bridge").factors.values() for each in levels.values() for setting in each
    }
    tower = {"student.image.width", "student.image.depth", "student.image.num_heads"}
    base = load_recipe("pretrain/ibot")
    for cell in shipped("bridge", "mini").cells:
        changed = {line.partition(":")[0] for line in differences(base, cell.recipe, ignore=("run", "name"))}
        assert changed <= (allowed | tower if cell.name == "larger" else allowed), cell.name
    assert keys("bridge", "mini")["ibot"] == key_of(base)
    assert keys("bridge", "mini")["ibotpp"] == key_of(load_recipe("pretrain/ibotpp"))


@pytest.mark.parametrize("scale", ["mini", *(pytest.param(scale, marks=pytest.mark.slow) for scale in SCALES[1:])])
def test_a_cell_of_several_studies_is_one_run(scale: str) -> None:
    for group in (*SAME, *SAME_AT_MINI) if scale == "mini" else SAME:
        assert len({keys(name, scale)[cell] for name, cell in group}) == 1, (scale, group)


def test_the_paper_gets_from_tips_to_tipsv2_by_one_switch_at_a_time() -> None:
    cells = [shipped("cumulative", "mini").cell(name) for name in ("tips", "ibotpp", "captions", "head_only")]
    steps = [differences(a.recipe, b.recipe, ignore=("run", "name")) for a, b in pairwise(cells)]
    assert steps == [
        ['objective.patch.supervise: "masked" -> "all"'],
        ['objective.contrastive.second: ["short"] -> ["short", "detailed"]'],
        ['teacher.scope: "encoder_and_head" -> "head"'],
    ]
    assert cells[0].recipe.objective.cls.weight == 1.0 and cells[0].recipe.data.views.num_local == 6


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_every_claim_says_where_it_is_from_and_rests_on_cells(name: str, scale: str) -> None:
    study = shipped(name, scale)
    levels = {cell.name: cell.levels for cell in study.cells if cell.levels}
    assert len(study.claims) >= 4
    assert len({claim.say for claim in study.claims}) == len(study.claims)
    for claim in study.claims:
        assert claim.metric in study.metrics and len(claim.source) > 5, claim.say
        if claim.factor is not None:
            effect = main_effect(levels, claim.factor, level=claim.better, against=claim.than, where=claim.where)
            assert effect.matched, claim.say


def test_the_quick_versions_of_all_pages_shrink_alike() -> None:
    for scale in SCALES:
        quick = [read_page(name).scales[scale].quick for name in STUDIES]
        assert quick[0] and all(each == quick[0] for each in quick), scale
    assert all(read_page(name).scales["mini"].quick == read_page("bridge").scales["mini"].quick for name in SMALL)


@pytest.mark.parametrize("name", [*STUDIES, *SMALL])
def test_a_page_says_where_it_is_from_what_to_type_how_long_it_takes_and_what_to_expect(name: str) -> None:
    header = page_path(name, kind="study").read_text().split("\n\n")[0]
    assert all(f"# {heading}" in header for heading in ("Source:", "Command:", "Time:", "Expected:"))
    commands = re.findall(r"distill (study .+?)(?:\s{3,}.*)?$", header, flags=re.MULTILINE)
    assert commands
    for command in commands:
        options = parse(shlex.split(command))
        study = shipped(options.study, options.scale or "mini")
        assert study.name == name and all(study.cell(cell) for cell in options.cell)
    for scale, size in read_page(name).scales.items():
        assert len(size.expect) > 20 and size.quick_expect, scale
        assert scale == "mini" or "estimate" in size.expect, "nobody has measured it"


def test_towers_of_the_papers_scale_have_the_papers_sizes() -> None:
    seen = set()
    for cell in (cell for name in STUDIES for cell in shipped(name, "paper").cells):
        model, student = cell.recipe.student.image.model, replace(cell.recipe.student)
        if (model, student.text) in seen:
            continue
        seen.add((model, student.text))
        # The tokenizer is the user's file; the released one has as many pieces as the tower takes without it.
        with torch.device("meta"):
            encoder = build_dual(replace(student, text=replace(student.text, tokenizer=None)), 224)
        millions = [sum(p.numel() for p in tower.parameters()) / 1e6 for tower in (encoder.image, encoder.text)]
        assert millions == pytest.approx(PAPER_TOWERS[model], abs=0.06), cell.name
    assert {model for model, _ in seen} == set(PAPER_TOWERS)


def test_every_cell_of_a_paper_page_takes_two_steps_and_has_what_the_pages_report(tmp_path: Path) -> None:
    jobs = two_steps(shipped("size", "paper", quick=True), tmp_path)
    with own_accelerator():
        scores = measure(jobs[-1].folder, num_images=4)["scores"]
    for name in (*STUDIES, *SMALL):
        assert set(read_page(name).metrics) <= set(scores), name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_of_every_paper_page_takes_two_steps(name: str, store: Path) -> None:
    study = shipped(name, "paper", quick=True)
    assert [job.cell.name for job in two_steps(study, store)] == [cell.name for cell in study.cells]


@pytest.mark.slow
def test_every_cell_of_the_transfer_takes_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one cell writes a cache beside the runs
    study = load_study("transfer", overrides=["optim.steps=2", "evaluate.tasks=[]", "data.batch_size=16"])
    assert len(two_steps(study, tmp_path)) == 3 * len(study.cells)
    assert len(list((tmp_path / "runs/caches").iterdir())) == 3


def two_steps(study: Study, store: Path) -> tuple[Job, ...]:
    """Carry out every run of a study that is not in the store yet, each after those it needs."""
    jobs = jobs_of(study, store)
    for job in jobs:
        assert job.recipe.optim.steps == 2
        assert is_trained(job) or train_alone(job.recipe) == 0, job.name
        assert is_trained(job), job.name
    return jobs
