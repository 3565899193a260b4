"""Evaluation during training: who is measured, what is refused, and what it cost."""

import json
from pathlib import Path

import pytest
from tiny_runs import numbers, tiny, train_alone, trained
from tiny_teachers import EAGER, partial

from distill import cli
from distill.config import InvalidCombination, RecipeError, load_recipe
from distill.eval.command import load_encoder
from distill.eval.in_training import evaluate_in_training

ASKED = ("evaluate.tasks=[zero_shot_segmentation, knn]", "evaluate.num_images=16", "optim.steps=4")
TEACHER = (*ASKED, "evaluate.side=teacher")
PREFIX = "evaluate/"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose momentum teacher was measured every second step."""
    return trained(tmp_path_factory.mktemp("sides") / "run", *TEACHER, *EAGER, "evaluate.every=2", "run.keep=3")


def last_scores(run: Path) -> dict[str, float]:
    line = [line for line in numbers(run) if any(key.startswith(PREFIX) for key in line)][-1]
    return {key.removeprefix(PREFIX): value for key, value in line.items() if key.startswith(PREFIX)}


def test_the_average_of_a_momentum_teacher_is_measured_at_every_step_asked_for(first: Path):
    lines = [line["step"] for line in numbers(first) if "evaluate/knn/accuracy" in line]
    assert lines == [2, 4]
    (encoder, recipe), (student, _) = load_encoder(first, "teacher"), load_encoder(first)
    assert last_scores(first) == evaluate_in_training(encoder, recipe)
    assert last_scores(first) != evaluate_in_training(student, recipe)


def test_the_best_checkpoint_is_the_teacher_s(first: Path):
    lines = [line for line in numbers(first) if "evaluate/knn/accuracy" in line]
    best = json.loads((first / "summary.json").read_text())["best"]
    deciding = {line["step"]: line["evaluate/zero_shot_segmentation/miou"] for line in lines}
    assert best[0] == max(deciding.values()) and deciding[best[1]] == best[0]


def test_measuring_the_teacher_changes_no_loss(first: Path, tmp_path: Path):
    other = trained(tmp_path / "run", *ASKED, *EAGER)
    ours, theirs = ([line["loss"] for line in numbers(run) if "loss" in line] for run in (first, other))
    assert ours == theirs and len(ours) == 4


def test_a_partial_teacher_is_measured_with_its_own_text_tower(first: Path, tmp_path: Path):
    words = partial(first, "teacher.trainable=[blocks]", "teacher.last_k=1")
    run = trained(tmp_path / "run", *TEACHER, *EAGER, *words)
    encoder, recipe = load_encoder(run, "teacher")
    assert last_scores(run) == evaluate_in_training(encoder, recipe)
    assert last_scores(run) != evaluate_in_training(load_encoder(run)[0], recipe)
    assert last_scores(run) != evaluate_in_training(load_encoder(first)[0], recipe)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("teacher.kind=frozen", "teacher.checkpoint=any"), "a frozen teacher never changes; evaluate.baselines=true"),
        (partial(Path("any")), "only the head of this teacher learns"),
        (("teacher.scope=head",), "this run averages no encoder; measure the student"),
        (("objective.patch.supervise=none",), "this run averages no encoder"),
    ],
)
def test_teachers_that_stay_as_they_are_are_refused_before_anything_is_built(words: tuple[str, ...], said: str):
    with pytest.raises((InvalidCombination, RecipeError)) as refused:
        load_recipe("smoke", [*TEACHER, *words])
    assert said in str(refused.value)


def test_a_teacher_without_text_is_refused_at_the_start_where_a_task_needs_one(tmp_path: Path):
    words = ("teacher.kind=partial", "teacher.model=timm:test_vit", "teacher.weights=random")
    words += ("teacher.trainable=[head, norms]", "objective.contrastive.temperature=0.07")
    with pytest.raises(ValueError, match="has no text tower, and zero_shot_segmentation needs one"):
        train_alone(tiny(tmp_path / "run", *TEACHER, *words))


def test_the_cost_is_reported_in_the_journal_the_summary_and_at_the_end(tmp_path: Path, capfd: pytest.CaptureFixture):
    run = trained(tmp_path / "run", *ASKED, "evaluate.every=2", "evaluate.baselines=true")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    costs = [line for line in lines if "evaluate/evaluate_seconds" in line]
    assert [line["step"] for line in costs] == [2, 4]
    cost = json.loads((run / "summary.json").read_text())["evaluations"]
    assert cost["side"] == "student" and cost["count"] == 2
    assert cost["seconds"] == sum(line["evaluate/evaluate_seconds"] for line in costs)
    assert all(0 < line["evaluate/evaluate_share"] < 1 for line in costs) and 0 < cost["share"] < 1
    told = capfd.readouterr().err
    assert "2 evaluation(s) of the student took" in told and "before the first step" in told
    assert "step 2, student: zero_shot_segmentation/miou" in told and "of the time so far" in told


def test_the_command_line_asks_for_a_side_by_either_name_and_families_have_none(first: Path, capsys):
    assert cli.main(["eval", str(first), "knn", "evaluate.side=teacher", "num_images=8"]) == 0
    page = json.loads((first / "eval" / "knn.teacher.json").read_text())
    assert page["side"] == "teacher" and "side" not in page["evaluate"]
    assert cli.main(["eval", str(first), "knn", "num_images=8"]) == 0
    assert json.loads((first / "eval" / "knn.json").read_text())["side"] == "student"
    assert cli.main(["eval", "timm:test_vit", "knn", "weights=random", "side=teacher"]) == 2
    assert "side is a setting of training" in capsys.readouterr().err
