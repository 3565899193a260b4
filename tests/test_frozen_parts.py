"""What is not trained stays as it is to the bit, what is trained moves, and one batch can be learnt by heart."""

from pathlib import Path

import pytest
import torch
from tiny_runs import opened, tiny, trained
from torch import Tensor, nn

from distill.train.loop import Training
from distill.train.step import training_step

# Decay and momentum would move what gets no gradient, if the optimiser held it.
EAGER = ("optim.warmup=0", "optim.weight_decay=0.5", "optim.lr=1e-2")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("teacher") / "run", "optim.steps=2")


def step(training: Training, batch, progress: float) -> float:
    stepped = training_step(
        batch,
        model=training.model,
        parts=training.parts,
        optimizer=training.optimizer,
        accelerator=training.accelerator,
        progress=progress,
    )
    return stepped.losses.total.item()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(recipe) -> tuple[set[str], set[str], Training]:
    """Names of the learner's parameters that three steps moved, names that they did not, and the training."""
    with opened(recipe) as training:
        before = state(training.parts.learner)
        for number, batch in zip(range(3), training.stream, strict=False):
            step(training, batch, progress=number / 10)
        after = state(training.parts.learner)
    parameters = {name for name, _ in training.parts.learner.named_parameters()}
    changed = {name for name in parameters if not torch.equal(before[name], after[name])}
    buffers = after.keys() - parameters
    assert all(torch.equal(before[name], after[name]) for name in buffers)
    return changed, parameters - changed, training


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
def test_without_a_freeze_everything_moves(optimiser: str, tmp_path: Path):
    changed, still, _ = moved(tiny(tmp_path / "run", *EAGER, f"optim.name={optimiser}"))
    assert changed and not still


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_is_bitwise_unchanged_and_the_rest_moves(tower: str, optimiser: str, tmp_path: Path):
    recipe = tiny(tmp_path / "run", *EAGER, f"student.{tower}.update=freeze", f"optim.name={optimiser}")
    changed, still, training = moved(recipe)
    prefix = f"encoder.{tower}."
    assert still == {name for name in changed | still if name.startswith(prefix)} and still
    held = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    tower_module = {"image": training.parts.learner.encoder.image, "text": training.parts.learner.encoder.text}[tower]
    assert not held & {id(parameter) for parameter in tower_module.parameters()}


@pytest.mark.parametrize("tower", ["image", "text"])
def test_of_a_tower_whose_last_block_is_trained_the_rest_is_bitwise_unchanged(tower: str, tmp_path: Path):
    words = ("student.text.depth=2", f"student.{tower}.update=last_k", f"student.{tower}.last_k=1")
    changed, still, _ = moved(tiny(tmp_path / "run", *EAGER, *words))
    last = {
        "image": ("encoder.image.model.blocks.1.", "encoder.image.model.norm."),
        "text": (
            "encoder.text.model.transformer.resblocks.1.",
            "encoder.text.model.ln_final.",
            "encoder.text.model.text_projection",
        ),
    }[tower]
    of_tower = {name for name in changed | still if name.startswith(f"encoder.{tower}.")}
    assert still == {name for name in of_tower if not name.startswith(last)} and still
    assert {name for name in of_tower if name.startswith(last)} <= changed


def test_a_text_tower_that_no_loss_hears_is_left_alone_and_counted_so(tmp_path: Path):
    changed, still, training = moved(tiny(tmp_path / "run", *EAGER, "objective.contrastive.weight=0"))
    assert still == {name for name in changed | still if name.startswith("encoder.text.")} and still
    (row,) = [row for row in training.parts.report if row.part == "text"]
    assert row.trained == 0 < row.parameters


@pytest.mark.parametrize("target", ["prototypes", "features"])
def test_a_step_moves_the_student_and_never_the_frozen_teacher(target: str, teacher: Path, tmp_path: Path):
    words = ("teacher.kind=frozen", f"teacher.checkpoint={teacher}", f"objective.patch.target={target}")
    recipe = tiny(tmp_path / "run", *EAGER, *words, "student.image.init=teacher", "student.text.init=teacher")
    with opened(recipe) as training:
        before, student = state(training.parts.teacher), state(training.parts.learner)
        for number, batch in zip(range(3), training.stream, strict=False):
            step(training, batch, progress=number / 10)
        assert all(torch.equal(before[name], value) for name, value in state(training.parts.teacher).items())
        after = state(training.parts.learner)
    assert len(before) > 30
    trained_names = {name for name, _ in training.parts.learner.named_parameters()}
    assert all(not torch.equal(student[name], after[name]) for name in trained_names)


@pytest.mark.parametrize("scope", ["encoder_and_head", "head"])
def test_a_momentum_teacher_moves_with_every_step(scope: str, tmp_path: Path):
    with opened(tiny(tmp_path / "run", *EAGER, f"teacher.scope={scope}")) as training:
        before = state(training.parts.teacher)
        step(training, next(training.stream), progress=0.0)
        after = state(training.parts.teacher)
    parameters = {name for name, _ in training.parts.teacher.named_parameters()}
    assert all(not torch.equal(before[name], after[name]) for name in parameters) and parameters


KINDS = {
    "momentum": (),
    "momentum, head-only, sinkhorn, sigmoid": (
        "teacher.scope=head",
        "objective.prototypes.balance=sinkhorn",
        "objective.contrastive.kind=sigmoid",
        "objective.contrastive.temperature=0.1",
    ),
    "frozen": ("teacher.kind=frozen", "teacher.checkpoint=@teacher"),
    "frozen, features": ("teacher.kind=frozen", "teacher.checkpoint=@teacher", "objective.patch.target=features"),
    "frozen, nothing hidden": ("teacher.kind=frozen", "teacher.checkpoint=@teacher", "masking.ratio=0"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_is_learnt_by_heart(kind: str, teacher: Path, tmp_path: Path):
    words = [word.replace("@teacher", str(teacher)) for word in KINDS[kind]]
    recipe = tiny(tmp_path / "run", "optim.lr=2e-3", "optim.warmup=0", "optim.schedule=constant", *words)
    with opened(recipe) as training:
        batch = next(training.stream)
        before, *_, after = [step(training, batch, progress=number / 120) for number in range(60)]
    assert after < 0.5 * before
