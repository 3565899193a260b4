"""The partly trainable teacher: what is named learns as the definition says, and nothing else changes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from test_ranks import ended, start_ranks, worst
from tiny_runs import losses, opened, tiny, to_the_bit, trained, words
from tiny_teachers import CROPS, EAGER, PARTS, partial, state, stepped
from torch import Tensor, nn

from distill.compose import compose
from distill.config import InvalidCombination, InvalidValue, Recipe, Teacher, load_recipe
from distill.eval.command import load_encoder
from distill.train import checkpoint, loop
from distill.train.learner import Learner
from distill.train.optim import clip_gradients, parameter_groups, trained_parameters
from distill.trained import load_trained
from teachers import Partial


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training whose teacher was centred, to learn from."""
    return trained(tmp_path_factory.mktemp("teachers") / "run", "optim.steps=2", "optim.warmup=0", *CROPS)


def named(part: str, names: set[str]) -> set[str]:
    """The parameters of a part by their names alone; the tower has two blocks, and adapters sit where blocks do not
    learn themselves."""
    image = {name for name in names if name.startswith("encoder.image.")}
    adapters = {name for name in image if name.endswith((".up", ".down"))}
    last = ("encoder.image.model.blocks.1.", "encoder.image.model.norm.")
    return {
        "head": {name for name in names if name.startswith("heads.")},
        "blocks": {name for name in image - adapters if name.startswith(last)},
        "norms": {name for name in image if "norm" in name or name.endswith(".bias")},
        "adapters": adapters,
    }[part]


@pytest.mark.parametrize("part", PARTS)
def test_exactly_the_named_parts_learn_and_the_losses_notice(part: str, run: Path, tmp_path: Path):
    before, after, found = stepped(tiny(tmp_path / "run", *EAGER, *CROPS, *partial(run, *PARTS[part])))
    parts = ("head", "blocks", "norms", "adapters") if part == "all four" else (part,)
    expected = set().union(*(named(one, set(before)) for one in parts))
    assert all(named(one, set(before)) for one in parts)
    assert {name for name in before if not torch.equal(before[name], after[name])} == expected
    *_, still = stepped(tiny(tmp_path / "frozen", *EAGER, *CROPS, "teacher.kind=frozen", f"teacher.checkpoint={run}"))
    assert found[0] == still[0] and found[2] != still[2]


def test_the_side_teacher_of_a_run_is_its_start_with_what_it_learnt(run: Path, tmp_path: Path):
    student = trained(tmp_path / "student", *EAGER, *partial(run, *PARTS["blocks"]))
    start, found = load_trained(run).encoder.state_dict(), load_encoder(student, "teacher")[0].state_dict()
    moved = {f"encoder.{name}" for name in start if not torch.equal(start[name], found[name])}
    assert moved == named("blocks", {f"encoder.{name}" for name in start})


def test_history_begins_with_the_first_part_that_learns_and_the_teacher_stays_in_eval(run: Path, tmp_path: Path):
    for part, has_history in (("head", False), ("blocks", True), ("norms", True), ("adapters", True)):
        with opened(tiny(tmp_path / part, *partial(run, *PARTS[part]))) as training:
            teacher, batch = training.parts.teacher, next(training.stream)
        assert isinstance(teacher, Partial)
        asked = {name for name, _ in trained_parameters(teacher)}
        assert not any(module.training for module in teacher.train().modules())
        assert teacher.targets(batch, None).tokens.patches.requires_grad is has_history
        assert asked == {name for name, _ in trained_parameters(teacher)} != set()


def test_the_student_may_start_as_a_copy_of_the_teachers_start(run: Path, tmp_path: Path):
    inits = ("student.image.init=teacher", "student.text.init=teacher", "student.head.init=teacher")
    parts, source = compose(tiny(tmp_path, *CROPS, *partial(run), *inits)), load_trained(run)
    for ours, theirs in ((parts.learner.encoder, source.encoder), (parts.learner.heads, source.heads)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    places = {value.data_ptr() for value in parts.teacher.state_dict().values()}
    assert not places & {value.data_ptr() for value in parts.learner.state_dict().values()}
    centre = parts.objective.state_dict()["transfer.prototypes.patch_balance.centre"]
    assert torch.equal(centre, source.balance["transfer.prototypes.patch_balance.centre"]) and centre.abs().sum() > 0


def test_without_weight_for_the_teacher_the_student_is_a_frozen_teachers_to_the_bit(run: Path, tmp_path: Path):
    settings = partial(run, *PARTS["all four"], "teacher.loss_weight=0")
    ours = trained(tmp_path / "partial", *EAGER, *CROPS, *settings)
    theirs = trained(tmp_path / "frozen", *EAGER, *CROPS, "teacher.kind=frozen", f"teacher.checkpoint={run}")
    assert to_the_bit(ours) == to_the_bit(theirs)
    mine, wanted = (checkpoint.find(folder).tensors("student") for folder in (ours, theirs))
    assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
    start = state(compose(tiny(tmp_path, *CROPS, *settings)).teacher)
    assert all(torch.equal(value, start[name]) for name, value in checkpoint.find(ours).tensors("teacher").items())


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam divides every gradient by its size, and makes whole steps of the rounding errors where the true one is 0."""

    def build(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameter_groups(learner, recipe), lr=recipe.optim.lr)

    monkeypatch.setattr(loop, "build_optimizer", build)


@pytest.mark.parametrize("balance", ["centre", "sinkhorn"])
def test_four_micro_batches_are_one_batch(balance: str, run: Path, tmp_path: Path, plain_descent: None):
    steps = ("data.batch_size=16", "optim.steps=4", "optim.warmup=0", "optim.lr=0.05", f"run.folder={tmp_path}")
    settings = (*steps, *CROPS, *partial(run, *PARTS["all four"]), f"objective.prototypes.balance={balance}")
    whole, pieces = (trained(tmp_path / n, *settings, "masking.image_share=0.6", f"optim.accumulate={n}") for n in "14")
    # Measured worst cases, of losses and of weights: 2.3e-7 and 2.6e-7.
    assert max(abs(a - b) / b for a, b in zip(losses(pieces), losses(whole), strict=True)) < 3e-6
    for part in ("student", "teacher"):
        ours, theirs = (checkpoint.find(folder).tensors(part) for folder in (pieces, whole))
        assert ours.keys() == theirs.keys()
        assert (
            max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max().clamp(min=1e-2)) for k in ours) < 3e-6
        )
    start = load_trained(run).heads.state_dict()["members.shared.directions"]
    assert not torch.equal(theirs["heads.members.shared.directions"], start)


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
def test_a_resumed_run_is_an_uninterrupted_one_to_the_bit(optimiser: str, run: Path, tmp_path: Path):
    settings = [*EAGER, *partial(run, *PARTS["all four"]), f"optim.name={optimiser}", "run.checkpoint_every=3"]
    settings += ["run.keep=9", "evaluate.tasks=[retrieval]", "evaluate.num_images=8", "evaluate.baselines=true"]
    whole = trained(tmp_path / "whole", *settings)
    resumed = shutil.copytree(whole, tmp_path / "resumed")
    shutil.rmtree(checkpoint.folder_of(resumed, 6))
    (resumed / "summary.json").unlink()
    trained(resumed, *settings)
    assert to_the_bit(resumed) == to_the_bit(whole)
    ours, theirs = (checkpoint.verify(checkpoint.folder_of(folder, 6)) for folder in (resumed, whole))
    for name in ("student", "teacher", "objective", "optimizer"):
        mine, wanted = ours.tensors(name), theirs.tensors(name)
        assert mine.keys() == wanted.keys() and all(torch.equal(mine[key], wanted[key]) for key in wanted)
    learning = {name for name, _ in trained_parameters(compose(tiny(tmp_path, *settings)).teacher)}
    assert theirs.tensors("teacher").keys() == learning
    optimised = {name.split("/", 1)[1] for name in theirs.tensors("optimizer")}
    assert {name.removeprefix("teacher.") for name in optimised if name.startswith("teacher.")} == learning
    assert set(json.loads((whole / "baselines.json").read_text())) == {"untrained", "teacher"}


@pytest.mark.parametrize(("limit", "student", "teacher"), [(0.0, 10.0, 2.0), (3.0, 3.0, 2.0), (1.0, 1.0, 1.0)])
def test_the_teachers_gradient_is_averaged_over_ranks_and_clipped_on_its_own(
    limit: float, student: float, teacher: float, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other rank is made up: it has no gradient at all."""

    def reduce(gradients: list[Tensor], reduction: str) -> list[Tensor]:
        assert reduction == "mean"
        return [gradient / 2 for gradient in gradients]

    with opened(tiny(tmp_path / "run", *partial(run, *PARTS["blocks"]))) as training:
        accelerator, parts = training.accelerator, training.parts
    for module, norm in ((parts.learner, 10.0), (parts.teacher, 4.0)):
        learning = [parameter for _, parameter in trained_parameters(module)]
        size = norm / sum(parameter.numel() for parameter in learning) ** 0.5
        for parameter in learning:
            parameter.grad = torch.full_like(parameter, size)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(accelerator, "reduce", reduce)
    monkeypatch.setattr(accelerator, "clip_grad_norm_", torch.nn.utils.clip_grad_norm_)
    found = clip_gradients(parts.learner, parts.teacher, limit=limit, accelerator=accelerator)
    assert found.item() == pytest.approx(10.0, rel=1e-3)
    for module, wanted in ((parts.learner, student), (parts.teacher, teacher)):
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_two_processes_are_one(accumulate: str, run: Path, tmp_path: Path):
    settings = ("optim.steps=20", *CROPS, *partial(run, *PARTS["all four"]), f"optim.accumulate={accumulate}")
    two = start_ranks(words(tmp_path / "two", *settings))
    trained(tmp_path / "one", *settings)
    assert ended(two) == [0, 0]
    assert worst(tmp_path / "two", tmp_path / "one") < 1e-5


RUN = "teacher.kind=partial teacher.checkpoint=run "
HEAD = RUN + "teacher.trainable=[head] "
MEANINGLESS = [
    (RUN, "teacher.trainable"),
    ("teacher.trainable=[head]", "teacher.trainable"),
    ("teacher.last_k=1", "teacher.last_k"),
    ("teacher.rank=1", "teacher.rank"),
    ("teacher.alpha=1", "teacher.alpha"),
    ("teacher.lr_scale=0.5", "teacher.lr_scale"),
    ("teacher.kind=frozen teacher.checkpoint=run teacher.loss_weight=0.5", "teacher.loss_weight"),
    (HEAD + "teacher.last_k=1", "teacher.last_k"),
    (HEAD + "teacher.rank=1", "teacher.rank"),
    (HEAD + "teacher.alpha=1", "teacher.alpha"),
    (RUN + "teacher.trainable=[blocks]", "teacher.last_k"),
    (RUN + "teacher.trainable=[adapters]", "teacher.rank"),
    (HEAD + "objective.patch.target=features", "objective.patch.target"),
    ("teacher.kind=partial teacher.trainable=[head]", "teacher.checkpoint"),
    ("teacher.kind=partial teacher.trainable=[norms] teacher.model=timm:x teacher.weights=x", "teacher.trainable"),
    (HEAD + "teacher.model=timm:x teacher.weights=x", "teacher.model"),
    (HEAD + "teacher.scope=head", "teacher.scope"),
    (HEAD + "objective.patch.supervise=none", "objective.patch.supervise"),
]


@pytest.mark.parametrize(("settings", "key"), MEANINGLESS, ids=lambda text: text)
def test_settings_that_mean_nothing_for_a_partial_teacher_are_refused(settings: str, key: str):
    with pytest.raises(InvalidCombination) as caught:
        load_recipe("ibotpp", settings.split())
    assert key in caught.value.keys


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_scale": 0.0},
        {"loss_weight": -1.0},
        {"last_k": -1},
        {"rank": -1},
        {"alpha": 0.0},
        {"trainable": ("head", "head")},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict):
    with pytest.raises(InvalidValue):
        Teacher(**wrong)


def test_more_last_blocks_than_the_teacher_has_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"teacher.last_k is 3, but the teacher has 2 blocks"):
        compose(tiny(tmp_path, *partial(run, "teacher.trainable=[blocks]", "teacher.last_k=3")))


def test_through_the_whole_objective_the_teacher_gets_the_gradient_of_the_definition(run: Path, tmp_path: Path):
    settings = partial(run, *PARTS["all four"], "teacher.loss_weight=0.5", "objective.contrastive.weight=0")
    with opened(tiny(tmp_path / "run", *CROPS, *settings, "objective.cls.weight=0.7")) as training:
        parts, batch = training.parts, next(training.stream)
    learner, teacher, prototypes = parts.learner, parts.teacher, parts.recipe.objective.prototypes

    def logits(tokens: Tensor, head: nn.Module, temperature: float) -> Tensor:
        return head(tokens) @ head.prototypes().T / temperature

    predictions, targets = learner(batch), teacher.targets(batch, None)
    terms = parts.objective.transfer.prototypes
    kinds = {  # weight of the loss, the student's tokens, the teacher's for them, the centre
        "patch": (
            2.0,
            predictions.masked.patches,
            targets.tokens.patches,
            terms.patch_balance.centre,
        ),
        "cls": (
            0.7,
            predictions.local_cls,
            targets.tokens.cls[:, 0],
            terms.cls_balance.centre,
        ),
    }
    loss = torch.zeros(())
    for weight, student, taught, centre in kinds.values():
        wanted = logits(taught, teacher.heads.patch, prototypes.teacher_temperature)
        wanted = (wanted - centre / prototypes.teacher_temperature).softmax(-1)
        logs = logits(student, learner.heads.patch, prototypes.student_temperature).log_softmax(-1)
        loss = loss - weight * (wanted * logs).sum(-1).mean()
    learning = [parameter for _, parameter in trained_parameters(teacher)]
    expected = torch.autograd.grad(loss, learning, retain_graph=True)
    got = parts.objective(predictions, targets, hidden=batch.hidden, heads=learner.heads, progress=1.0).total
    torch.testing.assert_close(got, loss, rtol=1e-5, atol=0)
    found = torch.autograd.grad(got, learning)
    # Measured worst case: 4e-7.
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - 0.5 * theirs).norm() <= 4e-6 * theirs.norm().clamp(min=1e-4)
