"""Convnets as students: every kind of teacher, what batch norm changes, and that a run goes on to the bit."""

from pathlib import Path

import pytest
import torch
from tiny_runs import losses, numbers, opened, tiny, to_the_bit, train_alone, trained
from torch import Tensor, nn

from distill.compose import compose
from distill.encoders.batch_norm import batch_norms
from distill.exit_codes import INTERRUPTED
from distill.train import checkpoint, loop
from distill.train.loop import Training
from distill.train.step import Stepped, training_step

SIZES = tuple(f"student.image.{size}=null" for size in ("patch_size", "width", "depth", "num_heads"))
CONVNET = (*SIZES, "student.image.num_cls=1", "student.image.extra={output_stride: 16}", "data.image_size=64")
RESNET = (*CONVNET, "student.image.model=timm:test_resnet")
CONVNEXT = (*CONVNET, "student.image.model=timm:test_convnext")
CROPS = ("objective.cls.weight=1", "data.views.num_local=2", "data.views.local_size=32")
EAGER = ("optim.warmup=0", "optim.weight_decay=0.5", "optim.lr=1e-2")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer with heads, of another width and grid than the students."""
    return trained(tmp_path_factory.mktemp("teacher") / "run", "optim.steps=2", *CROPS)


KINDS = {
    "momentum": (),
    "momentum, crops": CROPS,
    "head-only momentum": ("teacher.scope=head",),
    "frozen, features": ("teacher.kind=frozen", "teacher.checkpoint=@teacher", "objective.patch.target=features"),
    "frozen, crops alone": (
        "teacher.kind=frozen",
        "teacher.checkpoint=@teacher",
        "objective.contrastive.weight=0",
        "objective.patch.supervise=none",
        "student.text.kind=none",
        *CROPS,
    ),
}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def step(training: Training, batch, *, progress: float = 0.5) -> Stepped:
    return training_step(
        batch,
        model=training.model,
        parts=training.parts,
        optimizer=training.optimizer,
        accelerator=training.accelerator,
        progress=progress,
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("network", [RESNET, CONVNEXT], ids=["resnet", "convnext"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_convnet_learns_from_every_kind_of_teacher(kind: str, network: tuple, teacher: Path, tmp_path: Path):
    words = [word.replace("@teacher", str(teacher)) for word in KINDS[kind]]
    with opened(tiny(tmp_path / "run", *network, *EAGER, *words)) as training:
        before = state(training.parts.learner)
        found = [step(training, batch).losses.total for _, batch in zip(range(3), training.stream, strict=False)]
        after = state(training.parts.learner)
        learner = training.parts.learner
    assert all(torch.isfinite(loss) for loss in found)
    still = {name for name, parameter in learner.named_parameters() if torch.equal(before[name], after[name])}
    assert still == (set() if learner.sees_masked else {"encoder.image.mask_pixel"})  # which nobody has seen then
    # However many passes a step makes, one of them counts.
    counts = {int(value) for name, value in after.items() if name.endswith("num_batches_tracked")}
    assert counts == ({3} if network is RESNET else set())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a convnet with everything: captions, patches, crops, evaluation."""
    return trained(tmp_path_factory.mktemp("resnet") / "run", *RESNET, *CROPS, *EVALUATED)


EVALUATED = ("evaluate.tasks=[retrieval, linear_segmentation]", "evaluate.every=3", "evaluate.num_images=8")


def test_a_run_of_a_convnet_that_is_interrupted_goes_on_to_the_bit(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = tiny(tmp_path / "run", *RESNET, *CROPS, *EVALUATED)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_asked_to_stop", lambda training, stop: training.step == 2)
        assert train_alone(recipe) == INTERRUPTED
    assert checkpoint.all_steps(tmp_path / "run") == [2]
    assert train_alone(recipe) == 0
    assert to_the_bit(tmp_path / "run") == to_the_bit(resnet)
    for name in ("student", "teacher", "optimizer", "objective"):
        assert same(checkpoint.find(tmp_path / "run").tensors(name), checkpoint.find(resnet).tensors(name))


def test_a_convnet_is_evaluated_and_teaches_in_turn(resnet: Path, tmp_path: Path):
    scores = [line for line in numbers(resnet) if "loss" not in line]
    assert len(scores) == 2 and "evaluate/linear_segmentation/miou" in scores[0]
    words = ("teacher.kind=frozen", f"teacher.checkpoint={resnet}")
    run = trained(tmp_path / "run", *RESNET, *words, "student.image.init=teacher", "optim.steps=2")
    assert len(losses(run)) == 2
    # A transformer with another grid learns from it, too.
    trained(tmp_path / "vit", *words, "objective.patch.target=features", "optim.steps=1")


def test_a_frozen_convnet_is_bitwise_unchanged_with_its_statistics(tmp_path: Path):
    with opened(tiny(tmp_path / "run", *RESNET, *EAGER, *CROPS, "student.image.update=freeze")) as training:
        before, heads = state(training.parts.learner.encoder.image), state(training.parts.learner.heads)
        for _, batch in zip(range(3), training.stream, strict=False):
            step(training, batch)
        assert same(before, state(training.parts.learner.encoder.image))
        assert not same(heads, state(training.parts.learner.heads))


def test_of_a_convnet_whose_last_stage_is_trained_the_rest_keeps_its_statistics_too(tmp_path: Path):
    words = ("student.image.update=last_k", "student.image.last_k=1")
    with opened(tiny(tmp_path / "run", *RESNET, *EAGER, *words)) as training:
        before = state(training.parts.learner.encoder.image)
        for _, batch in zip(range(3), training.stream, strict=False):
            step(training, batch)
        after = state(training.parts.learner.encoder.image)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("model.layer4.")}


def test_running_statistics_are_of_unmasked_pictures_and_the_teacher_has_them(tmp_path: Path):
    with opened(tiny(tmp_path / "run", *RESNET, *CROPS)) as training:
        image, batch = training.parts.learner.encoder.image, next(training.stream)
        with torch.no_grad():
            seen = image.model.conv1(image.standardise(batch.pixels))
        norm = image.model.bn1
        step(training, batch)
        torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean(dim=(0, 2, 3)), atol=1e-6, rtol=0)
        expected = 0.9 + 0.1 * seen.var(dim=(0, 2, 3))
        torch.testing.assert_close(norm.running_var, expected, atol=1e-6, rtol=0)
        ours, theirs = batch_norms(image), batch_norms(training.parts.teacher.image)
        assert all(torch.equal(one.running_var, other.running_var) for one, other in zip(ours, theirs, strict=True))
        assert all(norm.training for norm in ours) and not any(norm.training for norm in theirs)


def test_the_masked_pass_learns_nothing_of_hidden_pixels_from_its_unmasked_twin(tmp_path: Path):
    """In one call on both, batch norm would tell."""
    with opened(tiny(tmp_path / "run", *RESNET)) as training:
        learner, batch = training.parts.learner, next(training.stream)
        with torch.no_grad():
            found = learner(batch)
            masked = learner.encoder.image(batch.pixels, batch.hidden)
            unmasked = learner.encoder.image(batch.pixels)
    assert torch.equal(found.masked.patches, masked.patches)
    assert torch.equal(found.unmasked.patches, unmasked.patches)


@pytest.mark.parametrize("promise", ["optim.accumulate=2", "student.image.gradient_checkpointing=true"])
def test_a_promise_of_the_same_results_is_refused_with_batch_norms_and_kept_without(promise: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"{promise.split('=')[0]}.*has batch norms"):
        compose(tiny(tmp_path / "refused", *RESNET, promise))
    compose(tiny(tmp_path / "frozen", *RESNET, promise, "student.image.update=freeze"))
    found = []
    for words in ((), (promise,)):
        with opened(tiny(tmp_path / promise / str(len(words)), *CONVNEXT, *words)) as training:
            found.append(step(training, next(training.stream)))
    plain, kept = found
    torch.testing.assert_close(kept.losses.total, plain.losses.total, atol=0, rtol=3e-6)
    torch.testing.assert_close(kept.gradient_norm, plain.gradient_norm, atol=0, rtol=1e-5)


def test_several_processes_on_cpus_are_refused_with_batch_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with opened(tiny(tmp_path / "run", *CONVNEXT)) as training:
        monkeypatch.setattr(type(training.accelerator), "num_processes", 2)
        training._compose()
        training.recipe = tiny(tmp_path / "run", *RESNET)
        with pytest.raises(ValueError, match="cannot synchronise between processes on CPUs"):
            training._compose()
