"""Agreement of student and teacher: against its definitions, at its bounds, and of real runs from the command line."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from tiny_inputs import write_timm
from tiny_runs import numbers, opened, tiny, trained
from torch import Tensor

from distill import cli
from distill.compose.teaching import load_alone
from distill.config import load_recipe
from distill.eval.command import evaluate_checkpoint, load_encoder
from distill.eval.tasks.agreement import common_neighbours, linear_cka

N = 9
TIMM = ("teacher.model=timm:vit_tiny_patch16_224", "teacher.weights=@timm/first.safetensors", "teacher.image_size=48")
RUNS = {
    "features": ("teacher.kind=frozen", *TIMM, "objective.patch.target=features"),
    "masked prototypes with crops": (
        *("teacher.kind=frozen", "teacher.checkpoint=@run", "objective.cls.weight=1", "data.views.num_local=1"),
        "objective.patch.supervise=masked",
    ),
    "partial": (
        *("teacher.kind=partial", "teacher.checkpoint=@run", "teacher.trainable=[blocks]", "teacher.last_k=1"),
        "optim.lr=1e-2",
    ),
    "two teachers": (
        *("teacher.kind=ensemble", "objective.patch.target=features", "teacher.members.own.checkpoint=@run"),
        *(word.replace("teacher.", "teacher.members.other.", 1) for word in TIMM),
        *("teacher.drop=0.5", "teacher.members.other.features.student_layers=[1]"),
    ),
}


def drawn(width: int, seed: int, count: int = N) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def hsic(x: Tensor, y: Tensor) -> float:
    """The U-statistic of Song et al. 2012, eq. 4, as the mean over all ordered quadruples of different rows."""
    k, m, total, count = x @ x.T, y @ y.T, 0.0, 0
    for i, j, q, r in itertools.permutations(range(len(x)), 4):
        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        count += 1
    return float(total / count)


def test_cka_is_its_definition_over_batches():
    batches = [(drawn(4, seed), drawn(3, seed + 50) + drawn(4, seed)[:, :3]) for seed in range(2)]
    ours, own, other = (
        sum(hsic(*pair) for pair in pairs)
        for pairs in (batches, [(x, x) for x, _ in batches], [(y, y) for _, y in batches])
    )
    assert linear_cka(batches) == pytest.approx(ours / (own * other) ** 0.5, rel=1e-9)


def test_agreement_is_one_up_to_rotation_and_scale_and_chance_for_strangers():
    teacher = drawn(6, 0, 40)
    turn = torch.linalg.qr(drawn(6, 1, 6))[0]
    assert linear_cka([(3 * teacher @ turn + 5, teacher)]) == pytest.approx(1)
    assert common_neighbours(3 * teacher @ turn, teacher, num_neighbours=5) == 1
    strangers = [linear_cka([(drawn(6, seed, 40), teacher)]) for seed in range(2, 42)]
    mean, error = torch.tensor(strangers).mean().item(), torch.tensor(strangers).std().item() / len(strangers) ** 0.5
    assert abs(mean) < 4 * error
    shares = [common_neighbours(drawn(6, seed, 40), teacher, num_neighbours=5) for seed in range(2, 42)]
    assert sum(shares) / len(shares) == pytest.approx(5 / 39, abs=0.03)


def test_common_neighbours_are_counted_by_cosine_and_never_oneself():
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.1, 2.3], dtype=torch.double)
    student = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 7)[:, None]
    swapped = student[[3, 1, 2, 0, 4, 5]]
    assert common_neighbours(student, student * 7, num_neighbours=2) == 1
    # Places 0 and 3 have changed groups: their own neighbours are all wrong, everybody else's are half right.
    assert common_neighbours(swapped, student, num_neighbours=2) == pytest.approx((2 * 0 + 4 * 0.5) / 6)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    trained(folder / "run", "optim.steps=2", "objective.cls.weight=1", "data.views.num_local=1")
    write_timm(folder / "timm")
    return folder


def measured(run: Path, *words: str) -> dict[str, float]:
    assert cli.main(["eval", str(run), "agreement", "num_images=24", *words]) == 0
    side = "untrained" if "side=untrained" in words else "student"
    page = json.loads(
        (run / "eval" / ("agreement.json" if side == "student" else f"agreement.{side}.json")).read_text()
    )
    assert page["side"] == side and page["num_images"] == 24
    assert page["settings"]["neighbours_by_chance"] == pytest.approx(5 / 23)
    return page["values"]


@pytest.mark.parametrize("case", RUNS)
def test_a_run_is_measured_beside_its_teachers(case: str, inputs: Path, tmp_path: Path, capsys):
    words = [word.replace("@", f"{inputs}/") for word in RUNS[case]]
    run = trained(tmp_path / "run", *words, "optim.steps=12", "optim.warmup=0")
    student, untrained = measured(run), measured(run, "side=untrained")
    names = {"cls_neighbours", "cls_cka", "patch_cka", "patch_loss"}
    own_cls = {
        "features": "patch_cls_loss",
        "two teachers": "patch_cls_loss",
        "masked prototypes with crops": "cls_loss",
    }
    names |= {own_cls[case]} if case in own_cls else set()
    if case == "two teachers":
        names = {f"{member}/{name}" for member in ("own", "other") for name in names}
    assert set(student) == set(untrained) == names
    assert all(-1 <= student[name] <= 1 for name in names if "loss" not in name)
    for name in names:
        if name.endswith("patch_loss"):
            assert student[name] < untrained[name]
    assert "patch_loss" in capsys.readouterr().out


def test_the_loss_of_held_out_pictures_is_about_that_of_the_last_training_pictures(inputs: Path, tmp_path: Path):
    words = [word.replace("@", f"{inputs}/") for word in RUNS["features"]]
    run = trained(tmp_path / "run", *words, "optim.steps=40", "optim.warmup=0", "masking.ratio=0")
    last = [line for line in numbers(run) if "loss" in line][-1]
    found, untrained = measured(run), measured(run, "side=untrained")
    for name, logged in (("patch_loss", "loss/patch"), ("patch_cls_loss", "loss/patch_cls")):
        far = untrained[name] - last[logged]
        assert far > 0.1 and abs(found[name] - last[logged]) < far / 3


@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_untrained_is_the_student_that_the_run_started_with(cached: bool, inputs: Path, tmp_path: Path):
    words = [word.replace("@", f"{inputs}/") for word in RUNS["features"]]
    words += ["data.scenes.num_train=16", f"teacher.cache={tmp_path}/cache"] if cached else []
    with opened(tiny(tmp_path / "start", *words)) as training:
        start = training.parts.learner.encoder.state_dict()
    run = trained(tmp_path / "run", *words, "optim.steps=2")
    found, _ = load_encoder(run, "untrained")
    assert all(torch.equal(value, start[name]) for name, value in found.state_dict().items())
    assert not all(torch.equal(value, start[name]) for name, value in load_encoder(run)[0].state_dict().items())
    evaluate_checkpoint(run, "knn", ["side=untrained", "num_images=12"])
    assert json.loads((run / "eval" / "knn.untrained.json").read_text())["step"] == 0


@pytest.mark.parametrize(("member", "key"), [("", "teacher"), ("own", "teacher.members.own")])
def test_a_lost_teacher_is_called_by_its_setting(member: str, key: str, tmp_path: Path, monkeypatch):
    """Also where its cache is there."""
    monkeypatch.chdir(tmp_path)
    for cached in ([], ["teacher.cache=cache"]):
        recipe = load_recipe("smoke", ["teacher.kind=frozen", "teacher.checkpoint=runs/lost", *cached])
        with pytest.raises(ValueError) as caught:
            load_alone(recipe, member=member)
        assert str(caught.value).startswith(f"{key}.checkpoint=runs/lost: runs/lost is neither a run folder")
        assert str(caught.value).endswith("; relative paths begin where the command is given")


def test_a_run_without_a_loaded_teacher_and_the_teacher_itself_are_refused(inputs: Path, capsys):
    assert cli.main(["eval", str(inputs / "run"), "agreement"]) == 2
    assert "follows the student" in capsys.readouterr().err
    assert cli.main(["eval", str(inputs / "run"), "agreement", "side=teacher"]) == 2
    assert "side=untrained" in capsys.readouterr().err
