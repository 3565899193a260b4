"""Accumulated micro-batches are one big batch: same losses, same weights, less memory."""

from pathlib import Path

import pytest
import torch
from tiny_runs import numbers, opened, tiny, trained

from distill.config import InvalidCombination, Recipe
from distill.train import checkpoint, loop
from distill.train.accumulate import split
from distill.train.learner import Learner
from distill.train.optim import parameter_groups

CROPS = ("objective.cls.weight=1", "data.views.num_local=2")
# The sizes differ from image to image where only some are masked, so sums over tokens do not split evenly.
UNEVEN = ("masking.image_share=0.6",)
CASES = {
    "softmax, centre": (),
    "sigmoid, sinkhorn, crops": (
        "objective.contrastive.kind=sigmoid",
        "objective.prototypes.balance=sinkhorn",
        *CROPS,
    ),
    "softmax, sinkhorn, head-only, uneven": ("objective.prototypes.balance=sinkhorn", "teacher.scope=head", *UNEVEN),
    "sigmoid, centre, head-only, crops": ("objective.contrastive.kind=sigmoid", "teacher.scope=head", *CROPS),
    "frozen teacher, sinkhorn, nothing hidden": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.prototypes.balance=sinkhorn",
        "masking.ratio=0",
    ),
    "frozen teacher, features": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=features",
        *UNEVEN,
    ),
    "frozen teacher, clusters, uneven": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=clusters",
        "objective.prototypes.balance=sinkhorn",
        *UNEVEN,
    ),
    "frozen teacher, phi_s, relations, ladder": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.patch.target=features",
        "objective.features={loss: cosine_smooth_l1, standardise: phi_s, gram_weight: 0.5, rkd_weight: 0.5}",
        "objective.features={adapter: mlp, student_layers: [1]}",
        *UNEVEN,
    ),
    "two frozen teachers, balanced and dropped": (
        "teacher.kind=ensemble",
        "teacher.members={a: {checkpoint: @teacher}, b: {checkpoint: @teacher, image_size: 48, weight: 0.5}}",
        "teacher.members.b.features={loss: smooth_l1, cls_weight: 0, gram_weight: 1}",
        "teacher.balance=running_loss",
        "teacher.drop=0.5",
        "objective.patch.target=features",
        *UNEVEN,
    ),
    "patches alone": ("objective.contrastive.weight=0", "student.text.kind=none", *UNEVEN),
    "contrast alone": ("objective.patch.supervise=none",),
    "crops alone, two heads": (
        *CROPS,
        "objective.contrastive.weight=0",
        "student.text.kind=none",
        "student.head.shared=false",
        "objective.patch.supervise=masked",
    ),
}
STEPS = ("data.batch_size=16", "optim.steps=5", "optim.warmup=0", "optim.lr=0.05", "optim.clip=1")
# Measured worst cases of all: 2.8e-7 and 5.2e-7.
RELATIVE_LOSS = 3e-6
WEIGHTS = 6e-6


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("teacher") / "run", *CROPS, "optim.steps=2")


def worst_loss(run: Path, other: Path) -> float:
    """Largest relative difference of any logged loss or gradient norm."""
    worst = 0.0
    for ours, theirs in zip(numbers(run), numbers(other), strict=True):
        assert ours.keys() == theirs.keys()
        chosen = [key for key in ours if key.startswith(("loss", "gradient_norm"))]
        assert len(chosen) >= 3
        worst = max([worst, *(abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in chosen)])
    return worst


def worst_weight(run: Path, other: Path, part: str) -> float:
    """Largest difference of any weight as a share of its tensor's largest one."""
    ours, theirs = checkpoint.find(run).tensors(part), checkpoint.find(other).tensors(part)
    assert ours.keys() == theirs.keys() and len(ours) > 0
    return max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max().clamp(min=1e-2)) for k in ours)


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient descent without state. Adam divides every gradient by its size: where the true one is 0, such as for
    the biases of keys, it makes whole steps of rounding errors."""

    def build(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameter_groups(learner, recipe), lr=recipe.optim.lr)

    monkeypatch.setattr(loop, "build_optimizer", build)


@pytest.mark.parametrize("case", CASES)
def test_four_micro_batches_are_one_batch(case: str, teacher: Path, tmp_path: Path, plain_descent: None):
    words = [word.replace("@teacher", str(teacher)) for word in CASES[case]]
    whole, pieces = (trained(tmp_path / n, *STEPS, *words, f"optim.accumulate={n}") for n in ("1", "4"))
    assert worst_loss(pieces, whole) < RELATIVE_LOSS
    assert worst_weight(pieces, whole, "student") < WEIGHTS
    if "frozen" not in case and "alone" not in case:
        assert worst_weight(pieces, whole, "teacher") < WEIGHTS


def test_with_adamw_the_losses_are_the_same_too(tmp_path: Path):
    words = ("data.batch_size=16", *CROPS, "objective.prototypes.balance=sinkhorn", "optim.accumulate=")
    whole, pieces = (trained(tmp_path / n, *words[:-1], f"{words[-1]}{n}") for n in ("1", "8"))
    assert worst_loss(pieces, whole) < RELATIVE_LOSS


def test_the_pieces_of_a_batch_are_the_batch(tmp_path: Path):
    with opened(tiny(tmp_path / "run", *CROPS, "data.batch_size=16")) as training:
        batch = next(training.stream)
    pieces = split(batch, 4)
    assert [len(piece.ids) for piece in pieces] == [4, 4, 4, 4]
    assert [name for piece in pieces for name in piece.ids] == batch.ids
    assert torch.equal(torch.cat([piece.pixels for piece in pieces]), batch.pixels)
    assert torch.equal(torch.cat([piece.hidden for piece in pieces]), batch.hidden)
    assert torch.equal(torch.cat([piece.captions for piece in pieces], dim=1), batch.captions)
    assert torch.equal(torch.cat([piece.local_crops for piece in pieces], dim=1), batch.local_crops)


@pytest.mark.parametrize("extra", ["{drop_path_rate: 0.1}", "{proj_drop_rate: 0.1}", "{attn_drop_rate: 0.1}"])
def test_dropout_and_accumulation_do_not_go_together(extra: str, tmp_path: Path):
    with pytest.raises(InvalidCombination, match=r"dropout") as refused:
        tiny(tmp_path, "optim.accumulate=2", f"student.image.extra={extra}")
    assert refused.value.keys == ("optim.accumulate", "student.image.extra")
    tiny(tmp_path, "optim.accumulate=1", f"student.image.extra={extra}")
    tiny(tmp_path, "optim.accumulate=2", "student.image.extra={drop_path_rate: 0.0, qkv_bias: false}")


def test_a_batch_that_does_not_split_is_refused(tmp_path: Path):
    with pytest.raises(InvalidCombination, match="does not split into 3 micro-batches"):
        tiny(tmp_path, "optim.accumulate=3")
